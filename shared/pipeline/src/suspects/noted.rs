//! Records the work of a future while it is polled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use super::{AtWork, Suspects, Work};

/// Work of a lane, with the messages it belongs to.
#[derive(Debug)]
pub(crate) struct Note {
    suspects: Arc<Suspects>,
    lane: usize,
    at_work: AtWork,
    work: Work,
}

impl Note {
    /// Creates a note for the messages with these fingerprints.
    pub(crate) fn new(
        suspects: &Arc<Suspects>,
        lane: usize,
        fingerprints: impl IntoIterator<Item = u64>,
        work: Work,
    ) -> Self {
        let at_work = AtWork::new(fingerprints);
        Self { suspects: Arc::clone(suspects), lane, at_work, work }
    }

    /// Returns the same note for the write of a batch.
    pub(crate) fn written(self) -> Self {
        Self { work: Work::Write, ..self }
    }
}

/// Runs `work`, and keeps it recorded meanwhile. Without a note nothing is recorded.
pub(crate) fn during<T>(note: Option<&Note>, work: impl FnOnce() -> T) -> T {
    let Some(note) = note else { return work() };
    note.suspects.enter(note.lane, &note.at_work, note.work);
    let done = work();
    note.suspects.pause(note.lane);
    done
}

/// A future of a lane. Its work is recorded while it is polled, but not while it waits.
pub(crate) struct Noted<T> {
    inner: BoxFuture<'static, T>,
    note: Option<Note>,
}

impl<T> Noted<T> {
    pub(crate) fn new(inner: BoxFuture<'static, T>, note: Option<Note>) -> Self {
        Self { inner, note }
    }
}

impl<T> Future for Noted<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Self { inner, note } = self.get_mut();
        let polled = during(note.as_ref(), || inner.as_mut().poll(context));
        if let (Poll::Pending, Some(note)) = (&polled, note) {
            note.suspects.leave(note.lane);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[test]
    fn a_batch_that_is_written_is_not_computed() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { lanes: 1, ..Limits::default() };
        let suspects = Suspects::open(&folder.path().join("crash_file"), &limits).unwrap();

        let note = Note::new(&Arc::new(suspects), 0, [1], Work::Compute).written();

        assert!(note.work == Work::Write);
    }
}
