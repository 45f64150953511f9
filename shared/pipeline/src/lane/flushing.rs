//! Decides which open batches a lane flushes, and when. Flushes them.

use tokio::time::Instant;

use super::Lane;
use super::open::Open;
use crate::batch::FlushReason;
use crate::dead_letter::DeadLetters;
use crate::metrics::FlushLabels;
use crate::shared::Shared;
use crate::suspects::{self, Note, Work};
use crate::write::{Closed, Entry};
use crate::{Event, Sink, Transform, panics};

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Returns the time when the lane must wake up by itself. The reasons are a due batch, an idle
    /// input, a delayed nack, the end of a short lease, or the heartbeat.
    ///
    /// While all writes are busy, a due batch keeps growing until one of them ends.
    pub(super) fn wake_at(&mut self) -> Instant {
        let mut wake_at = Instant::now() + self.heartbeat.interval();
        if let Some(delayed) = self.delayed_nacks.front() {
            wake_at = wake_at.min(delayed.due);
        }
        if let Some(give_up_at) = self.give_up_at {
            wake_at = wake_at.min(give_up_at);
        }
        if self.can_flush() && !self.open.is_empty() {
            let now = Instant::now();
            let mut due = self.clock.next();
            if due.is_some_and(|due| due <= now) {
                // A batch that is due but still open waits for an ordered write of its key. The end
                // of that write wakes the lane.
                due = self.clock.next_after(now);
            }
            wake_at = due.map_or(wake_at, |due| wake_at.min(due));
            let idle = self.last_accepted + self.shared.limits.batch.max_idle;
            if idle > Instant::now() {
                wake_at = wake_at.min(idle);
            }
        }
        wake_at
    }

    /// Flushes the batches that are due.
    pub(super) fn flush_due(&mut self) {
        let mut blocked = Vec::new();
        while self.can_flush() {
            let Some(due) = self.clock.pop_due() else { break };
            let is_ordered = self.open.get(&due.key).is_some_and(|open| open.is_ordered);
            if self.can_write(is_ordered, &due.key) {
                self.flush_unless_late(&due.key, due.reason);
            } else {
                blocked.push(due);
            }
        }
        blocked.into_iter().for_each(|due| self.clock.push(due));
    }

    /// Flushes the open batches when no more messages come in.
    pub(super) async fn flush_idle(&mut self) {
        let max_idle = self.shared.limits.batch.max_idle;
        if self.open.is_empty() || !self.can_flush() {
            return;
        }
        if max_idle.is_zero() {
            // Gives the source one chance to deliver more. Batches grow, and nothing waits.
            tokio::task::yield_now().await;
        }
        if self.is_input_empty() && self.last_accepted.elapsed() >= max_idle {
            self.flush_all(FlushReason::Idle);
        }
    }

    /// Flushes all open batches, the largest first, as long as writes are free.
    pub(super) fn flush_all(&mut self, reason: FlushReason) {
        while self.flush_largest(reason).is_some() {}
    }

    /// Flushes the largest batches while the open batches of all lanes together use too much memory.
    /// A lane without an open batch asks the other lanes.
    pub(super) fn flush_for_memory(&mut self) {
        if !self.shared.memory.is_over() {
            self.has_called_for_memory = false;
        } else if self.open.is_empty() && !self.has_called_for_memory {
            self.has_called_for_memory = true;
            self.shared.in_flight.call_for_room();
        }
        while self.shared.memory.is_short() && self.flush_largest(FlushReason::Memory).is_some() {}
        let used = i64::try_from(self.shared.memory.used()).unwrap_or(i64::MAX);
        self.shared.metrics.batch_memory.set(used);
    }

    /// Flushes the largest batches because intake waits for room.
    ///
    /// Flushes at least one batch, and enough of them to hold a sixteenth of the lane's share of the
    /// messages in flight. Flushing one of many small batches would free almost nothing for the time
    /// of its write.
    pub(super) fn flush_for_intake(&mut self) {
        let Shared { in_flight, limits, .. } = &*self.shared;
        // Without originals, batches hold none of the bytes in flight. Flushing one helps only if
        // the number of messages is at its limit.
        if !S::KEEPS_ORIGINALS && !in_flight.is_full() {
            return;
        }
        let wanted = limits.max_messages_in_flight / limits.lane_count() / 16;
        let mut freed = 0;
        while let Some(messages) = self.flush_largest(FlushReason::Memory) {
            freed += messages;
            if freed >= wanted {
                return;
            }
        }
    }

    /// Flushes the largest batch that can be written now. Returns its number of messages.
    ///
    /// Flushing the largest first frees the most memory with each write. It also gives the fewest
    /// and largest objects.
    fn flush_largest(&mut self, reason: FlushReason) -> Option<usize> {
        if !self.can_flush() {
            return None;
        }
        let can_write = |key: &S::Key, open: &Open<S, E>| self.can_write(open.is_ordered, key);
        let (key, messages) = self.open.largest(can_write)?;
        self.flush_unless_late(&key, reason);
        Some(messages)
    }

    /// Flushes a batch, or hands its messages back if it is too late for a write.
    ///
    /// A late batch must not take the place of a write. Otherwise the others would become late too,
    /// and nothing would ever be written.
    ///
    /// A batch that is full is flushed even if it is late. The message that found it full comes behind
    /// those in it, so it must not go into another batch while they are nacked.
    fn flush_unless_late(&mut self, key: &S::Key, reason: FlushReason) {
        if self.open.get(key).is_some_and(Open::is_late) {
            self.nack_open_later(key, "lease");
        } else {
            self.flush(key, reason);
        }
    }

    /// Closes a batch and starts its write, or queues it until a write is free.
    ///
    /// Returns the number of messages that must be put into batches again. It is above zero only
    /// after a panic.
    pub(super) fn flush(&mut self, key: &S::Key, reason: FlushReason) -> usize {
        let Some(mut open) = self.remove_open(key) else { return 0 };
        self.shared.metrics.flushed.get_or_create(&FlushLabels { cause: reason }).inc();
        self.shared.metrics.batch_records.observe(open.entries.len() as f64);
        let note = self.note(open.entries.iter().map(Entry::fingerprint), Work::Compute);
        let (sink, batch, state) = (&self.shared.sink, open.batch, &mut self.sink_state);
        let encode = || panics::catch("encode batch", || sink.encode(batch, state));
        let encoded = match suspects::during(note.as_ref(), encode) {
            Ok(encoded) => encoded,
            Err(error) => {
                self.sink_state = self.shared.sink.lane_state();
                return self.lose_closed(open.entries, &error);
            }
        };
        open.reservation.leave();
        self.closed.push_back(Closed {
            key: key.clone(),
            encoded,
            entries: open.entries,
            reservation: open.reservation,
            bytes: open.bytes,
            is_ordered: open.is_ordered,
            note: note.map(Note::written),
        });
        self.start_writes();
        0
    }

    /// Removes the open batch of a key from the lane.
    pub(super) fn remove_open(&mut self, key: &S::Key) -> Option<Open<S, E>> {
        let open = self.open.remove(key)?;
        self.clock.stop(open.started);
        self.shared.metrics.open_batches.dec();
        Some(open)
    }

    pub(super) fn is_input_empty(&self) -> bool {
        self.input.as_ref().is_none_or(tokio::sync::mpsc::Receiver::is_empty)
    }
}
