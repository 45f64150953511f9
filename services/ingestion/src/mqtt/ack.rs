//! Acknowledgement of a message, reported to the connection that received it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pipeline::{Disposition, Settle};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::unsettled::Unsettled;

/// State of a connection: alive or ended. Clones share the same state.
#[derive(Debug, Clone, Default)]
pub(super) struct Life(Arc<AtomicBool>);

impl Life {
    /// Marks the connection as ended. The broker then sends its unacknowledged messages again.
    pub(super) fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn lasts(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

/// Outcome of a QoS 1 message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    /// Position of the message in the window.
    pub place: u64,
    pub disposition: Disposition,
}

/// Handle that reports the outcome of a QoS 1 message to its connection.
#[derive(Debug)]
pub(super) struct AckHandle {
    /// Position of the message in the window.
    pub place: u64,
    pub report: mpsc::UnboundedSender<Settled>,
    pub life: Life,
    pub unsettled: Arc<Unsettled>,
    pub size: usize,
}

impl Settle for AckHandle {
    fn settle(self: Box<Self>, disposition: Disposition) {
        if disposition == Disposition::Nack {
            // The connection ends at once. Later messages come again too, and must not overtake
            // this one.
            self.life.end();
        }
        // An error means that the connection has ended. The broker sends the message again.
        let _ = self.report.send(Settled { place: self.place, disposition });
        self.unsettled.remove(self.size);
    }

    fn is_current(&self) -> bool {
        self.life.lasts()
    }
}

/// Handle that counts a QoS 0 message that was not written. Nobody sends it again.
#[derive(Debug)]
pub(super) struct Unacknowledged {
    pub dropped: Counter,
    pub unsettled: Arc<Unsettled>,
    pub size: usize,
}

impl Settle for Unacknowledged {
    fn settle(self: Box<Self>, disposition: Disposition) {
        self.unsettled.remove_qos0();
        self.dropped.inc_by(u64::from(disposition == Disposition::Nack));
        self.unsettled.remove(self.size);
    }
}
