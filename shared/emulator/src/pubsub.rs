//! Pub/Sub in memory: topics, subscriptions and their messages.

mod admin;
mod delivery;
mod filter;
mod iam;
mod json;
mod names;
mod ordering;
mod pull;
mod push;
mod rest;
mod rpc;
mod settling;
mod snapshots;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use prost::Message as _;
use tokio::sync::Notify;

pub(crate) use iam::answer as iam_answer;
pub(crate) use rest::answer as rest_answer;
pub(crate) use rpc::answer as grpc_answer;

use crate::faults::Faults;
use crate::status::Status;
use delivery::Subscription;
use ordering::Pending;
use snapshots::Snapshot;
use wire::Stored;

/// Limits of Pub/Sub, from <https://cloud.google.com/pubsub/quotas#resource_limits>.
mod limits {
    pub(super) const REQUEST_MESSAGES: usize = 1000;
    pub(super) const REQUEST_BYTES: usize = 10_000_000;
    pub(super) const MESSAGE_BYTES: usize = 10_000_000;
    pub(super) const ATTRIBUTES: usize = 100;
    pub(super) const ATTRIBUTE_KEY_BYTES: usize = 256;
    pub(super) const ATTRIBUTE_VALUE_BYTES: usize = 1024;
    pub(super) const ORDERING_KEY_BYTES: usize = 1024;
}

/// The whole emulated Pub/Sub. Clones share the same data.
#[derive(Clone)]
pub(crate) struct PubSub {
    hub: Arc<Hub>,
    pub faults: Faults,
}

#[derive(Default)]
struct Hub {
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    subscriptions: RwLock<BTreeMap<String, Arc<Subscription>>>,
    snapshots: RwLock<BTreeMap<String, Arc<Snapshot>>>,
    next_message: AtomicU64,
    /// Notified when the endpoint of a push subscription may have appeared or disappeared.
    endpoints: Notify,
}

struct Topic {
    config: Mutex<proto::Topic>,
    subscriptions: RwLock<Vec<Arc<Subscription>>>,
    /// Time for which messages are kept for seeking, in seconds; zero keeps none.
    keeps_seconds: AtomicU64,
    /// Kept messages in the order of publishing. A publish holds the lock.
    log: Mutex<VecDeque<Arc<Stored>>>,
}

impl Topic {
    fn config(&self) -> MutexGuard<'_, proto::Topic> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, VecDeque<Arc<Stored>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PubSub {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { hub: Arc::default(), faults }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>, Status> {
        let topics = self.hub.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).cloned().ok_or_else(|| Status::not_found(leaf(name)))
    }

    fn subscription(&self, name: &str) -> Result<Arc<Subscription>, Status> {
        let subscriptions = self.hub.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        subscriptions.get(name).cloned().ok_or_else(|| Status::not_found(leaf(name)))
    }

    /// Publishes messages and returns their ids.
    fn publish(&self, request: proto::PublishRequest) -> Result<proto::PublishResponse, Status> {
        let topic = self.topic(&request.topic)?;
        check_publish(&request)?;
        Ok(proto::PublishResponse { message_ids: self.deliver(&topic, request.messages) })
    }

    /// Delivers messages to the subscriptions of a topic and returns their ids.
    fn deliver(&self, topic: &Topic, messages: Vec<proto::PubsubMessage>) -> Vec<String> {
        let count = messages.len() as u64;
        let mut log = topic.log();
        let first = self.hub.next_message.fetch_add(count, Ordering::Relaxed) + 1;
        let now = SystemTime::now();
        let publish_time = Some(prost_types::Timestamp::from(now));
        let mut message_ids = Vec::with_capacity(messages.len());
        let mut stored = Vec::with_capacity(messages.len());
        for (sequence, mut message) in (first..).zip(messages) {
            message.message_id = sequence.to_string();
            message.publish_time = publish_time;
            message_ids.push(message.message_id.clone());
            stored.push(Arc::new(Stored::new(sequence, now, message)));
        }
        if topic.keeps_seconds.load(Ordering::Relaxed) > 0 {
            log.extend(stored.iter().cloned());
        }
        topic.forget(&mut log);
        let subscriptions = topic.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        subscriptions.iter().for_each(|subscription| subscription.push(&stored));
        message_ids
    }

    /// Moves messages with too many delivery attempts to their dead-letter topic, as Pub/Sub does.
    ///
    /// The limits of a publish request do not apply: there may be many messages, and each gets
    /// three more attributes.
    fn dead_letter(&self, subscription: &Subscription, exhausted: Vec<Pending>) {
        if exhausted.is_empty() {
            return;
        }
        let (name, topic) = subscription.dead_letter_source();
        match self.topic(&topic) {
            Ok(topic) => {
                let dead_letters = exhausted
                    .iter()
                    .filter_map(|pending| with_dead_letter_attributes(&name, pending));
                self.deliver(&topic, dead_letters.collect());
            }
            // As at Google, a message that cannot be forwarded stays in its subscription.
            Err(error) => {
                tracing::warn!(%error, topic, "dead letters could not be forwarded");
                subscription.put_back(exhausted);
            }
        }
    }
}

