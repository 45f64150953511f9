//! Bounds on the resources of a pipeline: messages and bytes in flight, and the memory of open
//! batches.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, watch};

/// Bounds the messages and bytes that are received but not yet settled.
#[derive(Debug)]
pub struct InFlight {
    room: Arc<Room>,
    max_messages: usize,
    max_bytes: usize,
    starved: watch::Sender<()>,
}

/// Messages and bytes that may still come.
#[derive(Debug)]
struct Room {
    messages: Semaphore,
    bytes: Semaphore,
    /// Metric of the messages in flight. A share counts itself, so no caller can forget it.
    in_flight: Gauge,
}

/// A message's share of the bound. Dropping it returns the share.
///
/// Two permits of tokio would take twice the memory, in each of 100,000 open messages.
#[derive(Debug)]
pub struct Permit {
    room: Arc<Room>,
    bytes: u32,
}

impl Permit {
    /// Returns the bytes early. The data of the message is gone, and only its settlement is left.
    pub fn release_bytes(&mut self) {
        self.room.bytes.add_permits(mem::take(&mut self.bytes) as usize);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release_bytes();
        self.room.messages.add_permits(1);
        self.room.in_flight.dec();
    }
}

impl InFlight {
    /// Creates a bound of this many messages and bytes, and keeps a metric of the messages. Both bounds
    /// must be at least 1.
    #[must_use]
    pub fn new(max_messages: usize, max_bytes: usize, in_flight: Gauge) -> Self {
        // The semaphore counts in `u32`. A small process has no use for more than 4 GiB in flight.
        let max_bytes = max_bytes.min(u32::MAX as usize);
        let (messages, bytes) = (Semaphore::new(max_messages), Semaphore::new(max_bytes));
        let room = Arc::new(Room { messages, bytes, in_flight });
        Self { room, max_messages, max_bytes, starved: watch::Sender::new(()) }
    }

    /// Waits for room. A message larger than the whole bound takes all of it.
    ///
    /// If it has to wait, it notifies the holders of open batches; see [`InFlight::starved`].
    /// Cancel safe.
    ///
    /// # Panics
    /// Never: the semaphores are never closed.
    pub async fn admit(&self, size: usize) -> Permit {
        let size = u32::try_from(size.min(self.max_bytes)).unwrap_or(u32::MAX);
        let Room { messages, bytes, in_flight } = &*self.room;
        if messages.available_permits() == 0 || bytes.available_permits() < size as usize {
            self.call_for_room();
        }
        let message = messages.acquire().await.expect("the semaphore is never closed");
        let share = bytes.acquire_many(size).await.expect("the semaphore is never closed");
        message.forget();
        share.forget();
        in_flight.inc();
        Permit { room: Arc::clone(&self.room), bytes: size }
    }

    /// Tells the holders of open batches that somebody waits for room.
    pub fn call_for_room(&self) {
        self.starved.send_replace(());
    }

    /// Returns a receiver that changes at each [`InFlight::call_for_room`], and each time that
    /// somebody has to wait in [`InFlight::admit`].
    #[must_use]
    pub fn starved(&self) -> watch::Receiver<()> {
        self.starved.subscribe()
    }

    /// Returns true if no more messages may be in flight.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.room.messages.available_permits() == 0
    }

    /// Messages in flight now.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.max_messages - self.room.messages.available_permits()
    }

    /// Bytes in flight now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.max_bytes - self.room.bytes.available_permits()
    }
}

/// Bounds the memory of all batches of a pipeline, both open ones and those being written.
///
/// The limit may be exceeded by one record for each lane, because a record is encoded before its
/// size is known. A sixteenth of the limit is reserved for batches being written. So intake can
/// continue while memory is short.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    open: AtomicUsize,
    leaving: AtomicUsize,
    freed: watch::Sender<()>,
}

impl MemoryBudget {
    /// Creates a budget of this many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let (open, leaving) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { limit, open, leaving, freed: watch::Sender::new(()) }
    }

    /// Creates an empty reservation. Its batch resizes it as it grows.
    pub fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0, is_leaving: false }
    }

    /// Returns true if more memory is used than allowed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// Returns true if open batches must be closed so that others can grow. Batches being written
    /// do not count, because their memory will soon be free.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.limit - self.limit / 16
    }

    /// Bytes used now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.open.load(Ordering::Relaxed) + self.leaving.load(Ordering::Relaxed)
    }

    /// Returns a receiver that changes each time a reservation ends.
    #[must_use]
    pub fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }
}

