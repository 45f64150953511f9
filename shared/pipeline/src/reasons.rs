//! Reasons of this crate.

crate::reasons! {
    /// Reasons of dead letters of every service, because any stage of any service can have a bug.
    EVERY_SERVICE {
        /// A stage panicked over the message.
        PANICKED = "panicked";
        /// The message was being processed at several unclean process ends in a row.
        CRASHED = "crashed";
    }
    /// Reasons of dead letters of services that read envelopes.
    ENVELOPE {
        /// The data is not an envelope, and the settings ask for one.
        NOT_AN_ENVELOPE = "not_an_envelope";
    }
}
