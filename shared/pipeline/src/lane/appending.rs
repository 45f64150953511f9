//! Adds records to the open batches of a lane.

use std::sync::Arc;

use super::Lane;
use super::open::Open;
use crate::batch::FlushReason;
use crate::dead_letter::DeadLetters;
use crate::intake::Tracked;
use crate::lease_plan::LeasePlan;
use crate::suspects::{self, Work};
use crate::write::Entry;
use crate::{Event, PushError, Sink, Transform, panics};

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Adds a record to the open batch of its key. Flushes the batch when it reaches a limit.
    pub(super) fn append(&mut self, tracked: Tracked<E>, mut record: T::Record) {
        let note = self.note([tracked.handle.fingerprint], Work::Compute);
        let choose = || panics::catch("choose batch", || self.shared.sink.key(&record));
        let key = match suspects::during(note.as_ref(), choose) {
            Ok(key) => key,
            Err(error) => return self.refuse(tracked, error),
        };
        let max_batch = usize::try_from(tracked.handle.max_batch).unwrap_or(usize::MAX);
        let max_messages = self.shared.limits.batch.max_messages.min(max_batch);
        let open = self.open.get_mut(&key);
        let mut full =
            open.is_some_and(|open| open.is_full_for(max_messages)).then_some(FlushReason::Count);
        loop {
            if let Some(reason) = full.take() {
                let lost = self.flush(&key, reason);
                if lost != 0 {
                    // The sink panicked. The messages of the batch come before this one.
                    return self.lost.insert(lost, tracked);
                }
            }
            let offer = || self.offer(&key, record, max_messages);
            match suspects::during(note.as_ref(), offer) {
                Ok(()) => return self.add_entry(&key, tracked),
                Err(PushError::Full(back)) => {
                    record = back;
                    full = Some(FlushReason::Bytes);
                }
                Err(PushError::Refused(error)) => {
                    if self.open.get(&key).is_some_and(|open| open.entries.is_empty()) {
                        let _empty = self.remove_open(&key);
                    }
                    return self.refuse(tracked, error);
                }
            }
        }
    }

    /// Offers a record to the open batch of its key.
    ///
    /// After a panic the batch may hold half of the record. The batch is then discarded and rebuilt
    /// from the other messages.
    fn offer(
        &mut self,
        key: &S::Key,
        record: T::Record,
        max_messages: usize,
    ) -> Result<(), PushError<T::Record>> {
        let shared = Arc::clone(&self.shared);
        if !self.open.contains(key) {
            let open = || (shared.sink.open(key), shared.sink.key_bytes(key));
            let opened = panics::catch("open batch", open);
            let (batch, key_bytes) = opened.map_err(PushError::Refused)?;
            let started = self.clock.start(key, shared.limits.batch.max_age);
            shared.metrics.open_batches.inc();
            let mut open = Open::new(batch, key_bytes, shared.memory.reserve(), started);
            open.max_messages = max_messages;
            self.open.insert(key, open);
        }
        let Some(open) = self.open.get_mut(key) else { return Ok(()) };
        let (batch, state) = (&mut open.batch, &mut self.sink_state);
        match panics::catch("push record", || shared.sink.push(batch, record, state)) {
            Ok(bytes) => {
                open.bytes = bytes?;
                Ok(())
            }
            Err(error) => {
                self.sink_state = shared.sink.lane_state();
                self.lose_open(key);
                Err(PushError::Refused(error))
            }
        }
    }

    /// Adds the message of a record that was appended. Flushes the batch if it has reached a limit.
    fn add_entry(&mut self, key: &S::Key, tracked: Tracked<E>) {
        let limits = &self.shared.limits.batch;
        let Some(open) = self.open.get_mut(key) else { return };
        open.is_ordered |= !tracked.message.ordering_key().is_empty();
        let lease = LeasePlan::of(&tracked.handle.settlement);
        open.add(Entry::new(tracked, S::KEEPS_ORIGINALS));
        let is_full = open.entries.len() >= open.max_messages;
        let is_large = open.bytes >= limits.max_bytes;
        // A short lease makes no batch late. Its message is nacked alone, when its time comes.
        if let LeasePlan::Long { end } = lease {
            open.note_lease(end, self.shared.limits.attempt_timeout);
        }
        if let Some(at) = lease.write_at(&self.shared.limits)
            && at < open.started.due_at
        {
            open.started = self.clock.hasten(open.started, at);
        }
        self.open.measure(key);
        self.note_short_lease(lease);
        if is_full {
            self.flush(key, FlushReason::Count);
        } else if is_large {
            self.flush(key, FlushReason::Bytes);
        }
    }
}
