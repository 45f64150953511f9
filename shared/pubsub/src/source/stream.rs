//! One stream of messages, which is opened again after failures that pass.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::{
    StreamingPullRequest, StreamingPullResponse,
};
use message::Message;
use pipeline::backoff::{Backoff, Waits};
use pipeline::{Delivery, Settlement};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tracing::{debug, warn};

use super::leases::{CALL_TIMEOUT, HELD_BYTES, Leases};
use super::outstanding::Outstanding;
use super::subscriber::{Responses, StreamOpener, is_transient, seconds};
use crate::settings::Subscription;

/// Life of a connection after which its end is no sign of trouble.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// A stream of deliveries.
pub(super) struct Stream<P> {
    opener: P,
    first: StreamingPullRequest,
    place: Place,
    /// Ends our side of the stream when it is dropped or replaced.
    _end: oneshot::Sender<()>,
    /// Failures since the last message, or since a connection that lived for long.
    failures: u32,
    /// Time when the connection was opened, if it was.
    opened_at: Option<Instant>,
    /// Deliveries that were received but not yet returned, oldest first, each with the bytes of its
    /// message.
    received: VecDeque<(Delivery, usize)>,
    waits: Waits,
    leases: Leases,
    outstanding: Outstanding,
    settings: Subscription,
}

/// State of the connection.
enum Place {
    Opening(BoxFuture<'static, Result<Responses, Status>>),
    Open(Responses),
    Waiting(Pin<Box<Sleep>>),
}

impl<P: StreamOpener> Stream<P> {
    /// Creates a stream that connects when it is first read.
    pub(super) fn new(
        opener: P,
        first: StreamingPullRequest,
        settings: &Subscription,
        leases: Leases,
        outstanding: Outstanding,
    ) -> Self {
        let (place, end) = open(&opener, &first);
        Self {
            opener,
            first,
            place,
            _end: end,
            failures: 0,
            opened_at: None,
            received: VecDeque::new(),
            waits: Backoff::default().waits(),
            leases,
            outstanding,
            settings: settings.clone(),
        }
    }

    /// Returns the next delivery, with the bytes of its message, or `None` as a sign of life. Cancel
    /// safe.
    ///
    /// # Errors
    /// Fails if the stream failed for a reason that does not pass by itself.
    pub(super) async fn next(&mut self) -> Result<Option<(Delivery, usize)>, Status> {
        loop {
            if let Some(delivery) = self.received.pop_front() {
                return Ok(Some(delivery));
            }
            let failure = match &mut self.place {
                Place::Waiting(wait) => {
                    wait.await;
                    self.open();
                    continue;
                }
                Place::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        self.opened_at = Some(Instant::now());
                        self.place = Place::Open(stream);
                        continue;
                    }
                    Err(status) => status,
                },
                Place::Open(stream) => match stream.next().await {
                    Some(Ok(response)) => {
                        self.take(response);
                        if self.received.is_empty() {
                            return Ok(None);
                        }
                        self.waits.reset();
                        self.failures = 0;
                        continue;
                    }
                    None => Status::unavailable("Pub/Sub ended the stream"),
                    Some(Err(status)) => status,
                },
            };
            self.note(&failure);
            if !is_transient(failure.code()) {
                // A further call tries again.
                self.open();
                return Err(failure);
            }
            self.place = Place::Waiting(Box::pin(sleep(self.waits.next_wait())));
        }
    }

    fn open(&mut self) {
        (self.place, self._end) = open(&self.opener, &self.first);
    }

    /// Counts the end of a connection, and logs the second one of a series. The first one is usual:
    /// Pub/Sub ends each stream after some time.
    fn note(&mut self, failure: &Status) {
        self.leases.metrics().reconnects.inc();
        if self.opened_at.take().is_some_and(|at| at.elapsed() > LONG_LIFE) {
            self.waits.reset();
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let subscription = &self.first.subscription;
        let (code, error) = (failure.code(), failure.message());
        match self.failures {
            2 => warn!(subscription, ?code, error, "streams end without messages, trying again"),
            _ => debug!(subscription, ?code, error, "a stream ended"),
        }
    }

    /// Takes over the messages of a response. A response without messages only shows that the
    /// stream is alive.
    fn take(&mut self, response: StreamingPullResponse) {
        let now = OffsetDateTime::now_utc();
        for received in response.received_messages {
            let Some(message) = received.message else { continue };
            let published = message.publish_time.and_then(|time| {
                let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
                OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
            });
            let attempts = u32::try_from(received.delivery_attempt).unwrap_or_default();
            let message = Message {
                id: message.message_id,
                data: message.data,
                attributes: message.attributes.into(),
                ordering_key: message.ordering_key,
                publish_time: published.unwrap_or(now),
                attempts: attempts.max(1),
                // Pub/Sub reports the delivery attempt only for subscriptions with a dead-letter
                // policy.
                counts_attempts: attempts > 0,
            };
            let bytes = message.size();
            let settlement = self.settlement(received.ack_id, bytes);
            self.received.push_back((Delivery::new(message, settlement), bytes));
        }
    }

    fn settlement(&self, ack_id: String, bytes: usize) -> Settlement {
        let (number, lease_end) = self.leases.take(ack_id);
        let (leases, part) = (self.leases.clone(), self.outstanding.take(bytes));
        let settle = move |disposition| {
            leases.settle(number, disposition);
            drop(part);
        };
        // If a nack is lost, the lease ends by itself. An extension may be under way at that time.
        let return_delay = self.settings.lease_extension.saturating_add(CALL_TIMEOUT);
        Settlement::new(settle, Some(lease_end))
            .with_return_delay(return_delay)
            .with_held_bytes(HELD_BYTES)
    }
}

/// Opens a stream that ends, on our side, when the sender is dropped.
fn open(opener: &impl StreamOpener, first: &StreamingPullRequest) -> (Place, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel();
    (Place::Opening(opener.pull(first.clone(), ended)), end)
}

/// Returns the first request of a stream that asks for this share of the outstanding messages and
/// bytes.
pub(super) fn first_request(
    name: &str,
    client_id: &str,
    settings: &Subscription,
    max_messages: usize,
    max_bytes: usize,
) -> StreamingPullRequest {
    let limit = |total| i64::try_from(total).unwrap_or(i64::MAX);
    StreamingPullRequest {
        subscription: name.to_owned(),
        stream_ack_deadline_seconds: seconds(settings.lease_extension),
        // A stream that is opened again with the same id keeps its ordering keys.
        client_id: client_id.to_owned(),
        max_outstanding_messages: limit(max_messages),
        max_outstanding_bytes: limit(max_bytes),
        // Asks for empty responses as signs of life.
        protocol_version: 1,
        ..StreamingPullRequest::default()
    }
}

#[cfg(test)]
mod tests;
