//! Running reads. There is one read per key, and all messages with this key wait for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Entry;

/// Result for a waiter: the entry, or `None` if the source could not be asked.
pub(super) type Outcome = Option<Entry>;

/// Reads that a message may join, by key.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Arc<str>, Arc<Flight>>>);

/// Read of one key. After an invalidation, it continues for those that already wait for it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: Arc<str>,
    state: Mutex<FlightState>,
}

#[derive(Debug, Default)]
struct FlightState {
    waiters: Vec<oneshot::Sender<Outcome>>,
    /// Result so far.
    answer: Outcome,
    /// True once layers have been asked. From then on, their answers may be older than an
    /// invalidation.
    has_started: bool,
}

impl Flights {
    /// Adds a waiter for the read of a key, and returns its receiver. If no read of this key is
    /// registered, it registers one and returns it too. The caller must start it then.
    pub(super) fn join(&self, key: &Arc<str>) -> (oneshot::Receiver<Outcome>, Option<Arc<Flight>>) {
        let (sender, receiver) = oneshot::channel();
        let mut flights = self.lock();
        let (flight, is_new) = match flights.entry(Arc::clone(key)) {
            Slot::Occupied(slot) => (Arc::clone(slot.get()), false),
            Slot::Vacant(slot) => (Arc::clone(slot.insert(Flight::of(key))), true),
        };
        // This must happen under the lock. Without the lock, the read could end before the waiter
        // is added, and never answer it.
        flight.wait(sender);
        (receiver, is_new.then_some(flight))
    }

    /// Registers the read of a key without a waiter. Returns `None` if a read is registered
    /// already.
    pub(super) fn begin(&self, key: &Arc<str>) -> Option<Arc<Flight>> {
        match self.lock().entry(Arc::clone(key)) {
            Slot::Occupied(_) => None,
            Slot::Vacant(slot) => Some(Arc::clone(slot.insert(Flight::of(key)))),
        }
    }

    /// Records that layers are asked from now on.
    pub(super) fn start(&self, started: &[Arc<Flight>]) {
        let _flights = self.lock();
        for flight in started {
            flight.lock().has_started = true;
        }
    }

    /// Answers the waiters of a read. If the read is still registered, it also calls `keep` to
    /// store the entry. The read stays registered. Returns true if the entry was stored.
    pub(super) fn answer(&self, flight: &Arc<Flight>, entry: &Entry, keep: impl FnOnce()) -> bool {
        let flights = self.lock();
        let is_valid = is_noted(&flights, flight);
        // This happens under the lock, so an invalidation comes either before or after it.
        if is_valid {
            keep();
        }
        flight.answer(entry);
        is_valid
    }

    /// Ends a read that has not started, with an entry that is known already. If `find` returns no
    /// entry, it returns `None` and the read stays registered.
    pub(super) fn end_with(
        &self,
        flight: &Arc<Flight>,
        find: impl FnOnce() -> Option<Entry>,
    ) -> Option<Entry> {
        let mut flights = self.lock();
        // This happens under the lock. A message that arrives after an invalidation must not join a
        // read that is answered with an entry from before it.
        let entry = find()?;
        if is_noted(&flights, flight) {
            flights.remove(&flight.key);
        }
        flight.answer(&entry);
        Some(entry)
    }

    /// Ends a read. Remaining waiters learn that it failed. Returns true if the result must not be
    /// kept.
    pub(super) fn land(&self, flight: &Arc<Flight>) -> bool {
        let mut flights = self.lock();
        let is_valid = is_noted(&flights, flight);
        if is_valid {
            flights.remove(&flight.key);
        }
        flight.give_up();
        !is_valid
    }

    /// Marks the running read of a key as invalid, so its result is not kept. Messages that arrive
    /// later cause a new read.
    ///
    /// A read that has not started will see the state after the invalidation, so it stays.
    pub(super) fn invalidate(&self, key: &str) {
        let mut flights = self.lock();
        if flights.get(key).is_some_and(|flight| flight.lock().has_started) {
            flights.remove(key);
        }
    }

