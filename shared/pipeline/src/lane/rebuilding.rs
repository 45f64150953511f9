//! Rebuilds a batch that was lost in a panic, from the messages that did not cause the panic.
//!
//! Nacking these messages would not help. After a single nack, a source such as MQTT redelivers
//! everything in the same order. The same batch would panic again, forever. Instead they are
//! transformed again, one after another. No other record is appended before theirs, so their order
//! is kept.

use std::sync::Arc;

use super::Lane;
use super::transforming::Transformed;
use crate::dead_letter::DeadLetters;
use crate::reasons::PANICKED;
use crate::write::{Entry, GivenUp, Writer};
use crate::{Error, Event, Sink, Transform};

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    pub(super) fn is_rebuilding(&self) -> bool {
        !self.lost.is_empty() || !self.rebuilding.is_empty()
    }

    /// Discards the open batch of a key and the records of its messages.
    pub(super) fn lose_open(&mut self, key: &S::Key) {
        let Some(open) = self.remove_open(key) else { return };
        self.lose(open.entries);
    }

    /// Takes the messages of a batch whose closing panicked. Returns how many of them are queued.
    ///
    /// Each message gets its own batch, so the next panic shows which message caused it. A message
    /// that was alone in its batch is rejected at once. So are messages without their originals.
    pub(super) fn lose_closed(&mut self, mut entries: Vec<Entry<E>>, error: &Error) -> usize {
        if S::KEEPS_ORIGINALS && entries.len() > 1 {
            entries.iter_mut().for_each(Entry::isolate);
            return self.lose(entries);
        }
        let (shared, detail) = (Arc::clone(&self.shared), error.detail());
        self.leaving.push(Box::pin(async move {
            let entries = entries.into_iter();
            let reason = PANICKED;
            let panicked = entries.map(|entry| GivenUp { entry, reason, detail: detail.clone() });
            Writer::new(&shared).dead_letter_all(panicked).await;
            Vec::new()
        }));
        0
    }

    /// Queues messages before those that were lost earlier. Returns how many were queued. Messages
    /// without their originals are nacked.
    fn lose(&mut self, entries: Vec<Entry<E>>) -> usize {
        let mut place = 0;
        for entry in entries {
            match entry.into_tracked() {
                Ok(tracked) => {
                    self.lost.insert(place, tracked);
                    place += 1;
                }
                Err(entry) => self.nack_later(*entry, PANICKED.as_str()),
            }
        }
        place
    }

    /// Starts the transform of the next lost message.
    pub(super) fn rebuild(&mut self) {
        while self.rebuilding.is_empty()
            && self.can_append()
            && let Some(tracked) = self.lost.pop_front()
        {
            if tracked.handle.settlement.is_current() {
                self.rebuilding.push(self.transform_future(tracked));
            } else {
                self.nack_later(Entry::new(tracked, false), "stale");
            }
        }
    }

    /// Ends the transform of a lost message.
    pub(super) fn on_rebuilt(&mut self, rebuilt: Transformed<T::Record, E>) {
        // Later messages of its ordering key are parked behind another message, which resumes them.
        let _ordering_key = self.finish_transform(rebuilt);
    }
}
