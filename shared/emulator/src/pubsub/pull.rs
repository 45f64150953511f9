//! Streaming and unary pull.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::{Code, Streaming};

use super::delivery::{Allowance, SCAN_INTERVAL, Subscription, seconds_of};
use super::wire::Pulled;
use super::{PubSub, proto};
use crate::conditions::Age;
use crate::profile::Profile;
use crate::status::Status;

/// How long a unary pull waits for a first message.
const PULL_WAIT: Duration = Duration::from_secs(10);
/// A stream that has nothing to say shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(30);

type Request = proto::StreamingPullRequest;

impl PubSub {
    /// Waits for messages and takes them.
    pub(super) async fn pull(&self, request: proto::PullRequest) -> Result<Pulled, Status> {
        let messages = usize::try_from(request.max_messages).unwrap_or(0);
        if messages == 0 {
            return Err(Status::invalid("max_messages must be positive"));
        }
        let subscription = self.subscription(&request.subscription)?;
        subscription.check_pull()?;
        let ack_deadline = seconds_of(subscription.config().ack_deadline_seconds);
        let allowance = Allowance { messages, bytes: usize::MAX, ack_deadline };
        let until = Instant::now() + PULL_WAIT;
        loop {
            let changed = subscription.changed.notified();
            subscription.check()?;
            let (received_messages, dead) = subscription.take(None, allowance);
            self.dead_letter(&subscription, dead);
            #[expect(deprecated, reason = "clients still send it")]
            let must_return = request.return_immediately || Instant::now() >= until;
            if !received_messages.is_empty() || must_return {
                return Ok(Pulled { received_messages, properties: None });
            }
            tokio::select! {
                () = changed => {}
                () = sleep(SCAN_INTERVAL) => {}
            }
        }
    }

    /// Answers a streaming pull.
    pub(super) fn streaming_pull(
        &self,
        requests: Streaming<Request>,
    ) -> impl Stream<Item = Result<Pulled, tonic::Status>> + Send + use<> {
        let cuts = self.faults.cuts();
        let state = Phase::New(Box::new((self.clone(), requests, cuts)));
        futures::stream::unfold(state, async |state| match state {
            Phase::New(parts) => match open(*parts).await {
                // The first answer tells the client what it is subscribed to.
                Ok(stream) => Some((Ok(stream.answer(Vec::new())), Phase::Open(Box::new(stream)))),
                Err(status) => Some((Err(status.into()), Phase::Ended)),
            },
            Phase::Open(mut stream) => match stream.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Phase::Open(stream))),
                Ok(None) => None,
                Err(status) => Some((Err(status.into()), Phase::Ended)),
            },
            Phase::Ended => None,
        })
    }
}

enum Phase {
    New(Box<(PubSub, Streaming<Request>, watch::Receiver<u64>)>),
    Open(Box<PullStream>),
    Ended,
}

struct PullStream {
    pubsub: PubSub,
    requests: Streaming<Request>,
    is_half_closed: bool,
    cuts: watch::Receiver<u64>,
    subscription: Arc<Subscription>,
    stream: u64,
    allowance: Allowance,
    age: Age,
}

async fn open(
    (pubsub, mut requests, cuts): (PubSub, Streaming<Request>, watch::Receiver<u64>),
) -> Result<PullStream, Status> {
    let first =
        requests.message().await.map_err(|error| Status::new(error.code(), error.message()))?;
    let first = first.ok_or_else(|| Status::invalid("the first request is missing"))?;
    let faults = pubsub.faults.clone();
    let subscription =
        faults.around("StreamingPull", async { pubsub.subscription(&first.subscription) }).await?;
    subscription.check_pull()?;
    if !(10..=600).contains(&first.stream_ack_deadline_seconds) {
        return Err(Status::invalid("stream_ack_deadline_seconds must be 10 to 600"));
    }
    // Zero and below ask for no limit.
    let limit = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0);
    let allowance = Allowance {
        messages: limit(first.max_outstanding_messages).unwrap_or(usize::MAX),
        bytes: limit(first.max_outstanding_bytes).unwrap_or(usize::MAX),
        ack_deadline: seconds_of(first.stream_ack_deadline_seconds),
    };
    let stream = subscription.open_stream();
    let opened = PullStream {
        pubsub,
        requests,
        is_half_closed: false,
        cuts,
        subscription,
        stream,
        allowance,
        age: Age::with_jitter(),
    };
    opened.settle(&first);
    Ok(opened)
}

impl PullStream {
    /// The next answer; `None` when the client has closed.
    async fn next(&mut self) -> Result<Option<Pulled>, Status> {
        let until = Instant::now() + HEARTBEAT;
        let conditions = self.pubsub.faults.conditions().clone();
        let subscription = Arc::clone(&self.subscription);
        loop {
            let changed = subscription.changed.notified();
            tokio::pin!(changed);
            // Registers before the look, so that nothing is missed in between.
            changed.as_mut().enable();
            subscription.check_pull()?;
            let (taken, dead) = subscription.take(Some(self.stream), self.allowance);
            self.pubsub.dead_letter(&subscription, dead);
            if !taken.is_empty() || Instant::now() >= until {
                return Ok(Some(self.answer(taken)));
            }
            let wait = if subscription.is_waiting_for_time() { SCAN_INTERVAL } else { HEARTBEAT };
            tokio::select! {
                () = changed => {}
                () = sleep(wait) => {}
                _ = self.cuts.changed() => {
                    return Err(Status::new(Code::Unavailable, "the stream was cut on demand"));
                }
                () = conditions.outlived(self.age, Profile::stream_age) => {
                    self.pubsub.faults.note_end("StreamingPull");
                    let text = "The service was unable to fulfill your request. Please try again. \
                                [code=8a75]";
                    return Err(Status::new(Code::Unavailable, text));
                }
                request = self.requests.message(), if !self.is_half_closed => match request {
                    Ok(Some(request)) => self.settle(&request),
                    Ok(None) => self.is_half_closed = true,
                    Err(_) => return Ok(None),
                },
            }
            if self.is_half_closed {
                return Ok(None);
            }
        }
    }

    /// Acknowledgements and deadlines that come on the stream itself.
    fn settle(&self, request: &Request) {
        if !request.ack_ids.is_empty() {
            self.subscription.acknowledge(&request.ack_ids);
        }
        if !request.modify_deadline_ack_ids.is_empty() {
            let ids = request.modify_deadline_ack_ids.iter().cloned();
            let changes: Vec<_> =
                ids.zip(request.modify_deadline_seconds.iter().copied()).collect();
            let (_, dead) = self.subscription.modify(&changes);
            self.pubsub.dead_letter(&self.subscription, dead);
        }
    }

    fn answer(&self, received_messages: Vec<super::wire::Received>) -> Pulled {
        let config = self.subscription.config();
        let properties = proto::streaming_pull_response::SubscriptionProperties {
            exactly_once_delivery_enabled: config.enable_exactly_once_delivery,
            message_ordering_enabled: config.enable_message_ordering,
        };
        Pulled { received_messages, properties: Some(properties) }
    }
}

impl Drop for PullStream {
    fn drop(&mut self) {
        self.subscription.close_stream(self.stream);
    }
}
