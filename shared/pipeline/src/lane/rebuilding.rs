//! Builds a batch again that was lost in a panic, from the messages that are not to blame.
//!
//! They are not handed back: a source such as MQTT delivers everything again after a single nack, in the
//! same order, so the same batch would panic again, forever. They are transformed again one after
//! another, and nothing else joins a batch before them, so their order is kept.

use std::sync::Arc;

use super::Lane;
use super::transforming::Transformed;
use crate::dead_letter::DeadLetters;
use crate::write::{self, Entry};
use crate::{Error, Sink, Transform, panics};

impl<T, S, D> Lane<T, S, D>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    pub(super) fn is_rebuilding(&self) -> bool {
        !self.lost.is_empty() || !self.rebuilding.is_empty()
    }

    /// Throws away the open batch of a key, and what was made of its messages.
    pub(super) fn lose_open(&mut self, key: &S::Key) {
        let Some(open) = self.take_open(key) else { return };
        self.lose(open.entries);
    }

    /// Takes the messages of a batch over which the sink panicked when it was closed. Which of them is to
    /// blame shows when each has a batch of its own. Returns how many are queued for that.
    pub(super) fn lose_closed(&mut self, mut entries: Vec<Entry>, error: &Error) -> usize {
        if S::KEEPS_ORIGINALS && entries.len() > 1 {
            entries.iter_mut().for_each(Entry::isolate);
            return self.lose(entries);
        }
        let (shared, detail) = (Arc::clone(&self.shared), error.detail());
        self.leaving.push(Box::pin(async move {
            let entries = entries.into_iter();
            let panicked = entries.map(|entry| (entry, panics::PANICKED, detail.clone()));
            write::bury_all(&shared, panicked).await;
            Vec::new()
        }));
        0
    }

    /// Queues messages before those that were lost earlier, and returns how many. Without their originals
    /// they are handed back.
    fn lose(&mut self, entries: Vec<Entry>) -> usize {
        let mut place = 0;
        for entry in entries {
            match entry.into_parcel() {
                Ok(parcel) => {
                    self.lost.insert(place, parcel);
                    place += 1;
                }
                Err(entry) => self.hand_back(*entry, panics::PANICKED),
            }
        }
        place
    }

    /// Starts with the next lost message.
    pub(super) fn rebuild(&mut self) {
        while self.rebuilding.is_empty()
            && self.can_join()
            && let Some(parcel) = self.lost.pop_front()
        {
            if parcel.duty.settlement.is_current() {
                self.rebuilding.push(self.transform(parcel));
            } else {
                self.hand_back(Entry::new(parcel, false), "stale");
            }
        }
    }

    pub(super) fn rebuilt(&mut self, rebuilt: Transformed<T::Record>) {
        // Those behind it on its ordering key are parked with a message that came later.
        let _ordering_key = self.take_record(rebuilt);
    }
}
