//! MQTT as a source: each PUBLISH with the duty to acknowledge it, in order.

mod client;
mod connection;
mod window;

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
/// The connection is polled by a task of its own, because pings live there; deliveries wait in a
/// queue that is bounded by what the broker may send without an acknowledgement.
pub struct Source {
    inbox: mpsc::Receiver<Delivery>,
    connection: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Source {
    /// Connects, and goes on trying for as long as it takes.
    #[must_use]
    pub fn connect(
        settings: Mqtt,
        filters: Vec<Subscription>,
        (metrics, condition): (Metrics, Condition),
    ) -> Self {
        // MQTT 3.1.1 has no receive maximum: the broker's window is bounded by 16-bit packet ids.
        let window = match settings.protocol {
            crate::config::Protocol::V5 => usize::from(settings.receive_maximum),
            crate::config::Protocol::V4 => usize::from(u16::MAX),
        };
        let (outbox, inbox) = mpsc::channel(window + settings.max_qos0_waiting);
        let (stop, stopped) = watch::channel(false);
        let connection = Connection::new(settings, filters, outbox, (metrics, condition));
        let mut tasks = JoinSet::new();
        tasks.spawn(connection.run(stopped));
        Self { inbox, connection: tasks, stop }
    }
}

impl pipeline::Source for Source {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        tokio::select! {
            delivery = self.inbox.recv() => Ok(delivery),
            Some(Err(panic)) = self.connection.join_next() => {
                Err(Recovery::Stop.because("poll the broker", panic))
            }
        }
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        while let Some(ended) = self.connection.join_next().await {
            ended.map_err(|panic| Recovery::Stop.because("close the connection", panic))?;
        }
        Ok(())
    }
}
