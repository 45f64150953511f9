use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Verdict;

/// What happened to each message, by its id; clones look at the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

/// The pages of a [`Ledger`].
#[derive(Debug, Default)]
pub struct Book {
    /// Ids in the order in which they became durable, repeats included.
    pub written: Vec<String>,
    /// Ids of each batch that became durable, refused ones included.
    pub batches: Vec<Vec<String>>,
    /// Ids in the dead letters, with their reasons.
    pub buried: HashMap<String, &'static str>,
    /// Ids that were acknowledged.
    pub acked: HashSet<String>,
    /// Ids that were handed back at least once.
    pub nacked: HashSet<String>,
    /// Deliveries without a verdict.
    pub unsettled: usize,
    /// The most deliveries that were ever without a verdict.
    pub most_unsettled: usize,
    /// Ids whose delivery was taken back by the source at the end of its lease.
    pub expired: HashSet<String>,
    /// Verdicts that were lost, because they came after the end of the lease.
    pub late: usize,
    /// Ids that the source gave up after its maximum of deliveries.
    pub forwarded: HashSet<String>,
    /// Ids that may be acked without a record.
    pub droppable: HashSet<String>,
    /// Broken promises, in words.
    pub broken: Vec<String>,
}

impl Ledger {
    /// Opens the book.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delivered(&self) {
        let mut book = self.book();
        book.unsettled += 1;
        book.most_unsettled = book.most_unsettled.max(book.unsettled);
    }

    pub(super) fn settled(&self, id: &str, verdict: Verdict) {
        let mut book = self.book();
        book.unsettled -= 1;
        if verdict == Verdict::Nack {
            book.nacked.insert(id.to_owned());
            return;
        }
        book.check_ack(id);
        book.acked.insert(id.to_owned());
    }

    /// Notes a verdict that the source cannot take any more.
    pub(super) fn settled_late(&self, id: &str, verdict: Verdict) {
        let mut book = self.book();
        book.unsettled -= 1;
        book.late += 1;
        if verdict == Verdict::Ack {
            book.check_ack(id);
        }
    }
}

impl Book {
    /// Number of times that this id became durable.
    #[must_use]
    pub fn times_written(&self, id: &str) -> usize {
        self.written.iter().filter(|written| *written == id).count()
    }

    fn check_ack(&mut self, id: &str) {
        let is_durable = self.buried.contains_key(id) || self.times_written(id) > 0;
        if !is_durable && !self.droppable.contains(id) {
            self.broken.push(format!("{id} was acked before it was durable"));
        }
    }
}
