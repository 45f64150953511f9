//! Messages that were delivered but not yet settled.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use google_cloud_pubsub::subscriber::handler::Handler;
use pipeline::{Settle, Verdict};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::SourceMetrics;

/// Counts the unsettled messages of one reader, over all of its streams. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// A message's part of the counts. Dropping it removes the part.
#[derive(Debug)]
struct Part {
    held: Held,
    bytes: usize,
}

impl Held {
    fn take(&self, bytes: usize) -> Part {
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Part { held: self.clone(), bytes }
    }

    /// Returns true if at least half of the allowed messages or bytes are outstanding.
    ///
    /// Flow control may then be the reason why a stream is silent. A new stream could also deliver
    /// the same amount again.
    pub(super) fn explains_silence(&self, max_messages: usize, max_bytes: usize) -> bool {
        let messages = self.0.messages.load(Ordering::Relaxed);
        let bytes = self.0.bytes.load(Ordering::Relaxed);
        messages >= max_messages.div_ceil(2) || bytes >= max_bytes.div_ceil(2)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.held.0.messages.fetch_sub(1, Ordering::Relaxed);
        self.held.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Upper estimate of the memory that a message holds until it is settled, beyond its place in the
/// pipeline.
///
/// Its acknowledgement id has about 180 bytes. It is held here and in the client's table of leases,
/// whose entry takes about 120 bytes. The settlement itself is added. With the overhead of the
/// allocator the sum is 600 bytes.
pub(super) const HELD_BYTES: u32 = 600;

/// Settles the messages of one reader. Clones share its state.
#[derive(Debug, Clone)]
pub(super) struct Settling(Arc<Reading>);

#[derive(Debug)]
pub(super) struct Reading {
    pub(super) confirmations: TaskTracker,
    pub(super) metrics: SourceMetrics,
    pub(super) held: Held,
}

impl Deref for Settling {
    type Target = Reading;

    fn deref(&self) -> &Reading {
        &self.0
    }
}

impl Settling {
    pub(super) fn new(metrics: SourceMetrics) -> Self {
        let (confirmations, held) = (TaskTracker::new(), Held::default());
        Self(Arc::new(Reading { confirmations, metrics, held }))
    }

    /// Returns the settlement of a message of this size.
    pub(super) fn duty(
        &self,
        handler: Handler,
        lease_end: Instant,
        bytes: usize,
    ) -> impl Settle + use<> {
        let (part, settling) = (self.held.take(bytes), self.clone());
        settling.metrics.unsettled.inc();
        move |verdict| {
            settling.settle(verdict, handler, lease_end);
            settling.metrics.unsettled.dec();
            drop(part);
        }
    }

    fn settle(&self, verdict: Verdict, handler: Handler, lease_end: Instant) {
        if Instant::now() > lease_end {
            self.metrics.expired_leases.inc();
        }
        match (verdict, handler) {
            (Verdict::Nack, handler) => handler.nack(),
            (Verdict::Ack, Handler::ExactlyOnce(handler)) => {
                let lost = self.metrics.lost_acks.clone();
                self.confirmations.spawn(async move {
                    if let Err(error) = handler.confirmed_ack().await {
                        lost.inc();
                        debug!(%error, "an acknowledgement was not taken, the message comes again");
                    }
                });
            }
            (Verdict::Ack, handler) => handler.ack(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_messages_or_of_the_bytes_explains_silence_until_it_is_settled() {
        let held = Held::default();
        let mut parts = vec![held.take(10), held.take(10)];
        assert!(!held.explains_silence(5, 41));
        assert!(held.explains_silence(4, 41));
        assert!(held.explains_silence(5, 40));

        parts.pop();

        assert!(!held.explains_silence(4, 40));
        assert!(held.explains_silence(2, 40));
        assert!(held.explains_silence(4, 20));
    }

    #[test]
    fn nothing_in_hand_explains_nothing() {
        assert!(!Held::default().explains_silence(1, 1));
    }
}
