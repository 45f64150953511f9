//! Reads one stream at a time, and opens another when it ends.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use google_cloud_pubsub::model;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownToken};
use pipeline::backoff::{Backoff, Waits};
use pipeline::{Delivery, Error, Message, Recovery, Settlement};
use service::credentials;
use time::OffsetDateTime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::SourceMetrics;
use super::held::{HELD_BYTES, Settling};
use crate::connection::Connection;
use crate::settings::Subscription;

/// Longest wait at a close until a reader has sent its acknowledgements.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a lease extension may be under way.
const EXTENSION_TIME: Duration = Duration::from_secs(10);

/// Bytes that are read ahead of the pipeline. More than one response of Pub/Sub usually holds.
const READ_AHEAD: usize = 2 * 1024 * 1024;

/// Time that the pipeline may need to take as many messages as the inbox holds. If it needs longer,
/// the stream is read ahead.
///
/// In a fast flow reading ahead would bring nothing. Messages would also have left the processor's
/// caches before the pipeline takes them.
const PATIENCE: Duration = Duration::from_millis(50);

/// Speed at which the pipeline takes messages.
struct Takes {
    count: usize,
    since: Instant,
    were_slow: bool,
}

impl Takes {
    fn note(&mut self, now: Instant) {
        self.count += 1;
        if self.count == super::INBOX {
            *self = Self { count: 0, since: now, were_slow: self.is_overdue(now) };
        }
    }

    /// Returns true if the last messages took long, or if the current ones already do.
    fn are_slow(&self, now: Instant) -> bool {
        self.were_slow || self.is_overdue(now)
    }

    fn is_overdue(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= PATIENCE
    }
}

/// Reader of one stream, with everything needed to reopen it.
pub(super) struct Reader {
    connection: Connection,
    name: String,
    settings: Subscription,
    idle_timeout: Duration,
    outbox: mpsc::Sender<Delivery>,
    settling: Settling,
    /// Deliveries that found no room in the outbox, oldest first, each with the bytes of its
    /// message.
    ///
    /// A delivery whose lease ends here is handed over too. The pipeline then nacks it, together
    /// with later messages of its ordering key.
    waiting: VecDeque<(Delivery, usize)>,
    waiting_bytes: usize,
    /// Streams that are no longer read, but whose messages may still be settled.
    ended: Vec<ShutdownToken>,
}

/// Reason why a stream is no longer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The stream delivered nothing for `idle_timeout`.
    Idle,
    /// The stream failed permanently.
    Broken,
}

/// Waits before the next attempt. Breaks when the source is stopped.
async fn pause(waits: &mut Waits, stop: &mut watch::Receiver<bool>) -> ControlFlow<()> {
    tokio::select! {
        () = tokio::time::sleep(waits.next_wait()) => ControlFlow::Continue(()),
        _ = stop.wait_for(|stop| *stop) => ControlFlow::Break(()),
    }
}

