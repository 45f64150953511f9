//! MQTT as a source: each PUBLISH with the duty to acknowledge it, in order.

mod client;
mod connection;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pipeline::{Delivery, Error, Recovery};
use service::Condition;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Mqtt;
use crate::metrics::Metrics;
use crate::routes::Subscription;
use connection::Connection;

/// A broker, subscribed to with a persistent session.
///
/// The connection is polled by a task of its own, because pings live there. What it receives waits in
/// a queue that is bounded by bytes: brokers do not all keep to the receive maximum (mosquitto 2.0.11
/// sends more), so their window alone is no bound.
pub struct Source {
    inbox: mpsc::UnboundedReceiver<Arrived>,
    /// The connection that is up; what came over an earlier one comes again.
    epoch: Arc<AtomicU64>,
    connection: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// A delivery with the connection that it can be acknowledged on; `None` for QoS 0.
#[derive(Debug)]
struct Arrived {
    epoch: Option<u64>,
    delivery: Delivery,
}

impl Source {
    /// Connects, and goes on trying for as long as it takes.
    #[must_use]
    pub fn connect(
        settings: Mqtt,
        filters: Vec<Subscription>,
        (metrics, condition): (Metrics, Condition),
    ) -> Self {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let epoch = Arc::new(AtomicU64::new(0));
        let sending = (outbox, Arc::clone(&epoch));
        let connection = Connection::new(settings, filters, sending, (metrics, condition));
        let mut tasks = JoinSet::new();
        tasks.spawn(connection.run(stopped));
        Self { inbox, epoch, connection: tasks, stop }
    }
}

impl pipeline::Source for Source {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        // Cancel safe: `next` holds nothing while it waits.
        let panic = tokio::select! {
            delivery = next(&mut self.inbox, &self.epoch) => return Ok(delivery),
            Some(Err(panic)) = self.connection.join_next() => panic,
        };
        Err(Recovery::Stop.because("poll the broker", panic))
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        while let Some(ended) = self.connection.join_next().await {
            ended.map_err(|panic| Recovery::Stop.because("close the connection", panic))?;
        }
        Ok(())
    }
}

async fn next(
    inbox: &mut mpsc::UnboundedReceiver<Arrived>,
    current: &AtomicU64,
) -> Option<Delivery> {
    loop {
        let Arrived { epoch, delivery } = inbox.recv().await?;
        if epoch.is_none_or(|epoch| epoch == current.load(Ordering::Relaxed)) {
            return Some(delivery);
        }
        // Its connection has ended, so the broker sends it again: publishing it now would only make
        // a duplicate.
        drop(delivery);
    }
}
