//! The open batches of a lane, indexed by key and by size.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Started;
use crate::bound::Reservation;
use crate::write::Entry;
use crate::{Event, Sink};

/// A batch that still grows.
pub(super) struct Open<S: Sink, E> {
    pub batch: S::Batch,
    pub reservation: Reservation,
    pub entries: Vec<Entry<E>>,
    /// Encoded bytes.
    pub bytes: usize,
    /// Bytes that the settlements of its messages hold elsewhere.
    held_bytes: usize,
    /// Bytes that each copy of its key holds on the heap.
    key_bytes: usize,
    /// Due time of the batch, because of its age or a lease.
    pub started: Started,
    /// Time after which a write would probably end after the lease of a message.
    late_at: Option<Instant>,
    pub max_messages: usize,
    pub is_ordered: bool,
}

impl<S: Sink, E: Event> Open<S, E> {
    /// Creates an empty batch. `key_bytes` is the size of its key on the heap.
    pub(super) fn new(
        batch: S::Batch,
        key_bytes: usize,
        reservation: Reservation,
        started: Started,
    ) -> Self {
        Self {
            batch,
            reservation,
            entries: Vec::new(),
            bytes: 0,
            held_bytes: 0,
            key_bytes,
            started,
            late_at: None,
            max_messages: usize::MAX,
            is_ordered: false,
        }
    }

    /// Notes the end of a message's lease. A write needs an attempt's time before it, but at most a
    /// quarter of what is left of the lease.
    pub(super) fn note_lease(&mut self, lease_end: Instant, attempt_timeout: Duration) {
        let left = lease_end.saturating_duration_since(Instant::now());
        let late_at = lease_end - attempt_timeout.min(left / 4);
        self.late_at = Some(self.late_at.map_or(late_at, |earlier| earlier.min(late_at)));
    }

    /// Returns true if it is too late for a write.
    pub(super) fn is_late(&self) -> bool {
        self.late_at.is_some_and(|late_at| late_at <= Instant::now())
    }

    /// Lowers the limit of messages to `max_messages`. Returns true if the batch has no room for
    /// another message.
    pub(super) fn is_full_for(&mut self, max_messages: usize) -> bool {
        self.max_messages = self.max_messages.min(max_messages);
        self.entries.len() >= self.max_messages
    }

    /// Adds a message whose record was appended.
    pub(super) fn add(&mut self, entry: Entry<E>) {
        if self.entries.len() == self.entries.capacity() {
            // Grows by an eighth, because there may be thousands of batches.
            self.entries.reserve_exact(4 + self.entries.len() / 8);
        }
        self.held_bytes += entry.held_bytes();
        self.entries.push(entry);
    }

    /// Returns the memory that the batch uses.
    ///
    /// If originals are kept, the bound on messages in flight covers everything except the records.
    /// Otherwise the batch counts all that is left of its messages.
    fn memory(&self) -> usize {
        if S::KEEPS_ORIGINALS {
            return self.bytes;
        }
        // The index by size and the clock hold copies of the key.
        let own = size_of::<Self>() + 3 * (size_of::<S::Key>() + self.key_bytes);
        let entries = self.entries.capacity() * size_of::<Entry<E>>();
        self.bytes + self.held_bytes + own + entries
    }
}

/// All open batches of a lane.
pub(super) struct OpenBatches<S: Sink, E> {
    by_key: HashMap<S::Key, Open<S, E>>,
    /// Sorted by memory. Of batches with equal memory the oldest is the last.
    by_size: BTreeMap<(usize, Reverse<u64>), S::Key>,
}

impl<S: Sink, E> Default for OpenBatches<S, E> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), by_size: BTreeMap::new() }
    }
}

impl<S: Sink, E: Event> OpenBatches<S, E> {
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn get(&self, key: &S::Key) -> Option<&Open<S, E>> {
        self.by_key.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &S::Key) -> Option<&mut Open<S, E>> {
        self.by_key.get_mut(key)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Open<S, E>> {
        self.by_key.values_mut()
    }

    pub(super) fn contains(&self, key: &S::Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// Adds an empty batch. Its key must not have an open batch.
    pub(super) fn insert(&mut self, key: &S::Key, open: Open<S, E>) {
        self.by_size
            .insert((open.reservation.bytes(), Reverse(open.started.generation)), key.clone());
        self.by_key.insert(key.clone(), open);
    }

    pub(super) fn remove(&mut self, key: &S::Key) -> Option<Open<S, E>> {
        let open = self.by_key.remove(key)?;
        self.by_size.remove(&(open.reservation.bytes(), Reverse(open.started.generation)));
        Some(open)
    }

    /// Updates the memory of a batch after a record was appended.
    pub(super) fn measure(&mut self, key: &S::Key) {
        let Some(open) = self.by_key.get_mut(key) else { return };
        let (before, now) = (open.reservation.bytes(), open.memory());
        if before == now {
            return;
        }
        open.reservation.resize(now);
        let generation = Reverse(open.started.generation);
        let key = self.by_size.remove(&(before, generation)).unwrap_or_else(|| key.clone());
        self.by_size.insert((now, generation), key);
    }

    /// Returns the key of the largest batch that `is_wanted` accepts, and its number of messages.
    pub(super) fn largest(
        &self,
        is_wanted: impl Fn(&S::Key, &Open<S, E>) -> bool,
    ) -> Option<(S::Key, usize)> {
        let batches = self.by_size.values().rev();
        let mut batches = batches.filter_map(|key| Some((key, self.by_key.get(key)?)));
        let (key, open) = batches.find(|(key, open)| is_wanted(key, open))?;
        Some((key.clone(), open.entries.len()))
    }
}
