//! Resumable uploads in progress, and those that finished recently.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tonic::Code;

use super::object::{Given, Object, Preconditions};
use crate::status::Status;

/// Time after which an upload expires
/// (<https://cloud.google.com/storage/docs/resumable-uploads#session-uris>).
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Most finished uploads that are remembered for clients that missed the answer.
const MAX_FINISHED: usize = 1_000;

/// A resumable upload with the data received so far.
#[derive(Debug)]
pub(super) struct UploadSession {
    pub bucket: String,
    pub given: Given,
    pub preconditions: Preconditions,
    pub data: BytesMut,
    /// The object, as soon as all data has arrived.
    pub object: Option<Object>,
}

/// All uploads by their ids.
#[derive(Debug, Default)]
pub(super) struct UploadSessions(Mutex<OpenSessions>);

#[derive(Debug, Default)]
struct OpenSessions {
    all: HashMap<String, (Instant, Arc<Mutex<UploadSession>>)>,
    /// Ids of finished uploads, oldest first.
    finished: VecDeque<String>,
}

impl UploadSessions {
    /// Begins an upload, and removes expired ones.
    pub(super) fn begin(&self, id: String, session: UploadSession) {
        let mut inner = self.lock();
        inner.all.retain(|_, (begun, _)| begun.elapsed() < MAX_AGE);
        inner.all.insert(id, (Instant::now(), Arc::new(Mutex::new(session))));
    }

    /// Returns an upload.
    ///
    /// # Errors
    /// Fails if there is no such upload, or if it was removed.
    pub(super) fn get(&self, id: &str) -> Result<Arc<Mutex<UploadSession>>, Status> {
        let inner = self.lock();
        let gone = || Status::new(Code::NotFound, "the upload has ended or never began");
        inner.all.get(id).map(|(_, session)| Arc::clone(session)).ok_or_else(gone)
    }

    /// Records that an upload is finished, and removes the oldest finished ones above the limit.
    pub(super) fn finish(&self, id: &str) {
        let mut inner = self.lock();
        inner.finished.push_back(id.to_owned());
        if inner.finished.len() > MAX_FINISHED
            && let Some(oldest) = inner.finished.pop_front()
        {
            inner.all.remove(&oldest);
        }
    }

    pub(super) fn cancel(&self, id: &str) {
        self.lock().all.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, OpenSessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
