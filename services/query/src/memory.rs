//! Memory of the answers that clients have not read yet.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::MAX_PAGE_BYTES;

/// Bytes that are counted together.
const UNIT: usize = 1024;
/// Bytes of an answer that the connection takes over at a time. It copies them, so they are few.
const CHUNK: usize = 64 * 1024;

/// Bound on the bytes of all answers together. Clones share it.
#[derive(Clone)]
pub(crate) struct AnswerMemory {
    free: Arc<Semaphore>,
    units: usize,
}

/// Text whose memory is counted until its last part is sent.
struct Held {
    text: String,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl AnswerMemory {
    /// Creates a bound of `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let units = (max_bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// Returns true if a page of the largest size has room. If not, no query should be started.
    pub(crate) fn has_room(&self) -> bool {
        self.free.available_permits() >= (MAX_PAGE_BYTES / UNIT).min(self.units)
    }

    /// Returns a body of this text, or nothing while there is no room. A text that is larger than the
    /// bound has room alone.
    pub(crate) fn hold(&self, text: String) -> Option<Body> {
        let units = text.len().div_ceil(UNIT).min(self.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.free).try_acquire_many_owned(units).ok()?;
        let bytes = Bytes::from_owner(Held { text, _memory: memory });
        // Each part holds the whole text, which goes with the last one.
        let chunks = (0..bytes.len()).step_by(CHUNK).map(move |start| {
            Ok::<_, Infallible>(bytes.slice(start..bytes.len().min(start + CHUNK)))
        });
        Some(Body::from_stream(stream::iter(chunks)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn memory_is_free_again_when_the_last_part_is_sent() {
        let memory = AnswerMemory::new(2 * CHUNK);
        let text = "x".repeat(2 * CHUNK);

        let mut body = memory.hold(text.clone()).unwrap().into_data_stream();
        assert!(memory.hold("x".into()).is_none());
        let first = body.next().await.unwrap().unwrap();
        drop(first);
        assert!(memory.hold("x".into()).is_none(), "half of it waits");
        let second = body.next().await.unwrap().unwrap();
        assert!(body.next().await.is_none());
        drop(body);
        assert!(memory.hold("x".into()).is_none(), "the connection has the second half");
        drop(second);

        assert!(memory.hold(text).is_some());
    }

    #[tokio::test]
    async fn a_text_beyond_the_bound_has_room_alone() {
        let memory = AnswerMemory::new(UNIT);

        let alone = memory.hold("x".repeat(9 * UNIT));
        assert!(alone.is_some());
        assert!(memory.hold("x".into()).is_none());
        drop(alone);
        assert!(memory.hold("x".into()).is_some());
    }

    #[tokio::test]
    async fn no_query_is_started_without_room_for_its_page() {
        let memory = AnswerMemory::new(2 * MAX_PAGE_BYTES);

        let one = memory.hold("x".repeat(MAX_PAGE_BYTES)).unwrap();
        assert!(memory.has_room());
        let two = memory.hold("x".into()).unwrap();
        assert!(!memory.has_room());
        drop((one, two));
        assert!(memory.has_room());
    }
}