impl Reader {
    pub(super) fn new(
        connection: &Connection,
        name: String,
        settings: &Subscription,
        (outbox, metrics): (mpsc::Sender<Delivery>, SourceMetrics),
    ) -> Self {
        Self {
            connection: connection.clone(),
            name,
            settings: settings.clone(),
            idle_timeout: connection.idle_timeout(settings),
            outbox,
            settling: Settling::new(metrics),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ended: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut waits = Backoff::default().waits();
        loop {
            let opened = tokio::select! {
                // Cancel safe: nothing is read yet. It may take long until credentials are
                // available.
                opened = self.open() => Some(opened),
                _ = stop.wait_for(|stop| *stop) => None,
            };
            let mut stream = match opened {
                None => return self.close().await,
                Some(Ok(stream)) => stream,
                Some(Err(error)) => {
                    let (subscription, error) = (&self.name, format!("{error:#}"));
                    warn!(subscription, error, "no stream can be opened, trying again");
                    if pause(&mut waits, &mut stop).await.is_break() {
                        return self.close().await;
                    }
                    continue;
                }
            };
            // Deliveries of a stream are acknowledged through it, even after it was dropped.
            self.ended.retain(|token| token.shutdown().now_or_never().is_none());
            self.ended.push(stream.shutdown_token());
            let ended = tokio::select! {
                // Cancel safe: a message that was read but not handed over waits in `self`, or is
                // nacked.
                ended = self.read(&mut stream, &mut waits) => Some(ended),
                _ = stop.wait_for(|stop| *stop) => None,
            };
            // Stops receiving. A stream that is neither polled nor dropped would continue.
            drop(stream);
            match ended {
                None => return self.close().await,
                Some(Ended::Idle) => {
                    self.settling.metrics.idle_streams.inc();
                    let subscription = &self.name;
                    debug!(subscription, "nothing came for long, opening another stream");
                }
                Some(Ended::Broken) => {
                    self.settling.metrics.reconnects.inc();
                    if pause(&mut waits, &mut stop).await.is_break() {
                        return self.close().await;
                    }
                }
            }
        }
    }

    /// Returns this stream's share of the allowed outstanding messages or bytes.
    fn share(&self, total: usize) -> usize {
        total / self.settings.streams
    }

    /// Opens a stream on new connections, because those of the last stream may be dead.
    async fn open(&mut self) -> Result<MessageStream, Error> {
        let subscriber = self.connection.subscriber(self.settings.streams).await?;
        let limit = |total| i64::try_from(self.share(total)).unwrap_or(i64::MAX);
        Ok(subscriber
            .subscribe(&self.name)
            .set_max_outstanding_messages(limit(self.settings.max_outstanding_messages))
            .set_max_outstanding_bytes(limit(self.settings.max_outstanding_bytes))
            .set_max_lease(self.settings.max_lease)
            .set_max_lease_extension(self.settings.lease_extension)
            .build())
    }

    /// Hands messages over until the stream fails permanently, or delivers nothing for
    /// `idle_timeout`. A silent stream may be dead: the client does not check whether the peer is
    /// still there.
    ///
    /// While the pipeline is slow, the stream is read ahead. The reason is that a lease starts when
    /// the message arrives at the client. The client does not tell when that was, so messages must
    /// not wait there for long.
    async fn read(&mut self, stream: &mut MessageStream, waits: &mut Waits) -> Ended {
        let mut last_sign = Instant::now();
        let mut takes = Takes { count: 0, since: last_sign, were_slow: true };
        loop {
            // Opening a stream takes time. Dropping this future would start it again.
            let mut reading = pin!(stream.next());
            let next = loop {
                let waits = !self.waiting.is_empty();
                let reads_ahead = waits && takes.are_slow(Instant::now());
                let has_room = !waits || reads_ahead && self.waiting_bytes < READ_AHEAD;
                tokio::select! {
                    next = &mut reading, if has_room => break Some(next),
                    () = sleep_until(last_sign + self.idle_timeout), if has_room => break None,
                    room = self.outbox.reserve(), if waits => {
                        // An error means that the source is closing. The stop follows.
                        let Ok(room) = room else { return std::future::pending().await };
                        if let Some((delivery, bytes)) = self.waiting.pop_front() {
                            self.waiting_bytes -= bytes;
                            room.send(delivery);
                        }
                        let now = Instant::now();
                        takes.note(now);
                        // The stream was not read, so it cannot have been silent.
                        if !has_room {
                            last_sign = now;
                        }
                    }
                    () = sleep_until(takes.since + PATIENCE), if waits && !reads_ahead => {}
                }
            };
            match next {
                Some(Some(Ok((message, handler)))) => {
                    waits.reset();
                    last_sign = Instant::now();
                    let (delivery, bytes) = self.delivery(message, handler);
                    self.hand_over(delivery, bytes);
                }
                Some(Some(Err(error))) => {
                    let (subscription, error) = (&self.name, credentials::explain(&error));
                    warn!(subscription, error, "the stream ended, opening another");
                    return Ended::Broken;
                }
                Some(None) => return Ended::Broken,
                None => {
                    let max_messages = self.share(self.settings.max_outstanding_messages);
                    let max_bytes = self.share(self.settings.max_outstanding_bytes);
                    if !self.settling.held.explains_silence(max_messages, max_bytes) {
                        return Ended::Idle;
                    }
                    last_sign = Instant::now();
                }
            }
        }
    }

    fn hand_over(&mut self, mut delivery: Delivery, bytes: usize) {
        if self.waiting.is_empty() {
            delivery = match self.outbox.try_send(delivery) {
                // The source is closing. Dropping the delivery nacks it.
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(delivery)) => delivery,
            };
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back((delivery, bytes));
    }

    /// Returns the delivery of a message that has just arrived, and its size. Keeping the size is
    /// cheaper than computing it again.
    fn delivery(&self, message: model::Message, handler: Handler) -> (Delivery, usize) {
        let lease_end = Instant::now() + self.settings.max_lease;
        let attempts = handler.delivery_attempt();
        let now = OffsetDateTime::now_utc();
        let published = message.publish_time.and_then(|time| OffsetDateTime::try_from(time).ok());
        let received = Message {
            id: message.message_id,
            data: message.data,
            attributes: message.attributes.into(),
            ordering_key: message.ordering_key,
            publish_time: published.unwrap_or(now),
            attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1),
            // Pub/Sub reports the delivery attempt only for subscriptions with a dead-letter
            // policy.
            counts_attempts: attempts.is_some(),
        };
        let bytes = received.size();
        let return_delay = return_delay(self.settings.lease_extension, &handler);
        let settle = self.settling.duty(handler, lease_end, bytes);
        let settlement = Settlement::new(settle, Some(lease_end))
            .with_return_delay(return_delay)
            .with_held_bytes(HELD_BYTES);
        (Delivery::new(received, settlement), bytes)
    }

