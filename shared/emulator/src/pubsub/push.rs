//! Push subscriptions: messages are sent to an endpoint on this machine.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use prost::Message as _;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::delivery::{Allowance, SCAN_INTERVAL, Subscription, seconds_of};
use super::wire::Received;
use super::{PubSub, proto};
use crate::status::Status;

/// Most messages in progress to one endpoint. With ordering it is one.
const WINDOW: usize = 16;
/// First and longest wait after failures in a row. A retry policy replaces them
/// (<https://cloud.google.com/pubsub/docs/push#push_backoff>).
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Interval of the checks of an idle subscription.
const IDLE: Duration = Duration::from_secs(30);
/// HTTP status codes that acknowledge a message.
const SUCCESS: [StatusCode; 4] =
    [StatusCode::OK, StatusCode::CREATED, StatusCode::ACCEPTED, StatusCode::NO_CONTENT];

/// Checks the settings of a push subscription. An empty endpoint means pull.
pub(super) fn check(config: &proto::PushConfig) -> Result<(), Status> {
    if config.authentication_method.is_some() {
        return Err(Status::unimplemented("push_config.oidc_token"));
    }
    if config.push_endpoint.is_empty() {
        return Ok(());
    }
    let uri: Option<Uri> = config.push_endpoint.parse().ok();
    let is_here = uri
        .is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(is_loopback));
    if is_here {
        return Ok(());
    }
    Err(Status::invalid(format!(
        "push_config.push_endpoint must be an http URL of this machine, such as \
         http://127.0.0.1:8080/push, because this emulator sends to no other: {}",
        config.push_endpoint
    )))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Resolves every name to loopback without DNS. The only possible name is `localhost`.
#[derive(Clone)]
struct Loopback;

impl tower::Service<Name> for Loopback {
    type Response = std::array::IntoIter<SocketAddr, 2>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let addresses = addresses.map(|address| SocketAddr::new(address, 0));
        std::future::ready(Ok(addresses.into_iter()))
    }
}

type HttpClient = Client<HttpConnector<Loopback>, Full<Bytes>>;

impl PubSub {
    /// Delivers to the endpoints of push subscriptions until the future is dropped.
    pub(crate) async fn push_forever(self) {
        let connector = HttpConnector::new_with_resolver(Loopback);
        let client: HttpClient = Client::builder(TokioExecutor::new()).build(connector);
        let (mut workers, mut served) = (JoinSet::new(), HashMap::new());
        loop {
            let changed = self.hub.endpoints.notified();
            tokio::pin!(changed);
            // Registers before it looks at the subscriptions, so that no notification is missed.
            changed.as_mut().enable();
            for subscription in self.push_subscriptions() {
                let name = subscription.config().name;
                served.entry(name).or_insert_with(|| {
                    let worker = Worker::new(self.clone(), subscription, client.clone());
                    workers.spawn(worker.run()).id()
                });
            }
            tokio::select! {
                () = changed => {}
                Some(ended) = workers.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            tracing::error!(%error, "a push subscription begins anew");
                            sleep(FIRST_WAIT).await;
                            error.id()
                        }
                    };
                    served.retain(|_, worker| *worker != id);
                }
            }
        }
    }

    fn push_subscriptions(&self) -> Vec<Arc<Subscription>> {
        let known = self.hub.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|one| endpoint(one).is_some()).cloned().collect()
    }
}

/// Returns the push settings of an existing subscription with an endpoint.
fn endpoint(subscription: &Subscription) -> Option<proto::PushConfig> {
    subscription.check().ok()?;
    subscription.config().push_config.filter(|push| !push.push_endpoint.is_empty())
}

/// Sends the messages of one subscription.
struct Worker {
    pubsub: PubSub,
    subscription: Arc<Subscription>,
    client: HttpClient,
    stream: u64,
    failures: u32,
    resumes_at: Instant,
}

impl Worker {
    fn new(pubsub: PubSub, subscription: Arc<Subscription>, client: HttpClient) -> Self {
        let stream = subscription.open_push_stream();
        let resumes_at = Instant::now();
        Self { pubsub, subscription, client, stream, failures: 0, resumes_at }
    }

    /// Runs until the subscription or its endpoint is removed. A new endpoint gets a new worker.
    async fn run(mut self) {
        let subscription = Arc::clone(&self.subscription);
        let mut sending = FuturesUnordered::new();
        loop {
            let changed = subscription.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let push = endpoint(&subscription).filter(|_| subscription.has_stream(self.stream));
            let Some(push) = push else { break };
            let now = Instant::now();
            if now >= self.resumes_at {
                for received in self.take() {
                    sending.push(send(self.client.clone(), push.clone(), self.call(received)));
                }
            }
            let is_waiting = subscription.is_waiting_for_time();
            let look = now + if is_waiting { SCAN_INTERVAL } else { IDLE };
            let look = if now < self.resumes_at { self.resumes_at } else { look };
            tokio::select! {
                () = changed => {}
                () = sleep_until(look) => {}
                Some((ack_id, is_taken)) = sending.next(), if !sending.is_empty() => {
                    self.settle(ack_id, is_taken);
                }
            }
        }
    }

    fn take(&self) -> Vec<Received> {
        let config = self.subscription.config();
        let is_careful = config.enable_message_ordering || self.failures > 0;
        let allowance = Allowance {
            messages: if is_careful { 1 } else { WINDOW },
            bytes: usize::MAX,
            ack_deadline: seconds_of(config.ack_deadline_seconds),
        };
        let (received, dead) = self.subscription.take(Some(self.stream), allowance);
        self.pubsub.dead_letter(&self.subscription, dead);
        received
    }

