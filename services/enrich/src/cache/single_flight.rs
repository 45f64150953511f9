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
pub(super) struct SingleFlight(Mutex<HashMap<Arc<str>, Arc<KeyRead>>>);

/// Read of one key. After an invalidation, it continues for those that already wait for it.
#[derive(Debug)]
pub(super) struct KeyRead {
    pub(super) key: Arc<str>,
    state: Mutex<ReadState>,
}

#[derive(Debug, Default)]
struct ReadState {
    waiters: Vec<oneshot::Sender<Outcome>>,
    /// Result so far.
    answer: Outcome,
    /// True once layers have been asked. From then on, their answers may be older than an
    /// invalidation.
    has_started: bool,
}

impl SingleFlight {
    /// Adds a waiter for the read of a key, and returns its receiver. If no read of this key is
    /// registered, it registers one and returns it too. The caller must start it then.
    pub(super) fn join(
        &self,
        key: &Arc<str>,
    ) -> (oneshot::Receiver<Outcome>, Option<Arc<KeyRead>>) {
        let (sender, receiver) = oneshot::channel();
        let mut reads = self.lock();
        let (read, is_new) = match reads.entry(Arc::clone(key)) {
            Slot::Occupied(slot) => (Arc::clone(slot.get()), false),
            Slot::Vacant(slot) => (Arc::clone(slot.insert(KeyRead::of(key))), true),
        };
        // This must happen under the lock. Without the lock, the read could end before the waiter
        // is added, and never answer it.
        read.wait(sender);
        (receiver, is_new.then_some(read))
    }

    /// Registers the read of a key without a waiter. Returns `None` if a read is registered
    /// already.
    pub(super) fn start(&self, key: &Arc<str>) -> Option<Arc<KeyRead>> {
        match self.lock().entry(Arc::clone(key)) {
            Slot::Occupied(_) => None,
            Slot::Vacant(slot) => Some(Arc::clone(slot.insert(KeyRead::of(key)))),
        }
    }

    /// Records that layers are asked from now on.
    pub(super) fn mark_started(&self, started: &[Arc<KeyRead>]) {
        let _reads = self.lock();
        for read in started {
            read.lock().has_started = true;
        }
    }

    /// Answers the waiters of a read. If the read is still registered, it also calls `keep` to
    /// store the entry. The read stays registered. Returns true if the entry was stored.
    pub(super) fn answer(&self, read: &Arc<KeyRead>, entry: &Entry, keep: impl FnOnce()) -> bool {
        let reads = self.lock();
        let is_valid = is_registered(&reads, read);
        // This happens under the lock, so an invalidation comes either before or after it.
        if is_valid {
            keep();
        }
        read.answer(entry);
        is_valid
    }

    /// Ends a read that has not started, with an entry that is known already. If `find` returns no
    /// entry, it returns `None` and the read stays registered.
    pub(super) fn complete_with(
        &self,
        read: &Arc<KeyRead>,
        find: impl FnOnce() -> Option<Entry>,
    ) -> Option<Entry> {
        let mut reads = self.lock();
        // This happens under the lock. A message that arrives after an invalidation must not join a
        // read that is answered with an entry from before it.
        let entry = find()?;
        if is_registered(&reads, read) {
            reads.remove(&read.key);
        }
        read.answer(&entry);
        Some(entry)
    }

    /// Ends a read. Remaining waiters learn that it failed. Returns true if the result must not be
    /// kept.
    pub(super) fn complete(&self, read: &Arc<KeyRead>) -> bool {
        let mut reads = self.lock();
        let is_valid = is_registered(&reads, read);
        if is_valid {
            reads.remove(&read.key);
        }
        read.give_up();
        !is_valid
    }

    /// Marks the running read of a key as invalid, so its result is not kept. Messages that arrive
    /// later cause a new read.
    ///
    /// A read that has not started will see the state after the invalidation, so it stays.
    pub(super) fn invalidate(&self, key: &str) {
        let mut reads = self.lock();
        if reads.get(key).is_some_and(|read| read.lock().has_started) {
            reads.remove(key);
        }
    }

    /// Marks all running reads as invalid, so their results are not kept.
    pub(super) fn invalidate_all(&self) {
        self.lock().retain(|_, read| !read.lock().has_started);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<KeyRead>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether exactly this read is the registered one.
fn is_registered(reads: &HashMap<Arc<str>, Arc<KeyRead>>, read: &Arc<KeyRead>) -> bool {
    reads.get(&read.key).is_some_and(|registered| Arc::ptr_eq(registered, read))
}

impl KeyRead {
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

    fn lock(&self) -> MutexGuard<'_, ReadState> {
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
        let (reads, key) = (SingleFlight::default(), "d1".into());
        let read = reads.start(&key).unwrap();
        reads.mark_started(&[Arc::clone(&read)]);
        assert!(reads.answer(&read, &entry(), || ()));

        let (mut late, is_first) = reads.join(&key);
        assert!(!reads.complete(&read));

        assert!(is_first.is_none());
        assert_eq!(late.try_recv(), Ok(Some(entry())));
    }

    #[test]
    fn who_comes_after_an_invalidation_waits_for_another_read() {
        let (reads, key) = (SingleFlight::default(), "d1".into());
        let (mut early, old) = reads.join(&key);
        let old = old.unwrap();
        reads.mark_started(&[Arc::clone(&old)]);

        reads.invalidate(&key);
        let (mut late, new) = reads.join(&key);
        let is_kept = reads.answer(&old, &entry(), || panic!("an old document is kept"));

        assert!(!is_kept);
        assert!(reads.complete(&old), "it was invalidated");
        assert_eq!(early.try_recv(), Ok(Some(entry())));
        assert!(late.try_recv().is_err(), "it waits");
        assert!(!reads.complete(&new.unwrap()));
        assert_eq!(late.try_recv(), Ok(None));
    }

    #[test]
    fn nobody_joins_a_read_while_it_is_answered_with_what_is_known() {
        let (reads, key) = (SingleFlight::default(), "d1".into());
        let (mut early, read) = reads.join(&key);
        let read = read.unwrap();

        assert_eq!(reads.complete_with(&read, || None), None);
        assert!(reads.start(&key).is_none(), "the read stays registered");
        let found = reads.complete_with(&read, || {
            assert!(reads.0.try_lock().is_err(), "an invalidation waits");
            Some(entry())
        });
        reads.invalidate(&key);

        assert_eq!((found, early.try_recv()), (Some(entry()), Ok(Some(entry()))));
        assert!(reads.start(&key).is_some(), "who comes now waits for another read");
    }

    #[test]
    fn a_read_that_has_not_started_outlives_an_invalidation() {
        let (reads, key) = (SingleFlight::default(), "d1".into());
        let read = reads.start(&key).unwrap();

        reads.invalidate(&key);
        reads.invalidate_all();

        assert!(reads.start(&key).is_none());
        assert!(!reads.complete(&read));
    }
}
