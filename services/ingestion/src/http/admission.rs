//! Bounds on the requests that wait for their answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::refusal::Refusal;
use super::{ITEM_BYTES, MAX_ITEMS};
use crate::config::HttpIngest;

/// Maximum wait for a place.
const PATIENCE: Duration = Duration::from_millis(50);
/// Unit of the bound on bytes.
const KIB: usize = 1024;

/// Bounds on the number and the bytes of requests that wait.
#[derive(Debug)]
pub(super) struct Admission {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    /// Share of `kib` that items of streams may have. Requests wait for a short time only, so streams
    /// must leave room for them.
    stream_kib: Arc<Semaphore>,
}

/// Place of a request. It is free again once the request is answered, and all of its messages are
/// settled.
#[derive(Debug)]
pub(super) struct Place {
    /// Permit of a request, or the share of an item of a stream.
    _permit: OwnedSemaphorePermit,
    kib: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(settings: &HttpIngest) -> Self {
        let kib = settings.max_waiting_bytes / KIB;
        // The largest item must fit, too.
        let largest = usize::try_from(memory(settings.max_body_bytes, 1)).unwrap_or(kib);
        let stream_kib = (kib / 2).max(largest).min(kib);
        Self {
            requests: Arc::new(Semaphore::new(settings.max_waiting)),
            streams: Arc::new(Semaphore::new(settings.max_waiting)),
            kib: Arc::new(Semaphore::new(kib)),
            stream_kib: Arc::new(Semaphore::new(stream_kib)),
        }
    }

    /// Returns a place for a request with a body of up to `max_bytes`, in whatever number of items.
    /// The smallest item has `smallest_item` bytes.
    ///
    /// # Errors
    /// No place is free soon.
    pub(super) async fn admit(
        &self,
        max_bytes: usize,
        smallest_item: usize,
    ) -> Result<Place, Refusal> {
        let items = (max_bytes / smallest_item + 1).min(MAX_ITEMS);
        let kib = memory(max_bytes, items);
        let place = async {
            // An error would mean that a semaphore is closed, which nobody does.
            let request = Arc::clone(&self.requests).acquire_owned().await.ok()?;
            let kib = Arc::clone(&self.kib).acquire_many_owned(kib).await.ok()?;
            Some(Place { _permit: request, kib })
        };
        timeout(PATIENCE, place).await.ok().flatten().ok_or_else(Refusal::busy)
    }

    /// Returns the permit of a stream.
    ///
    /// # Errors
    /// Too many streams are open.
    pub(super) fn admit_stream(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Refusal::busy())
    }

    /// Waits for a place of an item of a stream, however long it takes. Its client sends nothing
    /// more meanwhile.
    ///
    /// # Errors
    /// Nobody closes the semaphore, so there are none.
    pub(super) async fn wait(&self, bytes: usize) -> Result<Place, Refusal> {
        let memory = memory(bytes, 1);
        let share = Arc::clone(&self.stream_kib).acquire_many_owned(memory).await;
        let kib = Arc::clone(&self.kib).acquire_many_owned(memory).await;
        let (share, kib) =
            share.and_then(|share| Ok((share, kib?))).map_err(|_| Refusal::ending())?;
        Ok(Place { _permit: share, kib })
    }
}

impl Place {
    /// Gives back what a request does not need, once its body is known.
    pub(super) fn shrink(&mut self, bytes: usize, items: usize) {
        let held = self.kib.num_permits();
        let needed = usize::try_from(memory(bytes, items)).unwrap_or(held);
        drop(self.kib.split(held.saturating_sub(needed)));
    }
}

/// Returns the memory of a request in KiB.
fn memory(bytes: usize, items: usize) -> u32 {
    let bytes = bytes.saturating_add(items.saturating_mul(ITEM_BYTES));
    u32::try_from(bytes / KIB).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_waiting: usize, max_waiting_bytes: usize) -> Admission {
        Admission::new(&HttpIngest { max_waiting, max_waiting_bytes, ..HttpIngest::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_once_its_request_has_ended() {
        let admission = admission(1, 16 * 1024 * KIB);
        let first = admission.admit(100, 29).await;

        assert!(admission.admit(100, 29).await.is_err(), "max_waiting is reached");
        drop(first);

        assert!(admission.admit(100, 29).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_and_what_is_not_needed_is_given_back() {
        let admission = admission(100, 2048 * KIB);
        let mut large = admission.admit(1000 * KIB, 29).await.unwrap();

        assert!(admission.admit(1000 * KIB, 29).await.is_err(), "max_waiting_bytes is reached");
        large.shrink(10 * KIB, 1);

        assert!(admission.admit(1000 * KIB, 29).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_leave_half_of_the_bytes_to_requests() {
        let settings = HttpIngest {
            max_body_bytes: 64 * KIB,
            max_waiting_bytes: 2048 * KIB,
            ..HttpIngest::default()
        };
        let admission = Admission::new(&settings);
        let items = (0..40).map(|_| admission.wait(60 * KIB));
        let waiting = timeout(PATIENCE, futures::future::join_all(items));
        tokio::pin!(waiting);

        let (full, request) = tokio::join!(waiting.as_mut(), admission.admit(500 * KIB, 500 * KIB));

        assert!(full.is_err(), "streams have more items than room");
        assert!(request.is_ok(), "a request has room beside them");
    }
}
