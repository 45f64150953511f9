//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters of services that publish with [`Sink`](crate::Sink).
    SINK {
        /// The message is larger than Pub/Sub takes.
        MESSAGE_TOO_LARGE = "message_too_large";
        /// The message has more attributes than Pub/Sub takes.
        TOO_MANY_ATTRIBUTES = "too_many_attributes";
        /// The name or the value of an attribute is empty or longer than Pub/Sub takes.
        ATTRIBUTE_INVALID = "attribute_invalid";
        /// The ordering key is longer than Pub/Sub takes.
        ORDERING_KEY_TOO_LONG = "ordering_key_too_long";
        /// The message has neither data nor attributes.
        EMPTY_MESSAGE = "empty_message";
        /// Pub/Sub refuses the message as an invalid argument.
        PUBLISH_INVALID = "publish_invalid";
    }
    /// Reasons of the dead-letter tool. They are only printed: no message leaves a stream for them.
    REPLAY {
        /// A dead letter does not hold the whole message.
        NOT_REPLAYABLE = "not_replayable";
    }
}
