//! Reads under way: one per key, however many messages wait for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Entry;

/// What a waiter gets: the entry, or that the source could not be asked.
pub(super) type Outcome = Option<Entry>;

#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Arc<str>, Flight>>);

#[derive(Debug, Default)]
struct Flight {
    waiters: Vec<oneshot::Sender<Outcome>>,
    /// The key was invalidated: what this flight brings must not be kept.
    is_invalid: bool,
}

impl Flights {
    /// Waits for the read of a key; true where the caller must start it.
    pub(super) fn join(&self, key: &Arc<str>) -> (oneshot::Receiver<Outcome>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut flights = self.lock();
        let slot = flights.entry(Arc::clone(key));
        let is_first = matches!(slot, Slot::Vacant(_));
        slot.or_default().waiters.push(sender);
        (receiver, is_first)
    }

    /// Notes the read of a key that nobody waits for; false where it is under way already.
    pub(super) fn begin(&self, key: &Arc<str>) -> bool {
        match self.lock().entry(Arc::clone(key)) {
            Slot::Occupied(_) => false,
            Slot::Vacant(slot) => {
                slot.insert(Flight::default());
                true
            }
        }
    }

    /// Answers those who wait for a key and lets `keep` keep the entry, if that is still right. The
    /// read stays noted.
    pub(super) fn answer(&self, key: &str, entry: &Entry, keep: impl FnOnce()) {
        let mut flights = self.lock();
        let Some(flight) = flights.get_mut(key) else { return };
        // Under the lock, so that an invalidation comes before or after, never in between.
        if !flight.is_invalid {
            keep();
        }
        for waiter in std::mem::take(&mut flight.waiters) {
            // One who has given up in the meantime needs no answer.
            drop(waiter.send(Some(entry.clone())));
        }
    }

    /// Ends the read of a key: who still waits learns that it failed. True where what it brought
    /// must not be kept.
    pub(super) fn land(&self, key: &str) -> bool {
        let Some(flight) = self.lock().remove(key) else { return false };
        for waiter in flight.waiters {
            drop(waiter.send(None));
        }
        flight.is_invalid
    }

    /// Says that what the read of a key brings must not be kept.
    pub(super) fn invalidate(&self, key: &str) {
        if let Some(flight) = self.lock().get_mut(key) {
            flight.is_invalid = true;
        }
    }

    /// Says that what any read under way brings must not be kept.
    pub(super) fn invalidate_all(&self) {
        self.lock().values_mut().for_each(|flight| flight.is_invalid = true);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
