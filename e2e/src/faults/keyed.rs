//! Messages at a destination, with the id of each.

use crate::reconcile::Arrived;

/// Messages with their ids, in the same order.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    pub(super) ids: Vec<String>,
    pub(super) messages: Vec<Arrived>,
}

impl Keyed {
    /// Adds a message.
    pub(super) fn push(&mut self, id: String, message: Arrived) {
        self.ids.push(id);
        self.messages.push(message);
    }
}
