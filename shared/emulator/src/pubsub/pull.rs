//! Streaming and unary pull.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::{Code, Streaming};

use super::delivery::{Allowance, SCAN_INTERVAL, Subscription, seconds_of};
use super::proto::StreamingPullRequest;
use super::settling::check_deadline;
use super::wire::Pulled;
use super::{PubSub, proto};
use crate::conditions::Age;
use crate::profile::Profile;
use crate::status::Status;

/// Longest time that a unary pull waits for a first message.
const PULL_WAIT: Duration = Duration::from_secs(10);
/// Time after which a silent stream sends an answer to show that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);

impl PubSub {
    /// Waits for messages and leases them.
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
        requests: Streaming<StreamingPullRequest>,
    ) -> impl Stream<Item = Result<Pulled, tonic::Status>> + Send + use<> {
        let new = NewStream { pubsub: self.clone(), requests, cuts: self.faults.cuts() };
        let state = Phase::New(Box::new(new));
        futures::stream::unfold(state, async |state| match state {
            Phase::New(new) => match new.open().await {
                // The first answer describes the subscription to the client.
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

/// State of a streaming pull.
enum Phase {
    New(Box<NewStream>),
    Open(Box<PullStream>),
    Ended,
}

/// A stream whose first request is not read yet.
struct NewStream {
    pubsub: PubSub,
    requests: Streaming<StreamingPullRequest>,
    cuts: watch::Receiver<u64>,
}

struct PullStream {
    pubsub: PubSub,
    requests: Streaming<StreamingPullRequest>,
    cuts: watch::Receiver<u64>,
    subscription: Arc<Subscription>,
    stream: u64,
    allowance: Allowance,
    age: Age,
}

impl NewStream {
    /// Reads the first request, which names the subscription.
    async fn open(self) -> Result<PullStream, Status> {
        let Self { pubsub, mut requests, cuts } = self;
        let first =
            requests.message().await.map_err(|error| Status::new(error.code(), error.message()))?;
        let first = first.ok_or_else(|| Status::invalid("the first request is missing"))?;
        let faults = pubsub.faults.clone();
        let subscription = faults
            .around("StreamingPull", async { pubsub.subscription(&first.subscription) })
            .await?;
        subscription.check_pull()?;
        let ack_deadline = stream_deadline(first.stream_ack_deadline_seconds)?;
        // Zero and negative values mean no limit.
        let limit = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let allowance = Allowance {
            messages: limit(first.max_outstanding_messages).unwrap_or(usize::MAX),
            bytes: limit(first.max_outstanding_bytes).unwrap_or(usize::MAX),
            ack_deadline,
        };
        let stream = subscription.open_stream();
        let opened = PullStream {
            pubsub,
            requests,
            cuts,
            subscription,
            stream,
            allowance,
            age: Age::with_jitter(),
        };
        opened.settle(&first)?;
        Ok(opened)
    }
}

/// Returns the lease of each message that a stream gets from now on.
fn stream_deadline(seconds: i32) -> Result<Duration, Status> {
    if (10..=600).contains(&seconds) {
        return Ok(seconds_of(seconds));
    }
    Err(Status::invalid("stream_ack_deadline_seconds must be 10 to 600"))
}

impl PullStream {
    /// Returns the next answer; `None` after the client has closed the stream.
    async fn next(&mut self) -> Result<Option<Pulled>, Status> {
        let until = Instant::now() + HEARTBEAT;
        let subscription = Arc::clone(&self.subscription);
        loop {
            let changed = subscription.changed.notified();
            tokio::pin!(changed);
            // Registers before it looks for messages, so that no notification is missed.
            changed.as_mut().enable();
            // Requests come before messages, because there may be many messages.
            if let Some(request) = self.request().now_or_never() {
                let Some(request) = request? else { return Ok(None) };
                self.handle(&request)?;
            }
            subscription.check_pull()?;
            let (taken, exhausted) = subscription.take(Some(self.stream), self.allowance);
            self.pubsub.dead_letter(&subscription, exhausted);
            if !taken.is_empty() || Instant::now() >= until {
                return Ok(Some(self.answer(taken)));
            }
            let wait = if subscription.is_waiting_for_time() { SCAN_INTERVAL } else { HEARTBEAT };
            tokio::select! {
                () = changed => {}
                () = sleep(wait) => {}
                request = self.request() => {
                    let Some(request) = request? else { return Ok(None) };
                    self.handle(&request)?;
                }
            }
        }
    }

    /// Waits for the next request; `None` after the client has closed the stream. Cancel safe.
    ///
    /// # Errors
    /// Fails if the stream ends for another reason than the client.
    async fn request(&mut self) -> Result<Option<StreamingPullRequest>, Status> {
        let faults = &self.pubsub.faults;
        tokio::select! {
            _ = self.cuts.changed() => {
                Err(Status::new(Code::Unavailable, "the stream was cut on demand"))
            }
            () = faults.conditions().outlived(self.age, Profile::stream_age) => {
                faults.note_end("StreamingPull");
                let text = "The service was unable to fulfill your request. Please try again. \
                            [code=8a75]";
                Err(Status::new(Code::Unavailable, text))
            }
            refusal = faults.conditions().denial("StreamingPull") => Err(refusal),
            // An error means that the client is gone.
            request = self.requests.message() => Ok(request.unwrap_or_default()),
        }
    }

    fn handle(&mut self, request: &StreamingPullRequest) -> Result<(), Status> {
        if request.stream_ack_deadline_seconds != 0 {
            self.allowance.ack_deadline = stream_deadline(request.stream_ack_deadline_seconds)?;
        }
        self.settle(request)
    }

    /// Applies acknowledgements and deadlines that arrive on the stream.
    fn settle(&self, request: &StreamingPullRequest) -> Result<(), Status> {
        let (ids, seconds) = (&request.modify_deadline_ack_ids, &request.modify_deadline_seconds);
        if ids.len() != seconds.len() {
            let text = "modify_deadline_ack_ids and modify_deadline_seconds must be of one size";
            return Err(Status::invalid(text));
        }
        seconds.iter().try_for_each(|seconds| check_deadline(*seconds))?;
        if !request.ack_ids.is_empty() {
            self.subscription.acknowledge(&request.ack_ids);
        }
        if !ids.is_empty() {
            let changes: Vec<_> = ids.iter().cloned().zip(seconds.iter().copied()).collect();
            let (_, exhausted) = self.subscription.modify(&changes);
            self.pubsub.dead_letter(&self.subscription, exhausted);
        }
        Ok(())
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
