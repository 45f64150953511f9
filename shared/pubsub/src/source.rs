//! Reads a subscription over several streams, and rebuilds those that end.

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

/// Deliveries ready for the pipeline; those beyond it wait with their stream.
const INBOX: usize = 64;

/// A subscription, read over several streams.
///
/// An acknowledgement of an at-least-once subscription is sent within 100 ms and not confirmed by
/// the client; one that is lost costs a redelivery. Exactly-once ones are confirmed.
pub struct Source {
    inbox: mpsc::Receiver<Delivery>,
    streams: JoinSet<Result<(), Error>>,
    stop: watch::Sender<bool>,
}

/// What a subscription counts; clones share their values.
#[derive(Debug, Clone, Default)]
pub struct SourceMetrics {
    /// Streams that ended and were opened again.
    pub reconnects: Counter,
    /// Streams that were replaced because they had brought nothing for `idle_timeout`.
    pub idle_streams: Counter,
    /// Messages that were received and are not settled yet.
    pub unsettled: Gauge,
    /// Exactly-once acknowledgements that Pub/Sub did not take: these messages come again.
    pub lost_acks: Counter,
    /// Messages that were settled after their lease: they were delivered again meanwhile.
    pub expired_leases: Counter,
}

impl SourceMetrics {
    /// Enters all metrics under `dataflow_pubsub_...`.
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
    /// Opens the streams; they go on trying for as long as it takes.
    ///
    /// # Errors
    /// `Stop` when no client can be built.
    pub async fn open(
        connection: &Connection,
        project: &str,
        settings: &Subscription,
        metrics: SourceMetrics,
    ) -> Result<Self, Error> {
        // Fails here, and not in the tasks, where no client can be built.
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
        // Streams end only by a panic before they are stopped.
        tokio::select! {
            delivery = self.inbox.recv() => Ok(delivery),
            Some(Err(panic)) = self.streams.join_next() => {
                Err(Recovery::Stop.because("read subscription", panic))
            }
        }
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        // Nacks what nobody received.
        drop(self.inbox);
        let mut outcome = Ok(());
        while let Some(ended) = self.streams.join_next().await {
            let ended = ended.map_err(|panic| Recovery::Stop.because("close subscription", panic));
            outcome = outcome.and(ended.flatten());
        }
        outcome
    }
}
