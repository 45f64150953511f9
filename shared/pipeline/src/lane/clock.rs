//! The clocks of a lane's open batches.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Cause;

/// When each open batch is due. Batches that were closed earlier are skipped when their time comes.
#[derive(Debug)]
pub(super) struct Clock<K> {
    /// By time and generation, so that batches that are due together are closed in their order.
    due: BTreeMap<(Instant, u64), Due<K>>,
    generation: u64,
}

/// Clock of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    pub generation: u64,
    pub due_at: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Due<K> {
    pub at: Instant,
    pub generation: u64,
    pub key: K,
    pub cause: Cause,
}

impl<K> Default for Clock<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), generation: 0 }
    }
}

impl<K: Clone> Clock<K> {
    /// Starts the clock of a new batch.
    pub(super) fn start(&mut self, key: &K, max_age: Duration) -> Started {
        self.generation += 1;
        let (generation, at) = (self.generation, Instant::now() + max_age);
        self.push(Due { at, generation, key: key.clone(), cause: Cause::Age });
        Started { generation, due_at: at }
    }

    /// Adds a time at which a batch is due. Of two causes at one time the first counts.
    pub(super) fn push(&mut self, due: Due<K>) {
        self.due.entry((due.at, due.generation)).or_insert(due);
    }

    /// The earliest time of a batch that `is_live`.
    pub(super) fn next(&mut self, is_live: impl Fn(&Due<K>) -> bool) -> Option<Instant> {
        while let Some(due) = self.due.first_entry() {
            if is_live(due.get()) {
                return Some(due.get().at);
            }
            due.remove();
        }
        None
    }

    /// The earliest time after `now` of a batch that `is_live`.
    pub(super) fn next_after(
        &self,
        now: Instant,
        is_live: impl Fn(&Due<K>) -> bool,
    ) -> Option<Instant> {
        let later = self.due.range((now, u64::MAX)..);
        later.map(|(_, due)| due).find(|due| is_live(due)).map(|due| due.at)
    }

    /// Takes the earliest batch that is due and `is_live`.
    pub(super) fn pop_due(&mut self, is_live: impl Fn(&Due<K>) -> bool) -> Option<Due<K>> {
        let at = self.next(is_live)?;
        if at > Instant::now() {
            return None;
        }
        self.due.pop_first().map(|(_, due)| due)
    }

    /// Forgets closed batches when they outnumber the `live` ones by far.
    pub(super) fn compact(&mut self, live: usize, is_live: impl Fn(&Due<K>) -> bool) {
        if self.due.len() > 256 + 4 * live {
            self.due.retain(|_, due| is_live(due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_batch_of_a_key_has_its_own_clock() {
        let mut clock = Clock::default();
        let first = clock.start(&"key", SECOND).generation;
        tokio::time::advance(SECOND / 2).await;
        let second = clock.start(&"key", SECOND).generation;
        tokio::time::advance(SECOND / 2).await;

        let due = clock.pop_due(|due| due.generation == second);

        assert!(first != second && due.is_none(), "the first batch was closed earlier");
        tokio::time::advance(SECOND / 2).await;
        let due = clock.pop_due(|due| due.generation == second).map(|due| due.cause);
        assert_eq!(due, Some(Cause::Age));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_due_and_cannot_be_written_does_not_hide_the_next() {
        let mut clock = Clock::default();
        for (key, age) in [("blocked", 1), ("closed", 2), ("next", 3), ("last", 4)] {
            clock.start(&key, age * SECOND);
        }
        tokio::time::advance(SECOND).await;
        let now = Instant::now();

        assert_eq!(clock.next(|_| true), Some(now));
        assert_eq!(clock.next_after(now, |due| due.key != "closed"), Some(now + 2 * SECOND));
        assert_eq!(clock.next_after(now + 3 * SECOND, |_| true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_that_are_due_together_are_closed_in_their_order() {
        let mut clock = Clock::default();
        for key in 0..10 {
            clock.start(&key, SECOND);
        }
        tokio::time::advance(SECOND).await;

        let closed: Vec<_> =
            std::iter::from_fn(|| clock.pop_due(|_| true)).map(|due| due.key).collect();

        assert_eq!(closed, Vec::from_iter(0..10));
    }

    #[tokio::test(start_paused = true)]
    async fn closed_batches_are_forgotten_when_they_are_many() {
        let mut clock = Clock::default();
        let (open, rest) = (10, 256 + 4 * 10);
        for key in 0..rest {
            clock.start(&key, SECOND);
        }

        clock.compact(open, |due| due.key < open);
        assert_eq!(clock.due.len(), rest);

        clock.start(&rest, SECOND);
        clock.compact(open, |due| due.key < open);
        assert_eq!(clock.due.len(), open);
    }
}
