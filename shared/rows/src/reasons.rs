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
    }
}
