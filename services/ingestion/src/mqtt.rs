//! MQTT as a source: each PUBLISH with the duty to acknowledge it, in order.

mod client;
mod connection;
mod message;
pub mod security;
mod survey;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pipeline::{Delivery, Error, Recovery};
use service::Health;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{MAX_CONNECTIONS, Mqtt};
use crate::metrics::Metrics;
use crate::ordering;
use crate::routes::Subscription;
use connection::Connection;
pub(crate) use survey::need;

/// A broker, subscribed to with a persistent session.
///
/// The connection is polled by a task of its own, because pings live there. What it receives waits in
/// a queue that is bounded by bytes: brokers do not all keep to the receive maximum (mosquitto 2.0.11
/// sends more), so their window alone is no bound.
pub struct Source {
    inbox: mpsc::UnboundedReceiver<Arrived>,
    connections: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// A delivery with the connection that it can be acknowledged on; `None` for QoS 0.
#[derive(Debug)]
struct Arrived {
    epoch: Option<Epoch>,
    delivery: Delivery,
}

/// A connection as it was at a time; each failure begins a new one.
#[derive(Debug)]
struct Epoch {
    current: Arc<AtomicU64>,
    number: u64,
}

impl Epoch {
    /// Whether that connection is still up. What came over an earlier one comes again.
    fn lasts(&self) -> bool {
        self.current.load(Ordering::Relaxed) == self.number
    }
}

/// What a source is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To carry messages until it is closed.
    Carry,
    /// To unsubscribe, to carry what the broker's sessions still hold, and to end.
    Drain,
}

/// Longest wait until the broker has ended a session.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Names of the connections among the conditions of readiness.
const CONDITIONS: [&str; MAX_CONNECTIONS as usize] = [
    "mqtt", "mqtt_1", "mqtt_2", "mqtt_3", "mqtt_4", "mqtt_5", "mqtt_6", "mqtt_7", "mqtt_8",
    "mqtt_9", "mqtt_10", "mqtt_11", "mqtt_12", "mqtt_13", "mqtt_14", "mqtt_15",
];

impl Source {
    /// Connects, and goes on trying for as long as it takes.
    #[must_use]
    pub fn connect(
        purpose: Purpose,
        settings: &Mqtt,
        (filters, ordering): (&[Subscription], Option<&ordering::Ordering>),
        metrics: &Metrics,
        health: &Health,
    ) -> Self {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        for (index, name) in (0..settings.connections).zip(CONDITIONS) {
            let filters = filters.iter().filter(|filter| index == 0 || filter.is_shared);
            let connection = Connection::new(
                (index, purpose),
                settings.clone(),
                (filters.cloned().collect(), ordering.cloned()),
                (outbox.clone(), Arc::default()),
                (metrics.clone(), health.condition(name)),
            );
            connections.spawn(connection.run(stopped.clone()));
        }
        Self { inbox, connections, stop }
    }

    /// Ends the broker's sessions of all connections: it keeps nothing for them any more.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn end_sessions(settings: &Mqtt) -> anyhow::Result<()> {
        for index in 0..settings.connections {
            let end = connection::end_session(settings, index);
            let ended = timeout(END_TIMEOUT, end).await;
            let ended = ended.unwrap_or_else(|_| Err("the broker does not answer".into()));
            ended.map_err(|why| anyhow::anyhow!("end the session at {}: {why}", settings.url))?;
        }
        Ok(())
    }
}

impl pipeline::Source for Source {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        // Cancel safe: `next` holds nothing while it waits.
        let panic = tokio::select! {
            delivery = next(&mut self.inbox) => return Ok(delivery),
            Some(Err(panic)) = self.connections.join_next() => panic,
        };
        Err(Recovery::Stop.because("poll the broker", panic))
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        while let Some(ended) = self.connections.join_next().await {
            ended.map_err(|panic| Recovery::Stop.because("close the connection", panic))?;
        }
        Ok(())
    }
}

async fn next(inbox: &mut mpsc::UnboundedReceiver<Arrived>) -> Option<Delivery> {
    loop {
        let Arrived { epoch, delivery } = inbox.recv().await?;
        if epoch.is_none_or(|epoch| epoch.lasts()) {
            return Some(delivery);
        }
        // Its connection has ended, so the broker sends it again: publishing it now would only make
        // a duplicate.
        drop(delivery);
    }
}
