//! Messages of a session that have no PUBACK yet, in the order of their PUBLISHes.

use std::collections::VecDeque;

use crate::content::Message;
use crate::tally::Times;

/// Message without a PUBACK.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Packet id of the PUBLISH.
    pub packet_id: u16,
    /// The message, for further attempts.
    pub message: Message,
    /// Times for its latencies.
    pub times: Times,
}

/// Messages without a PUBACK.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: VecDeque<Waiting>,
    last_id: u16,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns a packet id that no waiting message has. There must be one.
    pub(super) fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            if self.waiting.iter().all(|one| one.packet_id != id) {
                return id;
            }
        }
    }

    pub(super) fn push(&mut self, one: Waiting) {
        self.waiting.push_back(one);
    }

    /// Takes the message of a PUBACK out. PUBACKs come in order, so it is usually the first.
    pub(super) fn take(&mut self, packet_id: u16) -> Option<Waiting> {
        let place = self.waiting.iter().position(|one| one.packet_id == packet_id)?;
        self.waiting.remove(place)
    }

    /// Returns all messages in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::Instant;

    use super::*;

    fn waiting(packet_id: u16) -> Waiting {
        let now = Instant::now();
        let (address, payload) = (String::new(), Bytes::new());
        let message = Message { number: 0, address, payload, properties: None, time: None };
        Waiting { packet_id, message, times: Times { planned: now, sent: now } }
    }

    #[test]
    fn an_id_is_used_again_only_when_it_is_free() {
        let mut pending = Pending { last_id: u16::MAX - 1, ..Pending::default() };
        for _ in 0..3 {
            let packet_id = pending.free_id();
            pending.push(waiting(packet_id));
        }

        assert!(pending.take(1).is_some());
        assert!(pending.take(1).is_none(), "a second PUBACK");
        pending.last_id = u16::MAX - 1;
        assert_eq!(pending.free_id(), 1, "the largest id and 2 wait");
        let ids: Vec<_> = pending.iter().map(|one| one.packet_id).collect();
        assert_eq!(ids, [u16::MAX, 2]);
    }
}
