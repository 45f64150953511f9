//! The clocks of a lane's open batches.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::FlushReason;

/// Due times of the open batches, one for each batch.
#[derive(Debug)]
pub(super) struct Clock<K> {
    /// Sorted by time and generation, so that batches that are due together are closed in the order
    /// they were opened.
    due: BTreeMap<(Instant, u64), Due<K>>,
    generation: u64,
}

/// Due time of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Started {
    pub generation: u64,
    pub due_at: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Due<K> {
    pub started: Started,
    pub key: K,
    pub reason: FlushReason,
}

impl<K> Default for Clock<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), generation: 0 }
    }
}

impl<K: Clone> Clock<K> {
    /// Sets the due time of a new batch.
    pub(super) fn start(&mut self, key: &K, max_age: Duration) -> Started {
        self.generation += 1;
        let started = Started { generation: self.generation, due_at: Instant::now() + max_age };
        self.push(Due { started, key: key.clone(), reason: FlushReason::Age });
        started
    }

    /// Makes a batch due earlier, because the lease of a message ends then.
    pub(super) fn hasten(&mut self, started: Started, due_at: Instant) -> Started {
        let hastened = Started { due_at, ..started };
        if let Some(due) = self.due.remove(&(started.due_at, started.generation)) {
            self.push(Due { started: hastened, reason: FlushReason::Lease, ..due });
        }
        hastened
    }

    /// Forgets the due time of a batch that is closed.
    pub(super) fn stop(&mut self, started: Started) {
        self.due.remove(&(started.due_at, started.generation));
    }

    /// Puts back a batch that is due but cannot be written yet.
    pub(super) fn push(&mut self, due: Due<K>) {
        self.due.insert((due.started.due_at, due.started.generation), due);
    }

    /// Earliest due time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Earliest due time after `now`.
    pub(super) fn next_after(&self, now: Instant) -> Option<Instant> {
        self.due.range((now, u64::MAX)..).next().map(|((at, _), _)| *at)
    }

    /// Removes and returns the earliest batch that is due.
    pub(super) fn pop_due(&mut self) -> Option<Due<K>> {
        if self.next()? > Instant::now() {
            return None;
        }
        self.due.pop_first().map(|(_, due)| due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_closed_is_not_due_and_the_next_one_of_its_key_is_later() {
        let mut clock = Clock::default();
        let first = clock.start(&"key", SECOND);
        tokio::time::advance(SECOND / 2).await;
        clock.stop(first);
        let second = clock.start(&"key", SECOND);
        tokio::time::advance(SECOND / 2).await;
        assert!(clock.pop_due().is_none());

        tokio::time::advance(SECOND / 2).await;

        let due = clock.pop_due().map(|due| (due.started, due.reason));
        assert_eq!(due, Some((second, FlushReason::Age)));
        assert!(clock.pop_due().is_none(), "one time for each batch");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_makes_a_batch_due_earlier() {
        let mut clock = Clock::default();
        let started = clock.start(&"key", 10 * SECOND);

        let hastened = clock.hasten(started, started.due_at - 9 * SECOND);
        tokio::time::advance(SECOND).await;

        let due = clock.pop_due().map(|due| (due.started, due.reason));
        assert_eq!(due, Some((hastened, FlushReason::Lease)));
        assert_eq!(clock.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_due_and_cannot_be_written_does_not_hide_the_next() {
        let mut clock = Clock::default();
        for (key, age) in [("blocked", 1), ("next", 3), ("last", 4)] {
            clock.start(&key, age * SECOND);
        }
        tokio::time::advance(SECOND).await;
        let blocked = clock.pop_due().unwrap();
        clock.push(blocked);
        let now = Instant::now();

        assert_eq!(clock.next(), Some(now));
        assert_eq!(clock.next_after(now), Some(now + 2 * SECOND));
        assert_eq!(clock.next_after(now + 3 * SECOND), None);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_that_are_due_together_are_closed_in_their_order() {
        let mut clock = Clock::default();
        for key in 0..10 {
            clock.start(&key, SECOND);
        }
        tokio::time::advance(SECOND).await;

        let closed: Vec<_> = std::iter::from_fn(|| clock.pop_due()).map(|due| due.key).collect();

        assert_eq!(closed, Vec::from_iter(0..10));
    }
}
