//! Nacks messages, after a delay, and keeps the order of those behind them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use super::open::Open;
use super::order::{self, Order};
use crate::bound::Reservation;
use crate::dead_letter::DeadLetters;
use crate::keyed::Keyed;
use crate::metrics::Metrics;
use crate::write::{self, Entry, Unwritten};
use crate::{Event, Sink, Transform};

/// A message that will be nacked.
pub(super) struct DelayedNack<E> {
    /// Time of the nack.
    pub due: Instant,
    entry: Entry<E>,
    /// Memory of all messages of its batch.
    _reservation: Option<Arc<Reservation>>,
}

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Nacks the batches of a key that hold messages behind a nacked one.
    pub(super) fn nack_later_behind(&mut self, key: &S::Key) {
        let must_follow = |order: &Order, entries: &[Entry<E>]| {
            let mut keyed = entries.iter().filter_map(Entry::keyed);
            keyed.any(|message| order.awaits(&message.ordering_key, message.sequence))
        };
        let mut kept = VecDeque::with_capacity(self.closed.len());
        for closed in std::mem::take(&mut self.closed) {
            if closed.key == *key && must_follow(&self.order, &closed.entries) {
                let write::Closed { entries, reservation, .. } = closed;
                self.nack_all_later(Unwritten { entries, reason: "order", reservation });
            } else {
                kept.push_back(closed);
            }
        }
        self.closed = kept;
        if self.open.get(key).is_some_and(|open| must_follow(&self.order, &open.entries)) {
            self.nack_open_later(key, "order");
        }
    }

    /// Nacks all messages of an open batch and discards their records.
    pub(super) fn nack_open_later(&mut self, key: &S::Key, reason: &'static str) {
        let Some(open) = self.remove_open(key) else { return };
        let Open { entries, reservation, .. } = open;
        self.nack_all_later(Unwritten { entries, reason, reservation });
    }

    /// Nacks the messages of a batch that could not be written. They count as memory of the batch until
    /// then.
    pub(super) fn nack_all_later(&mut self, unwritten: Unwritten<E>) {
        let Unwritten { entries, reason, mut reservation } = unwritten;
        let held_bytes = |entry: &Entry<E>| size_of::<DelayedNack<E>>() + entry.held_bytes();
        let bytes = if S::KEEPS_ORIGINALS { 0 } else { entries.iter().map(held_bytes).sum() };
        reservation.leave();
        reservation.resize(bytes);
        let reservation = Arc::new(reservation);
        for entry in entries {
            self.hold(entry, reason, Some(Arc::clone(&reservation)));
        }
    }

    /// Nacks the messages that were held long enough, in order. The source redelivers messages in
    /// the order of their nacks.
    pub(super) fn send_due_nacks(&mut self) {
        let now = Instant::now();
        while self.delayed_nacks.front().is_some_and(|delayed| delayed.due <= now)
            && let Some(delayed) = self.delayed_nacks.pop_front()
        {
            delayed.entry.nack();
        }
    }

    /// Nacks a message after a delay.
    pub(super) fn nack_later(&mut self, entry: Entry<E>, reason: &'static str) {
        self.hold(entry, reason, None);
    }

    /// Holds a message until its nack is due.
    ///
    /// The delay is longer for messages whose deliveries are counted. After it, the next arrival is
    /// certainly a redelivery, not a copy that was already on its way. So the message uses
    /// up only one attempt.
    fn hold(
        &mut self,
        entry: Entry<E>,
        reason: &'static str,
        reservation: Option<Arc<Reservation>>,
    ) {
        if entry.is_settled() {
            return;
        }
        let more = if entry.counts_attempts() { order::REDELIVERY } else { Duration::ZERO };
        let due = Instant::now() + write::HOLD + more;
        if let Some(keyed) = entry.keyed() {
            self.order.record_nack(keyed, due);
        }
        Metrics::count(&self.shared.metrics.nacked, reason, 1);
        entry.show_nack(&self.shared.shown, reason);
        self.delayed_nacks.push_back(DelayedNack { due, entry, _reservation: reservation });
    }

    /// Records ordered messages that were just nacked.
    pub(super) fn on_nacked(&mut self, messages: Vec<Keyed>) {
        let now = Instant::now();
        messages.into_iter().for_each(|message| self.order.record_nack(message, now));
    }
}
