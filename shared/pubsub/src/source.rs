//! Reads a subscription over several streams, and rebuilds streams that end.

mod held;
mod reader;

use pipeline::{Delivery, Error, Recovery};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::connection::{Connection, full_name};
use crate::settings::Subscription;
use reader::Reader;

/// Maximum number of deliveries ready for the pipeline. Further deliveries wait with their stream.
const INBOX: usize = 64;

/// A subscription that is read over several streams.
///
/// At-least-once delivery: the client sends an acknowledgement within 100 ms and does not confirm
/// it. If one is lost, the message is redelivered. Exactly-once delivery: acknowledgements are
/// confirmed.
pub struct Source {
    inbox: mpsc::Receiver<Delivery>,
    streams: JoinSet<Result<(), Error>>,
    stop: watch::Sender<bool>,
}

/// Metrics of a subscription. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct SourceMetrics {
    /// Streams that ended and were reopened.
    pub reconnects: Counter,
    /// Streams that were replaced because they delivered nothing for `idle_timeout`.
    pub idle_streams: Counter,
    /// Messages that were received but not yet settled.
    pub unsettled: Gauge,
    /// Exactly-once acknowledgements that Pub/Sub did not accept. Their messages are redelivered.
    pub lost_acks: Counter,
    /// Messages that were settled after the end of their lease. They may already have been
    /// redelivered.
    pub expired_leases: Counter,
}

impl SourceMetrics {
    /// Registers all metrics with the prefix `dataflow_pubsub`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_pubsub");
        let reconnects = "Streams that ended and were opened again";
        registry.register("reconnects", reconnects, self.reconnects.clone());
        let idle = "Streams replaced because they had brought nothing";
        registry.register("idle_streams", idle, self.idle_streams.clone());
        let unsettled = "Messages received and not settled yet: their leases are extended";
        registry.register("unsettled_messages", unsettled, self.unsettled.clone());
        let lost_acks = "Exactly-once acknowledgements that were not taken";
        registry.register("lost_acks", lost_acks, self.lost_acks.clone());
        let expired = "Messages settled after the end of their lease, which come again";
        registry.register("expired_leases", expired, self.expired_leases.clone());
    }
}

impl Source {
    /// Opens the streams. They retry for as long as necessary.
    ///
    /// # Errors
    /// `Stop` if no client can be built.
    pub async fn open(
        connection: &Connection,
        project: &str,
        settings: &Subscription,
        metrics: SourceMetrics,
    ) -> Result<Self, Error> {
        // If no client can be built, this fails here and not in the tasks.
        drop(connection.subscriber(1).await?);
        let (outbox, inbox) = mpsc::channel(INBOX);
        let (stop, stopped) = watch::channel(false);
        let mut streams = JoinSet::new();
        for _ in 0..settings.streams {
            let name = full_name(project, "subscriptions", &settings.id);
            let reader = Reader::new(connection, name, settings, (outbox.clone(), metrics.clone()));
            streams.spawn(reader.run(stopped.clone()));
        }
        Ok(Self { inbox, streams, stop })
    }
}

impl pipeline::Source for Source {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        // Before the stop, only a panic can end a stream.
        tokio::select! {
            delivery = self.inbox.recv() => Ok(delivery),
            Some(Err(panic)) = self.streams.join_next() => {
                Err(Recovery::Stop.because("read subscription", panic))
            }
        }
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        // Nacks deliveries that nobody received.
        drop(self.inbox);
        let mut outcome = Ok(());
        while let Some(ended) = self.streams.join_next().await {
            let ended = ended.map_err(|panic| Recovery::Stop.because("close subscription", panic));
            outcome = outcome.and(ended.flatten());
        }
        outcome
    }
}
