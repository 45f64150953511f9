//! Reads under way: one per key, however many messages wait for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Entry;

/// What a waiter gets: the entry, or that the source could not be asked.
pub(super) type Outcome = Option<Entry>;

/// The reads that a message may join, by key.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Arc<str>, Arc<Flight>>>);

/// The read of a key. An invalidated one goes on for those who wait for it already.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiters: Vec<oneshot::Sender<Outcome>>,
    /// What was read so far.
    answer: Outcome,
    /// Layers have been asked: what they say may be older than an invalidation from now on.
    has_started: bool,
}

impl Flights {
    /// Waits for the read of a key. Where none is noted yet it is now, and the caller must start it.
    pub(super) fn join(&self, key: &Arc<str>) -> (oneshot::Receiver<Outcome>, Option<Arc<Flight>>) {
        let (sender, receiver) = oneshot::channel();
        let mut flights = self.lock();
        let (flight, is_new) = match flights.entry(Arc::clone(key)) {
            Slot::Occupied(slot) => (Arc::clone(slot.get()), false),
            Slot::Vacant(slot) => (Arc::clone(slot.insert(Flight::of(key))), true),
        };
        // Under the lock: once it is given up, the read may land and ask nobody any more.
        flight.wait(sender);
        (receiver, is_new.then_some(flight))
    }

    /// Notes the read of a key that nobody waits for; `None` where one is noted already.
    pub(super) fn begin(&self, key: &Arc<str>) -> Option<Arc<Flight>> {
        match self.lock().entry(Arc::clone(key)) {
            Slot::Occupied(_) => None,
            Slot::Vacant(slot) => Some(Arc::clone(slot.insert(Flight::of(key)))),
        }
    }

    /// Says that layers are asked from now on.
    pub(super) fn start(&self, started: &[Arc<Flight>]) {
        let _flights = self.lock();
        for flight in started {
            flight.lock().has_started = true;
        }
    }

    /// Answers those who wait for a read and lets `keep` keep the entry, if that is still right. The
    /// read stays noted. True where the entry was kept.
    pub(super) fn answer(&self, flight: &Arc<Flight>, entry: &Entry, keep: impl FnOnce()) -> bool {
        let flights = self.lock();
        let is_valid = is_noted(&flights, flight);
        // Under the lock, so that an invalidation comes before or after, never in between.
        if is_valid {
            keep();
        }
        flight.answer(entry);
        is_valid
    }

    /// Ends a read that has not started, with an entry that is known already; `None` where `find` finds
    /// none, and the read stays noted.
    pub(super) fn end_with(
        &self,
        flight: &Arc<Flight>,
        find: impl FnOnce() -> Option<Entry>,
    ) -> Option<Entry> {
        let mut flights = self.lock();
        // Under the lock: who comes after an invalidation must not join a read that is answered with what
        // was found before.
        let entry = find()?;
        if is_noted(&flights, flight) {
            flights.remove(&flight.key);
        }
        flight.answer(&entry);
        Some(entry)
    }

    /// Ends a read: who still waits learns that it failed. True where what it brought must not be kept.
    pub(super) fn land(&self, flight: &Arc<Flight>) -> bool {
        let mut flights = self.lock();
        let is_valid = is_noted(&flights, flight);
        if is_valid {
            flights.remove(&flight.key);
        }
        flight.give_up();
        !is_valid
    }

    /// Says that what the read of a key brings must not be kept. Who comes from now on has the key read
    /// again.
    ///
    /// A read that has not started brings what holds afterwards, so it stays.
    pub(super) fn invalidate(&self, key: &str) {
        let mut flights = self.lock();
        if flights.get(key).is_some_and(|flight| flight.lock().has_started) {
            flights.remove(key);
        }
    }

    /// Says that what any read under way brings must not be kept.
    pub(super) fn invalidate_all(&self) {
        self.lock().retain(|_, flight| !flight.lock().has_started);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this very read is the one to join.
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(waiter: oneshot::Sender<Outcome>, outcome: Outcome) {
    // One who has given up in the meantime needs no answer.
    drop(waiter.send(outcome));
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
