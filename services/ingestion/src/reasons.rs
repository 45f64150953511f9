//! Reasons of this crate.

pipeline::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// No route matches the topic.
        NO_ROUTE = "no_route";
        /// The properties of the message exceed their limits, and were dropped.
        PROPERTIES_TOO_LARGE = "properties_too_large";
    }
    /// Reasons of messages that are only acknowledged.
    SKIPPED {
        /// The message is retained, and the settings drop those.
        RETAINED = "retained";
    }
}
