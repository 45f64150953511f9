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
    /// Ids that were acknowledged, dead-lettered or dropped.
    pub acked: HashSet<String>,
    /// Outcome of each id in `acked`, as its source learned it.
    pub outcomes: HashMap<String, Disposition>,
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
    /// Ids that may be acked or dropped without a record.
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
        recording.check_end(id, disposition);
        recording.acked.insert(id.to_owned());
        recording.outcomes.insert(id.to_owned(), disposition);
    }

    /// Records a disposition that the source can no longer take.
    pub(super) fn settled_late(&self, id: &str, disposition: Disposition) {
        let mut recording = self.recording();
        recording.unsettled -= 1;
        recording.late += 1;
        recording.check_end(id, disposition);
    }
}

impl Recording {
    /// Returns the number of times that this id became durable.
    #[must_use]
    pub fn times_written(&self, id: &str) -> usize {
        self.written.iter().filter(|written| *written == id).count()
    }

    /// Notes a promise that this outcome breaks.
    fn check_end(&mut self, id: &str, disposition: Disposition) {
        let is_droppable = self.droppable.contains(id);
        let is_true = match disposition {
            Disposition::Ack => self.times_written(id) > 0 || is_droppable,
            Disposition::DeadLettered(reason) => {
                self.dead_lettered.get(id).is_some_and(|written| *written == reason.as_str())
            }
            Disposition::Dropped(_) => is_droppable,
            Disposition::Nack => true,
        };
        if !is_true {
            self.broken.push(format!("{id} was settled as {disposition:?} before it was durable"));
        }
    }
}
