//! Messages that a connection has handed out and that are not settled yet. They limit what it
//! reads.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::wire::Reading;
use crate::config::Mqtt;

/// Counts of bytes and QoS 0 messages that wait, across all reconnects of one connection.
#[derive(Debug)]
pub(super) struct Unsettled {
    bytes: AtomicUsize,
    qos0_messages: AtomicUsize,
    max_bytes: usize,
    max_qos0_messages: usize,
    freed: Notify,
}

impl Unsettled {
    pub(super) fn new(settings: &Mqtt) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            qos0_messages: AtomicUsize::new(0),
            max_bytes: settings.max_bytes_in_flight,
            max_qos0_messages: settings.max_qos0_waiting,
            freed: Notify::new(),
        }
    }

    /// Counts a message.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes a message from the count, and wakes the waiter of [`Unsettled::freed`].
    pub(super) fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// Counts a QoS 0 message, unless too many wait already.
    pub(super) fn try_add_qos0(&self) -> bool {
        let below = |waiting: usize| (waiting < self.max_qos0_messages).then_some(waiting + 1);
        self.qos0_messages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// Removes a QoS 0 message from the count.
    pub(super) fn remove_qos0(&self) {
        self.qos0_messages.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns whether the next packet may be read. The limit is exceeded by at most one packet.
    pub(super) fn reading(&self) -> Reading {
        match self.bytes.load(Ordering::Relaxed) < self.max_bytes {
            true => Reading::On,
            false => Reading::Off,
        }
    }

    /// Waits until a message is settled. Cancel safe.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_more_is_read_once_the_bound_is_reached() {
        let unsettled = Unsettled::new(&Mqtt { max_bytes_in_flight: 10, ..Mqtt::default() });

        unsettled.add(9);
        assert_eq!(unsettled.reading(), Reading::On);
        unsettled.add(1);
        assert_eq!(unsettled.reading(), Reading::Off);
        unsettled.remove(9);
        assert_eq!(unsettled.reading(), Reading::On);
    }
}
