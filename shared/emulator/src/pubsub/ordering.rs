//! Queue of a subscription that keeps the order within each ordering key.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::wire::Stored;

/// A waiting message, with the number of its deliveries.
#[derive(Debug)]
pub(super) struct Pending {
    pub message: Arc<Stored>,
    pub attempts: u32,
}

/// Messages that wait for delivery.
///
/// Messages of one key are delivered in order, and to one stream at a time. If one of them must be
/// delivered again, all later ones of its key are delivered again, too.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Next>,
    keys: HashMap<String, Key>,
    /// Keys that wait for their back-off, sorted by its end.
    held: BTreeSet<(Instant, String)>,
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
    /// Sequence numbers and acknowledgement numbers of leased messages.
    out: BTreeMap<u64, u64>,
    stream: u64,
    is_ready: bool,
    /// End of the back-off. No message of the key is delivered before.
    held_until: Option<Instant>,
}

impl Key {
    /// Marks the key as ready. Returns false if it is already in the ready queue, or must wait.
    fn becomes_ready(&mut self) -> bool {
        let becomes = !self.is_ready && self.held_until.is_none();
        self.is_ready |= becomes;
        becomes
    }
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
        if key.becomes_ready() {
            self.ready.push_back(Next::OfKey(name));
        }
    }

    /// Returns the next message for a stream. The caller must call [`Queue::sent`] for it at once.
    pub(super) fn pop(&mut self, stream: u64) -> Option<Pending> {
        for _ in 0..self.ready.len() {
            let name = match self.ready.pop_front()? {
                Next::Message(pending) => return Some(pending),
                Next::OfKey(name) => name,
            };
            let Some(key) = self.keys.get_mut(&name) else { continue };
            key.is_ready = false;
            if key.held_until.is_some() || (!key.out.is_empty() && key.stream != stream) {
                // The key becomes ready again after the back-off, or when the other stream has
                // settled its messages.
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

    /// Puts a popped message back to the front because it does not fit into this response.
    pub(super) fn unpop(&mut self, pending: Pending, is_ordered: bool) {
        if is_ordered && !pending.message.ordering_key.is_empty() {
            self.restore(vec![pending], None);
        } else {
            self.ready.push_front(Next::Message(pending));
        }
    }

    /// Returns all waiting messages in no particular order.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        let single = self.ready.iter().filter_map(|next| match next {
            Next::Message(pending) => Some(pending),
            Next::OfKey(_) => None,
        });
        single.chain(self.keys.values().flat_map(|key| &key.queue))
    }

    /// Removes all waiting messages and returns them in no particular order. No message of a key
    /// may be leased.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        let Self { ready, keys, .. } = std::mem::take(self);
        let single = ready.into_iter().filter_map(|next| match next {
            Next::Message(pending) => Some(pending),
            Next::OfKey(_) => None,
        });
        single.chain(keys.into_values().flat_map(|key| key.queue)).collect()
    }

    /// Records that a message of a key is leased.
    pub(super) fn sent(&mut self, key: &str, sequence: u64, ack: u64) {
        if let Some(key) = self.keys.get_mut(key) {
            key.out.insert(sequence, ack);
        }
    }

    /// Records that a message of a key is settled.
    pub(super) fn settled(&mut self, name: &str, sequence: u64) {
        let Some(key) = self.keys.get_mut(name) else { return };
        key.out.remove(&sequence);
        if !key.out.is_empty() {
            return;
        }
        if key.queue.is_empty() {
            self.keys.remove(name);
        } else if key.becomes_ready() {
            self.ready.push_back(Next::OfKey(name.to_owned()));
        }
    }

    /// Returns the acknowledgement numbers of leased messages of a key after this one. All of them
    /// must be restored together with it.
    pub(super) fn later(&self, name: &str, sequence: u64) -> Vec<u64> {
        let key = self.keys.get(name);
        key.map(|key| key.out.range(sequence + 1..).map(|(_, ack)| *ack).collect())
            .unwrap_or_default()
    }

    /// Puts messages of one key back to its front, in their order. No message of the key is
    /// delivered before the end of the back-off, if there is one.
    pub(super) fn restore(&mut self, mut pending: Vec<Pending>, backoff: Option<Instant>) {
        pending.sort_unstable_by_key(|pending| std::cmp::Reverse(pending.message.sequence));
        let Some(name) = pending.first().map(|first| first.message.ordering_key.clone()) else {
            return;
        };
        let key = self.keys.entry(name.clone()).or_default();
        for pending in pending {
            key.out.remove(&pending.message.sequence);
            key.queue.push_front(pending);
        }
        if let Some(end) = backoff {
            key.held_until = Some(end);
            self.held.insert((end, name));
        } else if key.becomes_ready() {
            self.ready.push_back(Next::OfKey(name));
        }
    }

    /// Makes keys ready whose back-off is over.
    pub(super) fn release(&mut self, now: Instant) {
        while self.held.first().is_some_and(|(end, _)| *end <= now) {
            let Some((end, name)) = self.held.pop_first() else { return };
            // Skips a key with a later back-off, and a new key of the same name.
            let key = self.keys.get_mut(&name).filter(|key| key.held_until == Some(end));
            let Some(key) = key else { continue };
            key.held_until = None;
            if key.becomes_ready() {
                self.ready.push_back(Next::OfKey(name));
            }
        }
    }

    /// Returns true if a key waits for its back-off.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::super::proto;
    use super::super::wire::Stored;
    use super::*;

    const STREAM: u64 = 1;

    fn pending(sequence: u64) -> Pending {
        let ordering_key = "key".to_owned();
        let message = proto::PubsubMessage { ordering_key, ..<_>::default() };
        let message = Arc::new(Stored::new(sequence, SystemTime::now(), message));
        Pending { message, attempts: 0 }
    }

    fn pop(queue: &mut Queue) -> Option<u64> {
        queue.pop(STREAM).map(|pending| pending.message.sequence)
    }

    #[test]
    fn nothing_of_a_key_goes_out_before_the_end_of_its_backoff() {
        let mut queue = Queue::default();
        let end = Instant::now() + Duration::from_secs(60);
        queue.push(pending(2), true);

        queue.restore(vec![pending(1)], Some(end));
        queue.push(pending(3), true);
        queue.release(end - Duration::from_secs(1));
        assert_eq!(pop(&mut queue), None);
        assert!(queue.is_holding());
        queue.release(end);

        let all = [(); 4].map(|()| pop(&mut queue));
        assert_eq!(all, [Some(1), Some(2), Some(3), None]);
        assert!(!queue.is_holding());
    }

    #[test]
    fn a_later_backoff_replaces_an_earlier_one() {
        let mut queue = Queue::default();
        let end = Instant::now();
        let later = end + Duration::from_secs(60);

        queue.restore(vec![pending(2)], Some(end));
        queue.restore(vec![pending(1)], Some(later));

        queue.release(end);
        assert_eq!(pop(&mut queue), None);
        queue.release(later);
        assert_eq!(pop(&mut queue), Some(1));
    }
}
