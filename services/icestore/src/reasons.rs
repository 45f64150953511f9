//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// No line of the archive can hold the message, or its batch key cannot be a folder.
        NOT_ARCHIVABLE = "not_archivable";
        /// The time of the message is outside the range of the format.
        TIME_OUT_OF_RANGE = "time_out_of_range";
    }
}
