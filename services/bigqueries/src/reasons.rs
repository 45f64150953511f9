//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// The row alone is larger than a request may be.
        ROW_TOO_LARGE = "row_too_large";
        /// BigQuery refuses the row for its values.
        ROW_REFUSED = "row_refused";
        /// BigQuery refuses the request for its size, even with one row.
        REQUEST_TOO_LARGE = "request_too_large";
    }
}
