//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// BigQuery refuses the request for its size, even with one row.
        REQUEST_TOO_LARGE = "request_too_large";
    }
}
