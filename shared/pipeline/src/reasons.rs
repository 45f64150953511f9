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
    /// Reasons of messages that are only acknowledged, because of the size of their payload.
    PAYLOAD_SIZE {
        /// The payload is smaller than the minimum.
        PAYLOAD_TOO_SMALL = "payload_too_small";
        /// The payload is larger than the maximum.
        PAYLOAD_TOO_LARGE = "payload_too_large";
    }
}
