//! Reads a subscription over several streams, and rebuilds those that end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_pubsub::model;
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;
use pipeline::backoff::{Backoff, Waits};
use pipeline::{Delivery, Error, Message, Recovery, Settlement, Verdict};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::connection::{Connection, full_name};
use crate::settings::Subscription;

/// Longest wait for the acknowledgements of one stream to be sent at a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

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
        let lost_acks = "Exactly-once acknowledgements that were not taken";
        registry.register("lost_acks", lost_acks, self.lost_acks.clone());
        let expired = "Messages settled after the end of their lease, which come again";
        registry.register("expired_leases", expired, self.expired_leases.clone());
    }
}

/// One stream, with all it needs to be opened again.
struct Reader {
    connection: Connection,
    name: String,
    settings: Subscription,
    outbox: mpsc::Sender<Delivery>,
    confirmations: TaskTracker,
    metrics: SourceMetrics,
}

/// What it takes to settle the deliveries of a stream; each holds it until it is settled.
struct Settling {
    confirmations: TaskTracker,
    lost: Counter,
    expired: Counter,
}

/// Why a stream is not read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It brought nothing for long.
    Idle,
    /// It ended for good.
    Broken,
}

impl Settling {
    fn settle(&self, verdict: Verdict, handler: Handler, lease_end: Instant) {
        if Instant::now() > lease_end {
            self.expired.inc();
        }
        match (verdict, handler) {
            (Verdict::Nack, handler) => handler.nack(),
            (Verdict::Ack, Handler::ExactlyOnce(handler)) => {
                let lost = self.lost.clone();
                self.confirmations.spawn(async move {
                    if let Err(error) = handler.confirmed_ack().await {
                        lost.inc();
                        debug!(%error, "an acknowledgement was not taken, the message comes again");
                    }
                });
            }
            (Verdict::Ack, handler) => handler.ack(),
        }
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
        /// Deliveries ready for the pipeline; those beyond it wait in the client.
        const INBOX: usize = 64;
        // Fails here, and not in the tasks, where no client can be built.
        drop(connection.subscriber(1).await?);
        let (outbox, inbox) = mpsc::channel(INBOX);
        let (stop, stopped) = watch::channel(false);
        let mut streams = JoinSet::new();
        for _ in 0..settings.streams {
            let reader = Reader {
                connection: connection.clone(),
                name: full_name(project, "subscriptions", &settings.id),
                settings: settings.clone(),
                outbox: outbox.clone(),
                confirmations: TaskTracker::new(),
                metrics: metrics.clone(),
            };
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

/// Waits before the next attempt; breaks off when the source is stopped.
async fn pause(waits: &mut Waits, stop: &mut watch::Receiver<bool>) -> ControlFlow<()> {
    tokio::select! {
        () = tokio::time::sleep(waits.next_wait()) => ControlFlow::Continue(()),
        _ = stop.wait_for(|stop| *stop) => ControlFlow::Break(()),
    }
}

impl Reader {
    async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut waits = Backoff::default().waits();
        loop {
            let mut stream = match self.open().await {
                Ok(stream) => stream,
                Err(error) => {
                    let (subscription, error) = (&self.name, format!("{error:#}"));
                    warn!(subscription, error, "no stream can be opened, trying again");
                    if pause(&mut waits, &mut stop).await.is_break() {
                        return Ok(());
                    }
                    continue;
                }
            };
            let ended = tokio::select! {
                // Cancel safe: a message read but not handed over is dropped, and so nacked.
                ended = self.read(&mut stream, &mut waits) => Some(ended),
                _ = stop.wait_for(|stop| *stop) => None,
            };
            let Some(ended) = ended else { return self.close(stream).await };
            // Deliveries of the old stream are still acknowledged through it.
            drop(stream);
            if ended == Ended::Idle {
                debug!(subscription = self.name, "nothing came for long, opening another stream");
                continue;
            }
            self.metrics.reconnects.inc();
            if pause(&mut waits, &mut stop).await.is_break() {
                return Ok(());
            }
        }
    }

    /// A stream on connections of its own: those of the last one may be dead.
    async fn open(&self) -> Result<MessageStream, Error> {
        let share = |total: usize| i64::try_from(total / self.settings.streams).unwrap_or(i64::MAX);
        let subscriber = self.connection.subscriber(self.settings.streams).await?;
        Ok(subscriber
            .subscribe(&self.name)
            .set_max_outstanding_messages(share(self.settings.max_outstanding_messages))
            .set_max_outstanding_bytes(share(self.settings.max_outstanding_bytes))
            .set_max_lease(self.settings.max_lease)
            .set_max_lease_extension(self.settings.lease_extension)
            .build())
    }

    /// Hands over until the stream ends for good, or brings nothing for so long that it could be dead:
    /// the client does not look whether the other side is still there.
    async fn read(&self, stream: &mut MessageStream, waits: &mut Waits) -> Ended {
        let settling = Arc::new(Settling {
            confirmations: self.confirmations.clone(),
            lost: self.metrics.lost_acks.clone(),
            expired: self.metrics.expired_leases.clone(),
        });
        loop {
            let Ok(next) = timeout(self.settings.idle_timeout, stream.next()).await else {
                // While all that may be outstanding is, the stream is silent by right.
                if Arc::strong_count(&settling) > 1 {
                    continue;
                }
                return Ended::Idle;
            };
            match next {
                Some(Ok((message, handler))) => {
                    waits.reset();
                    let delivery = self.delivery(message, handler, Arc::clone(&settling));
                    if self.outbox.send(delivery).await.is_err() {
                        // The source is closing; the stop follows.
                        return std::future::pending().await;
                    }
                }
                Some(Err(error)) => {
                    let subscription = &self.name;
                    warn!(subscription, %error, "the stream ended, opening another");
                    return Ended::Broken;
                }
                None => return Ended::Broken,
            }
        }
    }

    fn delivery(
        &self,
        message: model::Message,
        handler: Handler,
        settling: Arc<Settling>,
    ) -> Delivery {
        let attempts = handler.delivery_attempt().and_then(|attempt| u32::try_from(attempt).ok());
        let now = OffsetDateTime::now_utc();
        let published = message.publish_time.and_then(|time| OffsetDateTime::try_from(time).ok());
        let received = Message {
            id: message.message_id,
            data: message.data,
            attributes: message.attributes.into(),
            ordering_key: message.ordering_key,
            publish_time: published.unwrap_or(now),
            attempts: attempts.unwrap_or(1),
            // Pub/Sub tells attempts only where the subscription has a dead-letter policy.
            counts_attempts: attempts.is_some(),
        };
        let lease_end = Instant::now() + self.settings.max_lease;
        let settle = move |verdict| settling.settle(verdict, handler, lease_end);
        Delivery::new(received, Settlement::new(settle, Some(lease_end)))
    }

    /// Waits until all verdicts are sent, and those of exactly-once subscriptions confirmed.
    async fn close(&self, stream: MessageStream) -> Result<(), Error> {
        let token = stream.shutdown_token();
        // Stops it from receiving; a stream that is neither polled nor dropped goes on.
        drop(stream);
        self.confirmations.close();
        let sent = async {
            self.confirmations.wait().await;
            token.shutdown().await;
        };
        timeout(CLOSE_TIMEOUT, sent)
            .await
            .map_err(|late| Recovery::Stop.because("send the last acknowledgements", late))
    }
}
