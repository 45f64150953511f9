//! The verdict on a message, on its way to the connection that brought it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pipeline::{Settle, Verdict};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::held::Held;

/// Whether a connection goes on; clones look at the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Life(Arc<AtomicBool>);

impl Life {
    /// Notes that the connection ends: the broker sends again what is not acknowledged on it.
    pub(super) fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn lasts(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

/// Reports the verdict on a message of QoS 1 to its connection.
#[derive(Debug)]
pub(super) struct AckHandle {
    /// Its place in the window.
    pub place: u64,
    pub report: mpsc::UnboundedSender<(u64, Verdict)>,
    pub life: Life,
    pub held: Arc<Held>,
    pub size: usize,
}

impl Settle for AckHandle {
    fn settle(self: Box<Self>, verdict: Verdict) {
        if verdict == Verdict::Nack {
            // At once: what came after it comes again too, and would overtake it.
            self.life.end();
        }
        // An error means that the connection has ended: the broker sends it again.
        self.report.send((self.place, verdict)).unwrap_or_default();
        self.held.remove(self.size);
    }

    fn is_current(&self) -> bool {
        self.life.lasts()
    }
}

/// Counts a message of QoS 0 that was not written: nobody sends it again.
#[derive(Debug)]
pub(super) struct Unacknowledged {
    pub dropped: Counter,
    pub held: Arc<Held>,
    pub size: usize,
}

impl Settle for Unacknowledged {
    fn settle(self: Box<Self>, verdict: Verdict) {
        self.held.remove_qos0();
        self.dropped.inc_by(u64::from(verdict == Verdict::Nack));
        self.held.remove(self.size);
    }
}
