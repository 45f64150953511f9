use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Disposition;

/// Record of what happened to each message, by its id. Clones share the record.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Recording>>);

/// Content of a [`Recorder`].
#[derive(Debug, Default)]
pub struct Recording {
    /// Ids in the order in which they became durable, including repeats.
    pub written: Vec<String>,
    /// Ids of each batch that became durable, including refused records.
    pub batches: Vec<Vec<String>>,
    /// Ids in the dead letters, with their reasons.
    pub dead_lettered: HashMap<String, &'static str>,
    /// Ids that were acknowledged.
    pub acked: HashSet<String>,
    /// Ids that were nacked at least once.
    pub nacked: HashSet<String>,
    /// Unsettled deliveries.
    pub unsettled: usize,
    /// Maximum number of deliveries that were unsettled at the same time.
    pub most_unsettled: usize,
    /// Ids whose message was taken back by the source at the end of its lease.
    pub expired: HashSet<String>,
    /// Dispositions that were lost because they came after the end of the lease.
    pub late: usize,
    /// Ids that the source gave up after its maximum number of deliveries.
    pub forwarded: HashSet<String>,
    /// Ids that may be acked without a record.
    pub droppable: HashSet<String>,
    /// Broken promises, as texts.
    pub broken: Vec<String>,
}

impl Recorder {
    /// Returns the content.
    pub fn recording(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delivered(&self) {
        let mut recording = self.recording();
        recording.unsettled += 1;
        recording.most_unsettled = recording.most_unsettled.max(recording.unsettled);
    }

    pub(super) fn settled(&self, id: &str, disposition: Disposition) {
        let mut recording = self.recording();
        recording.unsettled -= 1;
        if disposition == Disposition::Nack {
            recording.nacked.insert(id.to_owned());
            return;
        }
        recording.check_ack(id);
        recording.acked.insert(id.to_owned());
    }

    /// Records a disposition that the source can no longer take.
    pub(super) fn settled_late(&self, id: &str, disposition: Disposition) {
        let mut recording = self.recording();
        recording.unsettled -= 1;
        recording.late += 1;
        if disposition == Disposition::Ack {
            recording.check_ack(id);
        }
    }
}

impl Recording {
    /// Returns the number of times that this id became durable.
    #[must_use]
    pub fn times_written(&self, id: &str) -> usize {
        self.written.iter().filter(|written| *written == id).count()
    }

    fn check_ack(&mut self, id: &str) {
        let is_durable = self.dead_lettered.contains_key(id) || self.times_written(id) > 0;
        if !is_durable && !self.droppable.contains(id) {
            self.broken.push(format!("{id} was acked before it was durable"));
        }
    }
}
