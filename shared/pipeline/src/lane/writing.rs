//! Starts the writes of closed batches, and ends them.

use std::sync::Arc;

use super::Lane;
use crate::dead_letter::DeadLetters;
use crate::suspects::Noted;
use crate::write::{Unwritten, Writer};
use crate::{Event, Sink, Transform};

/// A finished write. Its deliveries are settled, but for those that must be nacked.
pub(super) struct Written<K, E> {
    key: K,
    was_ordered: bool,
    unwritten: Option<Unwritten<E>>,
}

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Starts the writes of closed batches, in order, as long as writes are free.
    pub(super) fn start_writes(&mut self) {
        while let Some(closed) = self.closed.front() {
            if !self.can_write(closed.is_ordered, &closed.key) {
                return;
            }
            let Some(mut closed) = self.closed.pop_front() else { return };
            let note = closed.note.take();
            let (key, was_ordered) = (closed.key.clone(), closed.is_ordered);
            if was_ordered {
                self.ordered.insert(key.clone());
            }
            let shared = Arc::clone(&self.shared);
            let written = async move {
                let unwritten = Writer::new(&shared).settle_batch(closed).await;
                Written { key, was_ordered, unwritten }
            };
            self.writing.push(Noted::new(Box::pin(written), note));
        }
    }

    /// Ends a write, and nacks the messages that could not be written.
    pub(super) fn on_written(&mut self, written: Written<S::Key, E>) {
        if written.was_ordered {
            self.ordered.remove(&written.key);
        }
        if let Some(unwritten) = written.unwritten {
            self.nack_all_later(unwritten);
            self.nack_later_behind(&written.key);
        }
    }

    pub(super) fn can_write(&self, is_ordered: bool, key: &S::Key) -> bool {
        self.has_free_write() && !(is_ordered && self.ordered.contains(key))
    }

    pub(super) fn has_free_write(&self) -> bool {
        self.writing.len() < self.shared.limits.max_writes
    }
}
