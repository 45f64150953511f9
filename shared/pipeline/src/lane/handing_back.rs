//! Nacks messages, after a delay, and keeps the order of those behind them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use super::order::{self, Keyed, Order};
use crate::dead_letter::DeadLetters;
use crate::metrics::Metrics;
use crate::{Sink, Transform, write};

impl<T, S, D> Lane<T, S, D>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    /// Nacks the batches of a key that hold messages behind a nacked one.
    pub(super) fn hand_back_behind(&mut self, key: &S::Key) {
        let must_follow = |order: &Order, entries: &[write::Entry]| {
            let mut keyed = entries.iter().filter_map(write::Entry::keyed);
            keyed.any(|message| order.awaits(&message.ordering_key, message.sequence))
        };
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for closed in std::mem::take(&mut self.waiting) {
            if closed.key == *key && must_follow(&self.order, &closed.entries) {
                closed.entries.into_iter().for_each(|entry| self.hand_back(entry, "order"));
            } else {
                kept.push_back(closed);
            }
        }
        self.waiting = kept;
        if self.open.get(key).is_some_and(|open| must_follow(&self.order, &open.entries)) {
            self.hand_back_open(key, "order");
        }
    }

    /// Nacks all messages of an open batch and discards their records.
    pub(super) fn hand_back_open(&mut self, key: &S::Key, reason: &'static str) {
        let Some(open) = self.take_open(key) else { return };
        open.entries.into_iter().for_each(|entry| self.hand_back(entry, reason));
    }

    /// Nacks the messages that were held long enough, in order. The source redelivers messages in
    /// the order of their nacks.
    pub(super) fn release_held(&mut self) {
        let now = Instant::now();
        while self.held.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, entry)) = self.held.pop_front()
        {
            entry.nack();
            self.shared.gauge();
        }
    }

    /// Nacks a message because of another message, after a delay.
    ///
    /// The delay is longer for messages whose deliveries are counted. After it, the next arrival is
    /// certainly a redelivery, not a copy that was already on its way. So the message uses
    /// up only one attempt.
    pub(super) fn hand_back(&mut self, entry: write::Entry, reason: &'static str) {
        let more = if entry.counts_attempts() { order::REDELIVERY } else { Duration::ZERO };
        let due = Instant::now() + write::HOLD + more;
        if let Some(keyed) = entry.keyed() {
            self.order.handed_back(keyed, due);
        }
        Metrics::count(&self.shared.metrics.nacked, reason, 1);
        self.held.push_back((due, entry));
    }

    /// Records ordered messages that were just nacked.
    pub(super) fn handed_back(&mut self, messages: Vec<Keyed>) {
        let now = Instant::now();
        messages.into_iter().for_each(|message| self.order.handed_back(message, now));
    }
}