    /// Marks all running reads as invalid, so their results are not kept.
    pub(super) fn invalidate_all(&self) {
        self.lock().retain(|_, flight| !flight.lock().has_started);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether exactly this read is the registered one.
fn is_noted(flights: &HashMap<Arc<str>, Arc<Flight>>, flight: &Arc<Flight>) -> bool {
    flights.get(&flight.key).is_some_and(|noted| Arc::ptr_eq(noted, flight))
}

impl Flight {
    fn of(key: &Arc<str>) -> Arc<Self> {
        Arc::new(Self { key: Arc::clone(key), state: Mutex::default() })
    }

    fn wait(&self, waiter: oneshot::Sender<Outcome>) {
        let mut state = self.lock();
        match &state.answer {
            Some(entry) => send(waiter, Some(entry.clone())),
            None => state.waiters.push(waiter),
        }
    }

    fn answer(&self, entry: &Entry) {
        let mut state = self.lock();
        state.answer = Some(entry.clone());
        for waiter in std::mem::take(&mut state.waiters) {
            send(waiter, Some(entry.clone()));
        }
    }

    fn give_up(&self) {
        for waiter in std::mem::take(&mut self.lock().waiters) {
            send(waiter, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(waiter: oneshot::Sender<Outcome>, outcome: Outcome) {
    // A waiter that has given up meanwhile needs no answer.
    let _ = waiter.send(outcome);
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn entry() -> Entry {
        Entry { document: None, read_at: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn who_comes_after_the_answer_gets_it_too() {
        let (flights, key) = (Flights::default(), "d1".into());
        let flight = flights.begin(&key).unwrap();
        flights.start(&[Arc::clone(&flight)]);
        assert!(flights.answer(&flight, &entry(), || ()));

        let (mut late, is_first) = flights.join(&key);
        assert!(!flights.land(&flight));

        assert!(is_first.is_none());
        assert_eq!(late.try_recv(), Ok(Some(entry())));
    }

    #[test]
    fn who_comes_after_an_invalidation_waits_for_another_read() {
        let (flights, key) = (Flights::default(), "d1".into());
        let (mut early, old) = flights.join(&key);
        let old = old.unwrap();
        flights.start(&[Arc::clone(&old)]);

        flights.invalidate(&key);
        let (mut late, new) = flights.join(&key);
        let is_kept = flights.answer(&old, &entry(), || panic!("an old document is kept"));

        assert!(!is_kept);
        assert!(flights.land(&old), "it was invalidated");
        assert_eq!(early.try_recv(), Ok(Some(entry())));
        assert!(late.try_recv().is_err(), "it waits");
        assert!(!flights.land(&new.unwrap()));
        assert_eq!(late.try_recv(), Ok(None));
    }

    #[test]
    fn nobody_joins_a_read_while_it_is_answered_with_what_is_known() {
        let (flights, key) = (Flights::default(), "d1".into());
        let (mut early, flight) = flights.join(&key);
        let flight = flight.unwrap();

        assert_eq!(flights.end_with(&flight, || None), None);
        assert!(flights.begin(&key).is_none(), "the read stays noted");
        let found = flights.end_with(&flight, || {
            assert!(flights.0.try_lock().is_err(), "an invalidation waits");
            Some(entry())
        });
        flights.invalidate(&key);

        assert_eq!((found, early.try_recv()), (Some(entry()), Ok(Some(entry()))));
        assert!(flights.begin(&key).is_some(), "who comes now waits for another read");
    }

    #[test]
    fn a_read_that_has_not_started_outlives_an_invalidation() {
        let (flights, key) = (Flights::default(), "d1".into());
        let flight = flights.begin(&key).unwrap();

        flights.invalidate(&key);
        flights.invalidate_all();

        assert!(flights.begin(&key).is_none());
        assert!(!flights.land(&flight));
    }
}
