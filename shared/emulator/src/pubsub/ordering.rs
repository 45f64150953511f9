//! The queue of a subscription that keeps the order within each ordering key.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::delivery::Pending;

/// Messages that wait for a delivery.
///
/// Those of one key go out in order and to one stream at a time. When one of them has to be
/// delivered again, so do all later ones of its key.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Next>,
    keys: HashMap<String, Key>,
}

#[derive(Debug)]
enum Next {
    Message(Pending),
    /// The first message of this key.
    OfKey(String),
}

#[derive(Debug, Default)]
struct Key {
    queue: VecDeque<Pending>,
    /// Sequence numbers and acknowledgement numbers of what is out.
    out: BTreeMap<u64, u64>,
    stream: u64,
    is_ready: bool,
}

impl Queue {
    /// Adds a new message at the end. An ordered subscription passes `is_ordered`.
    pub(super) fn push(&mut self, pending: Pending, is_ordered: bool) {
        let key = &pending.message.ordering_key;
        if !is_ordered || key.is_empty() {
            self.ready.push_back(Next::Message(pending));
            return;
        }
        let name = key.clone();
        let key = self.keys.entry(name.clone()).or_default();
        key.queue.push_back(pending);
        if !key.is_ready {
            key.is_ready = true;
            self.ready.push_back(Next::OfKey(name));
        }
    }

    /// The next message for a stream, which must be told to [`Queue::sent`] at once.
    pub(super) fn pop(&mut self, stream: u64) -> Option<Pending> {
        for _ in 0..self.ready.len() {
            let name = match self.ready.pop_front()? {
                Next::Message(pending) => return Some(pending),
                Next::OfKey(name) => name,
            };
            let Some(key) = self.keys.get_mut(&name) else { continue };
            key.is_ready = false;
            if !key.out.is_empty() && key.stream != stream {
                // Ready again when the other stream has settled its messages.
                continue;
            }
            let Some(pending) = key.queue.pop_front() else { continue };
            key.stream = stream;
            if !key.queue.is_empty() {
                key.is_ready = true;
                self.ready.push_front(Next::OfKey(name));
            }
            return Some(pending);
        }
        None
    }

    /// Puts a popped message back to the front: it was too large for now.
    pub(super) fn unpop(&mut self, pending: Pending, is_ordered: bool) {
        if is_ordered && !pending.message.ordering_key.is_empty() {
            self.restore(vec![pending]);
        } else {
            self.ready.push_front(Next::Message(pending));
        }
    }

    /// What waits, in no order.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        let single = self.ready.iter().filter_map(|next| match next {
            Next::Message(pending) => Some(pending),
            Next::OfKey(_) => None,
        });
        single.chain(self.keys.values().flat_map(|key| &key.queue))
    }

    /// Takes all that waits, in no order. Nothing of a key may be out.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        let Self { ready, keys } = std::mem::take(self);
        let single = ready.into_iter().filter_map(|next| match next {
            Next::Message(pending) => Some(pending),
            Next::OfKey(_) => None,
        });
        single.chain(keys.into_values().flat_map(|key| key.queue)).collect()
    }

    /// Notes that a message of a key is out.
    pub(super) fn sent(&mut self, key: &str, sequence: u64, ack: u64) {
        if let Some(key) = self.keys.get_mut(key) {
            key.out.insert(sequence, ack);
        }
    }

    /// Notes that a message of a key is settled.
    pub(super) fn settled(&mut self, name: &str, sequence: u64) {
        let Some(key) = self.keys.get_mut(name) else { return };
        key.out.remove(&sequence);
        if !key.out.is_empty() {
            return;
        }
        if key.queue.is_empty() {
            self.keys.remove(name);
        } else if !key.is_ready {
            key.is_ready = true;
            self.ready.push_back(Next::OfKey(name.to_owned()));
        }
    }

    /// The acknowledgement numbers of what is out of a key after this message, which must all be
    /// restored with it.
    pub(super) fn later(&self, name: &str, sequence: u64) -> Vec<u64> {
        let key = self.keys.get(name);
        key.map(|key| key.out.range(sequence + 1..).map(|(_, ack)| *ack).collect())
            .unwrap_or_default()
    }

    /// Puts messages of one key back to its front, in their order.
    pub(super) fn restore(&mut self, mut pending: Vec<Pending>) {
        pending.sort_unstable_by_key(|pending| std::cmp::Reverse(pending.message.sequence));
        let Some(name) = pending.first().map(|first| first.message.ordering_key.clone()) else {
            return;
        };
        let key = self.keys.entry(name.clone()).or_default();
        for pending in pending {
            key.out.remove(&pending.message.sequence);
            key.queue.push_front(pending);
        }
        if !key.is_ready {
            key.is_ready = true;
            self.ready.push_back(Next::OfKey(name));
        }
    }
}
