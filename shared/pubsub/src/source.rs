//! Reads a subscription over several streams, and rebuilds streams that end.

mod held;
mod leases;
mod reader;
#[cfg(test)]
mod scripted;
mod stream;
mod subscriber;

use std::time::Duration;

use pipeline::{Delivery, Error, Recovery};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use service::renewable::Renewable;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::names::full_name;
use crate::settings::Subscription;
use leases::Leases;
use reader::StreamReader;
pub(crate) use subscriber::Subscriber;

/// Longest wait at a close until all acks and nacks are sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of deliveries ready for the pipeline. Further deliveries wait with their stream.
const INBOX: usize = 64;

/// A subscription that is read over several streams.
///
/// An acknowledgement is sent within 100 ms, unless many requests are under way. After a failure that
/// can pass, it is repeated until Pub/Sub has confirmed it, or until the lease of the message has
/// ended. In that case the message is redelivered.
pub struct Source {
    /// Id of the subscription.
    id: String,
    inbox: mpsc::Receiver<Delivery>,
    streams: JoinSet<()>,
    leases: Leases,
    /// The task that extends leases, and sends acks and nacks.
    keeper: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Metrics of a subscription. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct SourceMetrics {
    /// Streams that ended and were reopened.
    pub reconnects: Counter,
    /// Streams that were replaced because they gave no sign of life for `idle_timeout`.
    pub idle_streams: Counter,
    /// Messages that were received but not yet settled.
    pub unsettled: Gauge,
    /// Acknowledgements that Pub/Sub did not accept in time. Their messages are redelivered.
    pub lost_acks: Counter,
    /// Messages that were settled after the end of their lease, or after `max_lease`. They may already
    /// have been redelivered.
    pub expired_leases: Counter,
}

impl SourceMetrics {
    /// Registers all metrics with the prefix `dataflow_pubsub`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_pubsub");
        let reconnects = "Streams that ended and were opened again";
        registry.register("reconnects", reconnects, self.reconnects.clone());
        let idle = "Streams replaced because they were silent";
        registry.register("idle_streams", idle, self.idle_streams.clone());
        let unsettled = "Messages received and not settled yet: their leases are extended";
        registry.register("unsettled_messages", unsettled, self.unsettled.clone());
        let lost_acks = "Acknowledgements that were not accepted in time";
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
        let name = full_name(project, "subscriptions", &settings.id);
        let (own, subscription) = (connection.clone(), name.clone());
        let subscriber = Renewable::open(move || {
            let (connection, subscription) = (own.clone(), subscription.clone());
            Box::pin(async move { Subscriber::connect(&connection, subscription).await })
        });
        let leases = Leases::new(settings, metrics);
        let mut keeper = JoinSet::new();
        keeper.spawn(leases.clone().keep(subscriber.await?));
        let (outbox, inbox) = mpsc::channel(INBOX);
        let (stop, stopped) = watch::channel(false);
        let mut streams = JoinSet::new();
        for _ in 0..settings.streams {
            let reader = StreamReader::new(
                connection,
                name.clone(),
                settings,
                outbox.clone(),
                leases.clone(),
            );
            streams.spawn(reader.run(stopped.clone()));
        }
        Ok(Self { id: settings.id.clone(), inbox, streams, leases, keeper, stop })
    }
}

impl pipeline::Source for Source {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        // Before the stop, only a panic can end a task.
        tokio::select! {
            delivery = self.inbox.recv() => Ok(delivery),
            Some(Err(panic)) = self.streams.join_next() => {
                Err(Recovery::Stop.because("read subscription", panic))
            }
            Some(Err(panic)) = self.keeper.join_next() => {
                Err(Recovery::Stop.because("extend leases", panic))
            }
        }
    }

    fn name(&self) -> Option<String> {
        Some(self.id.clone())
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        // Nacks deliveries that nobody received.
        drop(self.inbox);
        let mut outcome = Ok(());
        while let Some(ended) = self.streams.join_next().await {
            let ended = ended.map_err(|panic| Recovery::Stop.because("close subscription", panic));
            outcome = outcome.and(ended);
        }
        self.leases.close();
        let sent = timeout(CLOSE_TIMEOUT, self.keeper.join_next()).await;
        let late = |late| Recovery::Stop.because("send the last acknowledgements", late);
        let sent = match sent.map_err(late)? {
            Some(Err(panic)) => {
                Err(Recovery::Stop.because("send the last acknowledgements", panic))
            }
            Some(Ok(())) | None => Ok(()),
        };
        outcome.and(sent)
    }
}