/// Returns a message with the attributes of a dead letter. Decoding works because this process
/// encoded it.
fn with_dead_letter_attributes(
    subscription: &str,
    pending: &Pending,
) -> Option<proto::PubsubMessage> {
    let mut message = proto::PubsubMessage::decode(pending.message.encoded.clone()).ok()?;
    let added = [
        ("CloudPubSubDeadLetterSourceSubscription", leaf(subscription).to_owned()),
        ("CloudPubSubDeadLetterSourceDeliveryCount", pending.attempts.to_string()),
        ("CloudPubSubDeadLetterSourceMessageId", message.message_id.clone()),
    ];
    for (key, value) in added {
        message.attributes.insert(key.to_owned(), value);
    }
    Some(message)
}

fn check_publish(request: &proto::PublishRequest) -> Result<(), Status> {
    if request.messages.is_empty() || request.messages.len() > limits::REQUEST_MESSAGES {
        return Err(Status::invalid(format!(
            "The value for message_count is out of range. You passed {} in the request, but the \
             value must be between 1 and {}.",
            request.messages.len(),
            limits::REQUEST_MESSAGES
        )));
    }
    let request_bytes = request.encoded_len();
    if request_bytes > limits::REQUEST_BYTES {
        return Err(too_large("request_size", request_bytes, limits::REQUEST_BYTES));
    }
    request.messages.iter().try_for_each(check_message)
}

fn check_message(message: &proto::PubsubMessage) -> Result<(), Status> {
    if message.data.is_empty() && message.attributes.is_empty() {
        let text = "One or more messages in the publish request is empty. Each message must \
                    contain either non-empty data, or at least one attribute.";
        return Err(Status::invalid(text));
    }
    let size = message.encoded_len();
    if size > limits::MESSAGE_BYTES {
        return Err(too_large("message_size", size, limits::MESSAGE_BYTES));
    }
    if message.attributes.len() > limits::ATTRIBUTES {
        return Err(too_large("attribute_count", message.attributes.len(), limits::ATTRIBUTES));
    }
    for (key, value) in &message.attributes {
        if key.is_empty() || key.len() > limits::ATTRIBUTE_KEY_BYTES {
            return Err(too_large("attribute_key_size", key.len(), limits::ATTRIBUTE_KEY_BYTES));
        }
        // Attributes of Google's own clients have the longer prefix.
        if key.starts_with("goog") && !key.starts_with("googclient_") {
            let text = format!("An attribute key must not begin with goog: {key}");
            return Err(Status::invalid(text));
        }
        if value.len() > limits::ATTRIBUTE_VALUE_BYTES {
            let limit = limits::ATTRIBUTE_VALUE_BYTES;
            return Err(too_large("attribute_value_size", value.len(), limit));
        }
    }
    if message.ordering_key.len() > limits::ORDERING_KEY_BYTES {
        let limit = limits::ORDERING_KEY_BYTES;
        return Err(too_large("ordering_key_size", message.ordering_key.len(), limit));
    }
    Ok(())
}

fn too_large(what: &str, is: usize, limit: usize) -> Status {
    Status::invalid(format!(
        "The value for {what} is too large. You passed {is} in the request, but the maximum value \
         is {limit}."
    ))
}

/// Returns the last part of the name of a resource, as Google's errors show it.
fn leaf(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
