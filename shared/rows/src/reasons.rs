//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters of services that write rows.
    REFUSED {
        /// The payload is not JSON, and no column takes it.
        PAYLOAD_UNREADABLE = "payload_unreadable";
        /// A value does not fit its column.
        ROW_TYPE_MISMATCH = "row_type_mismatch";
        /// A required value is missing.
        ROW_MISSING_VALUE = "row_missing_value";
        /// The row alone is larger than a request may be.
        ROW_TOO_LARGE = "row_too_large";
        /// The database refuses the row for its values.
        ROW_REFUSED = "row_refused";
    }
}
