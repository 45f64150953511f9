//! Identity of a message with an ordering key.

use crate::Event;

/// Identity of a message that has an ordering key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyed {
    pub ordering_key: String,
    /// Message id. Empty if the transport has no ids.
    pub id: String,
    /// Position among the messages of the lane; the lane assigns it.
    pub sequence: u64,
}

impl Keyed {
    /// Returns the identity of a message with this sequence number, or `None` if it has no ordering
    /// key.
    pub(crate) fn of(event: &impl Event, sequence: u64) -> Option<Self> {
        let (ordering_key, id) = (event.ordering_key(), event.id());
        (!ordering_key.is_empty()).then(|| Self {
            ordering_key: ordering_key.to_owned(),
            id: id.to_owned(),
            sequence,
        })
    }
}
