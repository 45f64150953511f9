//! Reasons of the test doubles.

crate::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// A [`MemorySink`](super::MemorySink) refuses the record.
        REFUSED_RECORD = "refused";
        /// A [`MemorySink`](super::MemorySink) refuses the record, for another reason.
        MALFORMED = "malformed";
        /// The record is larger than a batch.
        TOO_LARGE = "too_large";
        /// The record makes the [`MemorySink`](super::MemorySink) refuse its batch.
        POISON = "poison";
        /// An attempt fails permanently, by [`Fault::Permanent`](super::Fault::Permanent).
        REJECTED = "rejected";
    }
    /// Reasons of messages that are only acknowledged.
    SKIPPED {
        /// The transform makes no record of the message.
        SKIPPED_MESSAGE = "skipped";
    }
}
