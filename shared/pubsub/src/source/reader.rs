//! Reads one stream at a time, and opens another when it ends.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use pipeline::backoff::{Backoff, Waits};
use pipeline::{Delivery, Error};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use uuid::Uuid;

use super::leases::Leases;
use super::outstanding::Outstanding;
use super::stream::{Stream, first_request};
use super::subscriber::{StreamOpener, Subscriber};
use crate::connection::Connection;
use crate::settings::Subscription;

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
pub(super) struct StreamReader {
    connection: Connection,
    name: String,
    settings: Subscription,
    idle_timeout: Duration,
    outbox: mpsc::Sender<Delivery>,
    leases: Leases,
    outstanding: Outstanding,
    /// Identifies this reader to Pub/Sub, over all of its streams.
    client_id: String,
    /// Deliveries that found no room in the outbox, oldest first, each with the bytes of its
    /// message.
    ///
    /// A delivery whose lease ends here is handed over too. The pipeline then nacks it, together
    /// with later messages of its ordering key.
    waiting: VecDeque<(Delivery, usize)>,
    waiting_bytes: usize,
}

/// Reason why a stream is no longer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The stream gave no sign of life for `idle_timeout`.
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

impl StreamReader {
    pub(super) fn new(
        connection: &Connection,
        name: String,
        settings: &Subscription,
        outbox: mpsc::Sender<Delivery>,
        leases: Leases,
    ) -> Self {
        Self {
            connection: connection.clone(),
            name,
            settings: settings.clone(),
            idle_timeout: settings.idle_timeout(&connection.endpoint),
            outbox,
            leases,
            outstanding: Outstanding::default(),
            client_id: Uuid::new_v4().to_string(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Reads until it is stopped. Deliveries that wait are nacked then.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut waits = Backoff::default().waits();
        loop {
            let opened = tokio::select! {
                // Cancel safe: nothing is read yet. It may take long until credentials are
                // available.
                opened = self.open() => Some(opened),
                _ = stop.wait_for(|stop| *stop) => None,
            };
            let mut stream = match opened {
                None => return,
                Some(Ok(stream)) => stream,
                Some(Err(error)) => {
                    let (subscription, error) = (&self.name, format!("{error:#}"));
                    warn!(subscription, error, "no stream can be opened, trying again");
                    if pause(&mut waits, &mut stop).await.is_break() {
                        return;
                    }
                    continue;
                }
            };
            let ended = tokio::select! {
                // Cancel safe: a message that was read but not handed over waits in `self`, or is
                // nacked.
                ended = self.read(&mut stream, &mut waits) => Some(ended),
                _ = stop.wait_for(|stop| *stop) => None,
            };
            // Stops receiving. A stream that is neither polled nor dropped would continue.
            drop(stream);
            match ended {
                None => return,
                Some(Ended::Idle) => {
                    self.leases.metrics().idle_streams.inc();
                    let subscription = &self.name;
                    debug!(subscription, "nothing came for long, opening another stream");
                }
                Some(Ended::Broken) => {
                    if pause(&mut waits, &mut stop).await.is_break() {
                        return;
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
    async fn open(&mut self) -> Result<Stream<Subscriber>, Error> {
        let subscriber = Subscriber::connect(&self.connection, self.name.clone()).await?;
        let max_messages = self.share(self.settings.max_outstanding_messages);
        let max_bytes = self.share(self.settings.max_outstanding_bytes);
        let first =
            first_request(&self.name, &self.client_id, &self.settings, max_messages, max_bytes);
        let (leases, outstanding) = (self.leases.clone(), self.outstanding.clone());
        Ok(Stream::new(subscriber, first, &self.settings, leases, outstanding))
    }

    /// Hands messages over until the stream fails permanently, or gives no sign of life for
    /// `idle_timeout`. A silent stream may be dead, although its connection answers.
    ///
    /// While the pipeline is slow, the stream is read ahead. The reason is that Pub/Sub starts a
    /// lease when it sends the message. Messages that wait in the connection are not extended.
    async fn read(&mut self, stream: &mut Stream<impl StreamOpener>, waits: &mut Waits) -> Ended {
        let mut last_sign = Instant::now();
        let mut takes = Takes { count: 0, since: last_sign, were_slow: true };
        loop {
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
                // The stream is alive, but quiet.
                Some(Ok(None)) => last_sign = Instant::now(),
                Some(Ok(Some((delivery, bytes)))) => {
                    waits.reset();
                    last_sign = Instant::now();
                    self.hand_over(delivery, bytes);
                }
                Some(Err(status)) => {
                    let (subscription, code) = (&self.name, status.code());
                    let error = status.message();
                    warn!(subscription, ?code, error, "the stream ended, opening another");
                    return Ended::Broken;
                }
                None => {
                    let max_messages = self.share(self.settings.max_outstanding_messages);
                    let max_bytes = self.share(self.settings.max_outstanding_bytes);
                    if !self.outstanding.explains_silence(max_messages, max_bytes) {
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
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::settings::Endpoint;
    use crate::source::scripted::{message, pair, response};
    use crate::source::{INBOX, SourceMetrics};

    /// Size of a message. The limit is a multiple of it.
    const SIZE: usize = READ_AHEAD / 32;

    /// Lets the reader work for this long.
    async fn during(reading: &mut (impl Future<Output = Ended> + Unpin), time: Duration) {
        tokio::select! {
            ended = reading => panic!("{ended:?}"),
            () = sleep(time) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_pipeline_is_read_ahead_up_to_a_limit() {
        let settings = Subscription::default();
        let metrics = SourceMetrics::default();
        let leases = Leases::new(&settings, metrics.clone());
        let (outbox, mut inbox) = mpsc::channel(1);
        let connection = Connection::new(Endpoint::default());
        let name = "subscription".to_owned();
        let mut reader = StreamReader::new(&connection, name, &settings, outbox, leases.clone());
        let (pulls, mut openings) = pair();
        let first = first_request("subscription", "client", &settings, 1000, 1000 * SIZE);
        let mut stream = Stream::new(pulls, first, &settings, leases, Outstanding::default());
        let (responses, _end) = openings.next().accept();
        for _ in 0..1000 {
            responses.unbounded_send(Ok(response(vec![message(&"x".repeat(SIZE))]))).unwrap();
        }
        let mut waits = Backoff::default().waits();
        let mut reading = Box::pin(reader.read(&mut stream, &mut waits));
        let moment = Duration::from_millis(1);
        // One more message waits in the inbox.
        let limit = 32 + 1;

        during(&mut reading, moment).await;
        assert_eq!(metrics.unsettled.get(), limit, "it is slow until it is known to be fast");
        // The pipeline takes what was read ahead, and more, without a pause.
        for _ in 0..3 * INBOX {
            let delivery = tokio::select! {
                ended = &mut reading => panic!("{ended:?}"),
                delivery = inbox.recv() => delivery.unwrap(),
            };
            delivery.ack();
        }
        during(&mut reading, moment).await;
        assert!(metrics.unsettled.get() <= 2, "{}", metrics.unsettled.get());
        during(&mut reading, PATIENCE).await;
        assert_eq!(metrics.unsettled.get(), limit);
    }

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