    /// Waits until all acks and nacks are sent, and those of exactly-once subscriptions are
    /// confirmed.
    ///
    /// Acks and nacks of earlier streams may never be sent, if their dead connection was replaced.
    /// Their messages are redelivered.
    async fn close(self) -> Result<(), Error> {
        // Nacks deliveries that nobody received.
        drop(self.waiting);
        let confirmations = &self.settling.confirmations;
        confirmations.close();
        let shutdowns = || self.ended.iter().map(ShutdownToken::shutdown);
        let sent = async { tokio::join!(confirmations.wait(), join_all(shutdowns())) };
        let Err(late) = timeout(CLOSE_TIMEOUT, sent).await else { return Ok(()) };
        let is_last_sent = shutdowns().next_back().is_none_or(|last| last.now_or_never().is_some());
        if is_last_sent && self.ended.len() > 1 {
            let subscription = &self.name;
            warn!(
                subscription,
                "acknowledgements of earlier streams are lost, messages come again"
            );
            return Ok(());
        }
        Err(Recovery::Stop.because("send the last acknowledgements", late))
    }
}

/// Returns the longest time that Pub/Sub keeps a message whose nack was lost.
///
/// Google's client repeats a nack only if the connection failed. It sends no nack for a message
/// that it has held for `max_lease`. In both cases the lease ends by itself. A lease extension may
/// be under way at the time of the nack. With exactly-once delivery, extensions are repeated for as
/// long as a lease.
fn return_delay(lease_extension: Duration, handler: &Handler) -> Duration {
    let lease = match handler {
        Handler::ExactlyOnce(_) => lease_extension.saturating_mul(2),
        _ => lease_extension,
    };
    lease.saturating_add(EXTENSION_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns true if the stream is read ahead after `count` messages were taken, one each
    /// interval.
    fn are_slow(interval: Duration, count: u32) -> bool {
        let start = Instant::now();
        let mut takes = Takes { count: 0, since: start, were_slow: true };
        (1..=count).for_each(|taken| takes.note(start + taken * interval));
        takes.are_slow(start + count * interval)
    }

    #[test]
    fn a_slow_pipeline_is_read_ahead_and_a_fast_one_is_not() {
        let (fast, slow) = (Duration::from_micros(100), Duration::from_millis(20));

        assert!(are_slow(fast, 0), "not before it is known how fast it is");
        for count in [64, 65, 128, 200] {
            assert!(!are_slow(fast, count), "{count}");
            assert!(are_slow(slow, count), "{count}");
        }
    }

    #[test]
    fn a_pipeline_that_stands_still_is_read_ahead_soon() {
        let start = Instant::now();
        let takes = Takes { count: 0, since: start, were_slow: false };

        assert!(!takes.are_slow(start + PATIENCE / 2));
        assert!(takes.are_slow(start + PATIENCE));
    }
}
