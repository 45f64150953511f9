//! State of a run, as its devices see it.

use tokio::sync::watch;
use tokio::time::Instant;

/// State of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Devices connect.
    Connecting,
    /// Devices send. The times of messages count from this instant.
    Sending(Instant),
    /// Nothing more is sent, except for what has no answer yet.
    Draining,
}

/// Reader of the state.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Receiver<Phase>);

impl Gate {
    /// Returns the writer and a reader of a state.
    pub(crate) fn new() -> (watch::Sender<Phase>, Self) {
        let (sender, receiver) = watch::channel(Phase::Connecting);
        (sender, Self(receiver))
    }

    /// Returns the state.
    pub(crate) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the state changes. Never returns if it cannot change any more. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