/// Memory of one batch. Dropping it returns the memory to the budget.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
    is_leaving: bool,
}

impl Reservation {
    /// Sets the memory that the batch uses now.
    pub fn resize(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.counter().fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.counter().fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Bytes that the batch uses.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that the batch is closed and will be written.
    pub fn leave(&mut self) {
        let bytes = self.bytes;
        self.resize(0);
        self.is_leaving = true;
        self.resize(bytes);
    }

    fn counter(&self) -> &AtomicUsize {
        if self.is_leaving { &self.budget.leaving } else { &self.budget.open }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
        self.budget.freed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_full_bound_admits_after_a_permit_is_dropped() {
        let bound = InFlight::new(1, 100, Gauge::default());
        let starved = bound.starved();
        let first = bound.admit(1000).await;

        assert!(bound.admit(1).now_or_never().is_none());
        assert!(starved.has_changed().unwrap());
        assert_eq!((bound.messages(), bound.bytes()), (1, 100));
        drop(first);

        assert!(bound.admit(1).now_or_never().is_some());
        assert_eq!((bound.messages(), bound.bytes()), (0, 0));
    }

    #[tokio::test]
    async fn only_who_has_to_wait_calls_for_room() {
        for (messages, bytes, size, has_to_wait) in [
            (9, 100, 10, false),
            (9, 10, 10, false),
            (9, 9, 10, true),
            (9, 0, 10, true),
            (0, 100, 10, true),
        ] {
            let bound = InFlight::new(messages, bytes, Gauge::default());
            // A bound of 9 bytes would treat a message of 10 bytes like one of 9.
            let bound = InFlight { max_bytes: 100, ..bound };
            let starved = bound.starved();

            let admitted = bound.admit(size).now_or_never();

            assert_eq!(admitted.is_none(), has_to_wait, "{messages} messages, {bytes} bytes");
            assert_eq!(
                starved.has_changed().unwrap(),
                has_to_wait,
                "{messages} messages, {bytes} bytes"
            );
        }
    }

    #[tokio::test]
    async fn bytes_can_be_given_back_before_the_message() {
        let bound = InFlight::new(2, 100, Gauge::default());
        let mut permit = bound.admit(60).await;

        permit.release_bytes();

        assert_eq!((bound.messages(), bound.bytes()), (1, 0));
        assert!(bound.admit(100).now_or_never().is_some());
    }

    #[test]
    fn memory_is_over_beyond_its_limit_alone() {
        let memory = Arc::new(MemoryBudget::new(10));
        let mut reservation = memory.reserve();
        assert!(!memory.is_over());

        reservation.resize(10);
        assert!(!memory.is_over());
        reservation.resize(11);
        assert!(memory.is_over());
    }

    #[test]
    fn what_is_being_written_makes_memory_full_and_not_short() {
        let memory = Arc::new(MemoryBudget::new(160));
        let (mut one, mut two) = (memory.reserve(), memory.reserve());
        one.resize(100);
        two.resize(50);
        assert!(!memory.is_short());
        two.resize(51);
        assert!(memory.is_short() && !memory.is_over(), "a sixteenth is kept");

        one.leave();
        two.resize(61);

        assert!(memory.is_over() && !memory.is_short());
        assert_eq!((memory.used(), one.bytes()), (161, 100));
        drop(one);
        assert_eq!(memory.used(), 61);
    }

    #[test]
    fn reservations_add_up_and_return() {
        let memory = Arc::new(MemoryBudget::new(10));
        let (mut one, mut two) = (memory.reserve(), memory.reserve());
        let freed = memory.freed();

        one.resize(6);
        one.resize(8);
        two.resize(8);
        one.resize(4);

        assert_eq!((memory.used(), freed.has_changed().unwrap()), (12, false));
        drop((one, two));
        assert_eq!((memory.used(), freed.has_changed().unwrap()), (0, true));
    }
}
