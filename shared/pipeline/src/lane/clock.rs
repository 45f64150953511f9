//! The clocks of a lane's open batches.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Cause;

/// When each open batch is due. Batches that were closed earlier are skipped when their time comes.
#[derive(Debug)]
pub(super) struct Clock<K> {
    due: BinaryHeap<Reverse<Due<K>>>,
    generation: u64,
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
        Self { due: BinaryHeap::new(), generation: 0 }
    }
}

impl<K: Clone> Clock<K> {
    /// Starts the clock of a new batch and returns the batch's generation.
    pub(super) fn start(&mut self, key: &K, max_age: Duration) -> u64 {
        self.generation += 1;
        let at = Instant::now() + max_age;
        self.push(Due { at, generation: self.generation, key: key.clone(), cause: Cause::Age });
        self.generation
    }

    /// Adds a time at which a batch is due.
    pub(super) fn push(&mut self, due: Due<K>) {
        self.due.push(Reverse(due));
    }

    /// The earliest time of a batch that `is_live`.
    pub(super) fn next(&mut self, is_live: impl Fn(&Due<K>) -> bool) -> Option<Instant> {
        while let Some(Reverse(due)) = self.due.peek() {
            if is_live(due) {
                return Some(due.at);
            }
            self.due.pop();
        }
        None
    }

    /// Takes the earliest batch that is due and `is_live`.
    pub(super) fn pop_due(&mut self, is_live: impl Fn(&Due<K>) -> bool) -> Option<Due<K>> {
        let at = self.next(is_live)?;
        if at > Instant::now() {
            return None;
        }
        self.due.pop().map(|Reverse(due)| due)
    }

    /// Forgets closed batches when they outnumber the `live` ones by far.
    pub(super) fn compact(&mut self, live: usize, is_live: impl Fn(&Due<K>) -> bool) {
        if self.due.len() > 256 + 4 * live {
            self.due.retain(|Reverse(due)| is_live(due));
        }
    }
}

impl<K> Ord for Due<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.generation).cmp(&(other.at, other.generation))
    }
}

impl<K> PartialOrd for Due<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K> Eq for Due<K> {}