    fn call(&self, received: Received) -> PushCall {
        let config = self.subscription.config();
        let deadline = seconds_of(config.ack_deadline_seconds);
        PushCall { subscription: config.name, received, deadline }
    }

    fn settle(&mut self, ack_id: String, is_taken: bool) {
        if is_taken {
            self.failures = 0;
            self.subscription.acknowledge(&[ack_id]);
            return;
        }
        let (_, dead) = self.subscription.modify(&[(ack_id, 0)]);
        self.pubsub.dead_letter(&self.subscription, dead);
        self.failures = self.failures.saturating_add(1);
        if self.subscription.config().retry_policy.is_none() {
            let factor = 2_u32.saturating_pow(self.failures.saturating_sub(1).min(16));
            let wait = FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT);
            self.resumes_at = Instant::now() + wait;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.subscription.close_stream(self.stream);
    }
}

/// A message on its way to an endpoint.
struct PushCall {
    subscription: String,
    received: Received,
    deadline: Duration,
}

/// Sends one message. Returns its acknowledgement id, and true if the endpoint has accepted it.
async fn send(client: HttpClient, push: proto::PushConfig, call: PushCall) -> (String, bool) {
    let ack_id = call.received.ack_id.clone();
    let Some(request) = request(&push, &call) else { return (ack_id, false) };
    let answer = timeout(call.deadline, client.request(request)).await;
    let is_taken = match answer {
        Ok(Ok(answer)) => SUCCESS.contains(&answer.status()),
        Ok(Err(error)) => {
            tracing::debug!(%error, endpoint = push.push_endpoint, "a push failed");
            false
        }
        Err(_) => false,
    };
    (ack_id, is_taken)
}

/// Builds the request for a message: JSON, or the raw data if the subscription asks for it.
fn request(push: &proto::PushConfig, call: &PushCall) -> Option<Request<Full<Bytes>>> {
    use proto::push_config::Wrapper;
    let message = proto::PubsubMessage::decode(call.received.message.clone()).ok()?;
    let request = Request::post(&push.push_endpoint);
    if let Some(Wrapper::NoWrapper(raw)) = &push.wrapper {
        let mut request = request.body(Full::new(Bytes::from(message.data.to_vec()))).ok()?;
        if raw.write_metadata {
            write_metadata(request.headers_mut(), &message, &call.subscription);
        }
        return Some(request);
    }
    let mut shown = super::json::message(&message);
    shown["message_id"] = shown["messageId"].clone();
    shown["publish_time"] = shown["publishTime"].clone();
    let mut body = json!({ "message": shown, "subscription": call.subscription });
    if call.received.delivery_attempt > 0 {
        body["deliveryAttempt"] = call.received.delivery_attempt.into();
    }
    let request = request.header(header::CONTENT_TYPE, "application/json");
    request.body(Full::new(Bytes::from(body.to_string()))).ok()
}

fn write_metadata(headers: &mut HeaderMap, message: &proto::PubsubMessage, subscription: &str) {
    let time = message.publish_time.as_ref().map(ToString::to_string).unwrap_or_default();
    let own = [
        ("x-goog-pubsub-subscription-name", subscription),
        ("x-goog-pubsub-message-id", &message.message_id),
        ("x-goog-pubsub-publish-time", &time),
        ("x-goog-pubsub-ordering-key", &message.ordering_key),
    ];
    let attributes = message.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let is_free =
        |name: &str| !["connection", "content-length", "host", "transfer-encoding"].contains(&name);
    for (name, value) in own.into_iter().chain(attributes).filter(|(_, value)| !value.is_empty()) {
        let name = name.to_ascii_lowercase();
        if !is_free(&name) {
            continue;
        }
        // Attributes that are not valid headers are left out.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_of_this_machine_are_endpoints() {
        let check = |url: &str| {
            check(&proto::PushConfig { push_endpoint: url.to_owned(), ..<_>::default() })
        };

        for right in ["", "http://127.0.0.1:8080/push", "http://localhost/x", "http://[::1]:1/?a=b"]
        {
            assert!(check(right).is_ok(), "{right}");
        }
        for wrong in [
            "https://127.0.0.1/",
            "http://example.com/push",
            "http://10.0.0.1/",
            "http://localhost.example.com/",
            "http://127.0.0.1@example.com/",
            "127.0.0.1:80",
        ] {
            let refused = check(wrong).unwrap_err();
            assert!(refused.message.contains("an http URL of this machine"), "{wrong}: {refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_ends_with_its_endpoint_even_if_another_is_there() {
        let pubsub = PubSub::new(crate::faults::Faults::default());
        let (name, topic) = ("projects/p/subscriptions/name", "projects/p/topics/topic");
        let config = proto::Topic { name: topic.to_owned(), ..<_>::default() };
        pubsub.create_topic(config).expect("a topic");
        let push =
            |url: &str| proto::PushConfig { push_endpoint: url.to_owned(), ..<_>::default() };
        let config = proto::Subscription {
            name: name.to_owned(),
            topic: topic.to_owned(),
            push_config: Some(push("http://localhost/a")),
            ..<_>::default()
        };
        pubsub.create_subscription(config).expect("a subscription");
        let subscription = pubsub.subscription(name).expect("the subscription");
        let connector = HttpConnector::new_with_resolver(Loopback);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let worker = Worker::new(pubsub.clone(), Arc::clone(&subscription), client);

        subscription.configure(|config| config.push_config = Some(push("")));
        subscription.configure(|config| config.push_config = Some(push("http://localhost/b")));

        assert!(timeout(IDLE * 10, worker.run()).await.is_ok());
    }
}
