//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters, and of messages that are only acknowledged. The setting
    /// `on_missing` decides between the two.
    MISSING {
        /// There is no document for the message.
        DOCUMENT_MISSING = "document_missing";
    }
}
