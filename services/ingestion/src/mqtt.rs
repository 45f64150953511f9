//! MQTT as a source. It hands each PUBLISH on with a handle to acknowledge it, in order.

mod ack;
mod client;
mod connection;
mod dial;
mod drain;
mod message;
mod negotiated;
mod preflight;
mod properties;
mod published;
mod requests;
pub mod security;
mod session;
mod unsettled;
mod window;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use pipeline::{Delivery, Error, Recovery};
use service::Health;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::config::{MAX_CONNECTIONS, Mqtt};
use crate::metrics::Metrics;
use crate::ordering;
use crate::routes::Subscription;
use connection::{Connection, Parts};
use dial::{Dial, Network};
pub use message::user_properties;
pub(crate) use message::{PROPERTIES_DROPPED, json as list_of};
pub use negotiated::Negotiated;
pub(crate) use negotiated::humantime;
pub(crate) use preflight::dependency;
pub(crate) use properties::MAX_MEMORY_BYTES as MAX_PROPERTIES_MEMORY;

/// Grants of the broker, by the index of the connection. Empty before the first SUBACK.
pub type Grants = BTreeMap<u16, Negotiated>;

/// Source that subscribes at a broker with a persistent session.
///
/// Each connection has its own task. Received messages wait in a queue that is limited by bytes.
/// The broker's receive maximum alone is no limit, because some brokers send more (mosquitto 2.0.11
/// does). While the limit is reached, nothing is read. PUBACKs and pings continue.
pub struct Source {
    inbox: mpsc::UnboundedReceiver<Delivery>,
    connections: JoinSet<Result<(), String>>,
    stop: watch::Sender<bool>,
    grants: watch::Receiver<Grants>,
}

/// Mode of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Run until the source is closed.
    Run,
    /// Unsubscribe, carry the messages that the broker's sessions still hold, and then end.
    Drain,
}

/// Subscriptions of a source, and what it reports to.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Broker, and the connections to it.
    pub settings: &'a Mqtt,
    /// Filters to subscribe to.
    pub filters: &'a [Subscription],
    /// Ordering keys, if any route has one.
    pub ordering: Option<&'a ordering::Ordering>,
    /// Metrics of the connections.
    pub metrics: &'a Metrics,
    /// Health that has a condition for each connection.
    pub health: &'a Health,
}

/// Names of the connections among the readiness conditions.
const CONDITIONS: [&str; MAX_CONNECTIONS as usize] = [
    "mqtt", "mqtt_1", "mqtt_2", "mqtt_3", "mqtt_4", "mqtt_5", "mqtt_6", "mqtt_7", "mqtt_8",
    "mqtt_9", "mqtt_10", "mqtt_11", "mqtt_12", "mqtt_13", "mqtt_14", "mqtt_15",
];

impl Source {
    /// Connects, and retries forever. With [`Mode::Drain`] the source ends with an error when
    /// the replica is alive. The replica then gets its session back.
    #[must_use]
    pub fn connect(mode: Mode, setup: Setup<'_>) -> Self {
        Self::over(Arc::new(Network), mode, setup)
    }

    fn over(dial: Arc<dyn Dial>, mode: Mode, setup: Setup<'_>) -> Self {
        let Setup { settings, filters, ordering, metrics, health } = setup;
        let (outbox, inbox) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let (grants, granted) = watch::channel(Grants::new());
        let mut connections = JoinSet::new();
        for (index, name) in (0..settings.connections).zip(CONDITIONS) {
            let filters = filters.iter().filter(|filter| index == 0 || filter.is_shared);
            let connection = Connection::new(Parts {
                index,
                mode,
                dial: Arc::clone(&dial),
                settings: settings.clone(),
                filters: filters.cloned().collect(),
                ordering: ordering.cloned(),
                outbox: outbox.clone(),
                metrics: metrics.clone(),
                condition: health.condition(name),
                grants: grants.clone(),
            });
            connections.spawn(connection.run(stopped.clone()));
        }
        Self { inbox, connections, stop, grants: granted }
    }

    /// Returns the grants of the broker, and follows each change of them.
    #[must_use]
    pub fn grants(&self) -> watch::Receiver<Grants> {
        self.grants.clone()
    }

    /// Ends the broker's sessions of all connections. The broker then keeps nothing for them.
    ///
    /// # Errors
    /// Fails when the broker cannot be reached.
    pub async fn end_sessions(settings: &Mqtt) -> anyhow::Result<()> {
        for index in 0..settings.connections {
            let ended = connection::end_session(&Network, settings, index).await;
            ended.map_err(|why| anyhow::anyhow!("end the session at {}: {why}", settings.url))?;
        }
        Ok(())
    }

    /// Fails for a connection that ended unexpectedly.
    fn ended(ended: Result<Result<(), String>, JoinError>) -> Result<(), Error> {
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Recovery::Stop.because("drain the session", reason)),
            Err(panic) => Err(Recovery::Stop.because("poll the broker", panic)),
        }
    }
}

impl pipeline::Source for Source {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            // Cancel safe, because `next` holds nothing while it waits.
            tokio::select! {
                Some(ended) = self.connections.join_next() => Self::ended(ended)?,
                delivery = next(&mut self.inbox), if !self.connections.is_empty() => {
                    if delivery.is_some() {
                        return Ok(delivery);
                    }
                    // All connections are ending. Their results decide.
                    while let Some(ended) = self.connections.join_next().await {
                        Self::ended(ended)?;
                    }
                }
                else => return Ok(next(&mut self.inbox).await),
            }
        }
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        while let Some(ended) = self.connections.join_next().await {
            Self::ended(ended)?;
        }
        Ok(())
    }
}

async fn next(inbox: &mut mpsc::UnboundedReceiver<Delivery>) -> Option<Delivery> {
    loop {
        let delivery = inbox.recv().await?;
        if delivery.is_current() {
            return Some(delivery);
        }
        // Its connection has ended, so the broker sends the message again. Publishing it now would
        // only make a duplicate.
        drop(delivery);
    }
}
