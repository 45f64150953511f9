//! Creates, gets, lists, updates and deletes topics and subscriptions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tonic::Code;

use super::delivery::Subscription;
use super::filter::AttributeFilter;
use super::{PubSub, Topic, names, proto, push};
use crate::status::Status;

/// Range of an ack deadline in seconds; 0 means the default of 10.
const ACK_DEADLINE: RangeInclusive<i32> = 10..=600;
const DEFAULT_ACK_DEADLINE: i32 = 10;
/// Range of the delivery attempts of a dead-letter policy; 0 means the default of 5.
const ATTEMPTS: RangeInclusive<i32> = 5..=100;
const DEFAULT_ATTEMPTS: i32 = 5;
/// Default time for which an unacknowledged message is kept.
const DEFAULT_RETENTION_SECONDS: i64 = 7 * 24 * 3600;
/// Ranges of durations, from the comments of Google's `pubsub.proto`.
const RETENTION: RangeInclusive<Duration> = Duration::from_secs(600)..=DAY.saturating_mul(31);
const BACKOFF: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Request for a page of names.
#[derive(Debug, Clone)]
pub(super) struct PageRequest {
    /// Maximum number of names; 0 for the default.
    pub size: i32,
    /// Token from the page before. It is the last name of that page.
    pub token: String,
}

impl PubSub {
    pub(crate) fn create_topic(&self, topic: proto::Topic) -> Result<proto::Topic, Status> {
        names::check(&topic.name, "topics")?;
        let unsupported = [
            (topic.schema_settings.is_some(), "schema_settings"),
            (topic.ingestion_data_source_settings.is_some(), "ingestion_data_source_settings"),
            (!topic.message_transforms.is_empty(), "message_transforms"),
        ];
        refuse(&unsupported)?;
        check_retention(topic.message_retention_duration)?;
        let mut topics = self.hub.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.contains_key(&topic.name) {
            return Err(Status::already_exists(super::leaf(&topic.name)));
        }
        let created = Arc::new(Topic {
            config: Mutex::new(topic.clone()),
            subscriptions: RwLock::default(),
            keeps_seconds: 0.into(),
            log: Mutex::default(),
        });
        self.decide_keeping(&created);
        topics.insert(topic.name.clone(), created);
        Ok(topic)
    }

    pub(super) fn get_topic(&self, name: &str) -> Result<proto::Topic, Status> {
        Ok(self.topic(name)?.config().clone())
    }

    pub(super) fn update_topic(
        &self,
        request: proto::UpdateTopicRequest,
    ) -> Result<proto::Topic, Status> {
        let new = request.topic.ok_or_else(|| Status::invalid("topic is required"))?;
        let topic = self.topic(&new.name)?;
        let mut updated = topic.config().clone();
        for path in paths(request.update_mask)? {
            match path.as_str() {
                "labels" => updated.labels.clone_from(&new.labels),
                "message_retention_duration" => {
                    updated.message_retention_duration = new.message_retention_duration;
                }
                other => return Err(Status::invalid(format!("cannot update {other} of a topic"))),
            }
        }
        check_retention(updated.message_retention_duration)?;
        topic.config().clone_from(&updated);
        self.decide_keeping(&topic);
        Ok(updated)
    }

    pub(super) fn delete_topic(&self, name: &str) -> Result<(), Status> {
        let mut topics = self.hub.topics.write().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.remove(name).ok_or_else(|| Status::not_found(super::leaf(name)))?;
        let subscriptions = topic.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        for subscription in &*subscriptions {
            subscription.configure(|config| config.topic = "_deleted-topic_".into());
        }
        Ok(())
    }

    pub(super) fn list_topics(
        &self,
        project: &str,
        page: PageRequest,
    ) -> Result<(Vec<proto::Topic>, String), Status> {
        let topics = self.hub.topics.read().unwrap_or_else(PoisonError::into_inner);
        let (names, next) = listed(&topics, &format!("{project}/topics/"), page)?;
        Ok((names.iter().map(|name| topics[name].config().clone()).collect(), next))
    }

    pub(super) fn list_topic_subscriptions(
        &self,
        topic: &str,
        page: PageRequest,
    ) -> Result<(Vec<String>, String), Status> {
        let topic = self.topic(topic)?;
        let subscriptions = topic.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        let names = subscriptions.iter().map(|subscription| (subscription.config().name, ()));
        listed(&names.collect(), "", page)
    }

    pub(crate) fn create_subscription(
        &self,
        mut config: proto::Subscription,
    ) -> Result<proto::Subscription, Status> {
        names::check(&config.name, "subscriptions")?;
        let topic = self.topic(&config.topic)?;
        check(&mut config)?;
        self.check_dead_letter_topic(&config)?;
        let filter = AttributeFilter::parse(&config.filter)?;
        config.topic_message_retention_duration = topic.config().message_retention_duration;
        let mut known = self.hub.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        if known.contains_key(&config.name) {
            return Err(Status::already_exists(super::leaf(&config.name)));
        }
        let born = self.hub.next_message.load(Ordering::Relaxed);
        let subscription = Arc::new(Subscription::new(config.clone(), filter, born));
        known.insert(config.name.clone(), Arc::clone(&subscription));
        topic.subscriptions.write().unwrap_or_else(PoisonError::into_inner).push(subscription);
        drop(known);
        self.decide_keeping(&topic);
        self.hub.endpoints.notify_waiters();
        Ok(config)
    }

    pub(super) fn get_subscription(&self, name: &str) -> Result<proto::Subscription, Status> {
        Ok(self.subscription(name)?.config())
    }

    pub(super) fn update_subscription(
        &self,
        request: proto::UpdateSubscriptionRequest,
    ) -> Result<proto::Subscription, Status> {
        let new =
            request.subscription.ok_or_else(|| Status::invalid("subscription is required"))?;
        let subscription = self.subscription(&new.name)?;
        let mut config = subscription.config();
        for path in paths(request.update_mask)? {
            match path.as_str() {
                "ack_deadline_seconds" => config.ack_deadline_seconds = new.ack_deadline_seconds,
                "dead_letter_policy" => {
                    self.check_dead_letter_topic(&new)?;
                    config.dead_letter_policy.clone_from(&new.dead_letter_policy);
                }
                "retry_policy" => config.retry_policy = new.retry_policy,
                "enable_exactly_once_delivery" => {
                    config.enable_exactly_once_delivery = new.enable_exactly_once_delivery;
                }
                "labels" => config.labels.clone_from(&new.labels),
                "expiration_policy" => config.expiration_policy = new.expiration_policy,
                "message_retention_duration" => {
                    config.message_retention_duration = new.message_retention_duration;
                }
                "retain_acked_messages" => config.retain_acked_messages = new.retain_acked_messages,
                "push_config" => config.push_config.clone_from(&new.push_config),
                other => {
                    return Err(Status::invalid(format!(
                        "cannot update {other} of a subscription"
                    )));
                }
            }
        }
        check(&mut config)?;
        subscription.configure(|current| current.clone_from(&config));
        if let Ok(topic) = self.topic(&config.topic) {
            self.decide_keeping(&topic);
        }
        self.hub.endpoints.notify_waiters();
        Ok(config)
    }

    /// Refuses a dead-letter policy whose topic does not exist, as Google's `pubsub.proto`
    /// documents.
    fn check_dead_letter_topic(&self, config: &proto::Subscription) -> Result<(), Status> {
        match &config.dead_letter_policy {
            Some(policy) => self.topic(&policy.dead_letter_topic).map(drop),
            None => Ok(()),
        }
    }

    /// Sets or removes the endpoint of a push subscription.
    pub(super) fn modify_push_config(
        &self,
        request: proto::ModifyPushConfigRequest,
    ) -> Result<(), Status> {
        let subscription = self.subscription(&request.subscription)?;
        let mut config = subscription.config();
        config.push_config = Some(request.push_config.unwrap_or_default());
        check(&mut config)?;
        subscription.configure(|current| current.push_config = config.push_config);
        self.hub.endpoints.notify_waiters();
        Ok(())
    }

    pub(super) fn delete_subscription(&self, name: &str) -> Result<(), Status> {
        let mut known = self.hub.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        let subscription =
            known.remove(name).ok_or_else(|| Status::not_found(super::leaf(name)))?;
        drop(known);
        if let Ok(topic) = self.topic(&subscription.config().topic) {
            let mut listening = topic.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
            listening.retain(|other| !Arc::ptr_eq(other, &subscription));
            drop(listening);
            self.decide_keeping(&topic);
        }
        subscription.delete();
        Ok(())
    }

    pub(super) fn list_subscriptions(
        &self,
        project: &str,
        page: PageRequest,
    ) -> Result<(Vec<proto::Subscription>, String), Status> {
        let known = self.hub.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        let (names, next) = listed(&known, &format!("{project}/subscriptions/"), page)?;
        Ok((names.iter().map(|name| known[name].config()).collect(), next))
    }
}

/// Checks a subscription, and fills in the defaults that Google returns.
fn check(config: &mut proto::Subscription) -> Result<(), Status> {
    let unsupported = [
        (config.bigquery_config.is_some(), "bigquery_config"),
        (config.cloud_storage_config.is_some(), "cloud_storage_config"),
        (config.bigtable_config.is_some(), "bigtable_config"),
        (!config.message_transforms.is_empty(), "message_transforms"),
    ];
    refuse(&unsupported)?;
    if let Some(push) = &config.push_config {
        push::check(push)?;
        // https://cloud.google.com/pubsub/docs/exactly-once-delivery
        if config.enable_exactly_once_delivery && !push.push_endpoint.is_empty() {
            let text = "Push subscriptions do not support exactly-once delivery.";
            return Err(Status::invalid(text));
        }
    }
    if config.ack_deadline_seconds == 0 {
        config.ack_deadline_seconds = DEFAULT_ACK_DEADLINE;
    }
    if !ACK_DEADLINE.contains(&config.ack_deadline_seconds) {
        let given = config.ack_deadline_seconds;
        return Err(Status::invalid(format!(
            "Invalid ack deadline given: ackDeadlineSecs={given}"
        )));
    }
    if config.message_retention_duration.is_none() {
        let week = prost_types::Duration { seconds: DEFAULT_RETENTION_SECONDS, nanos: 0 };
        config.message_retention_duration = Some(week);
    }
    check_retention(config.message_retention_duration)?;
    if let Some(policy) = &config.retry_policy {
        check_duration("minimum_backoff", policy.minimum_backoff, &BACKOFF)?;
        check_duration("maximum_backoff", policy.maximum_backoff, &BACKOFF)?;
    }
    if let Some(policy) = &mut config.dead_letter_policy {
        names::check(&policy.dead_letter_topic, "topics")?;
        if policy.max_delivery_attempts == 0 {
            policy.max_delivery_attempts = DEFAULT_ATTEMPTS;
        }
        if !ATTEMPTS.contains(&policy.max_delivery_attempts) {
            let text = "max_delivery_attempts must be between 5 and 100";
            return Err(Status::invalid(text));
        }
    }
    Ok(())
}

fn check_retention(given: Option<prost_types::Duration>) -> Result<(), Status> {
    check_duration("message_retention_duration", given, &RETENTION)
}

/// Refuses a duration outside of its range. A missing duration is accepted.
fn check_duration(
    what: &str,
    given: Option<prost_types::Duration>,
    bounds: &RangeInclusive<Duration>,
) -> Result<(), Status> {
    let Some(given) = given else { return Ok(()) };
    if Duration::try_from(given).is_ok_and(|given| bounds.contains(&given)) {
        return Ok(());
    }
    let (least, most) = (bounds.start(), bounds.end());
    Err(Status::invalid(format!("{what} must be between {least:?} and {most:?}.")))
}

fn refuse(unsupported: &[(bool, &str)]) -> Result<(), Status> {
    match unsupported.iter().find(|(is_set, _)| *is_set) {
        Some((_, what)) => Err(Status::unimplemented(what)),
        None => Ok(()),
    }
}

pub(super) fn paths(mask: Option<prost_types::FieldMask>) -> Result<Vec<String>, Status> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        return Err(Status::invalid("The update_mask in the request must be set and non-empty."));
    }
    Ok(paths)
}

/// Returns a page of names, and the token of the next page: the last name of this one.
pub(super) fn listed<T>(
    all: &BTreeMap<String, T>,
    prefix: &str,
    page: PageRequest,
) -> Result<(Vec<String>, String), Status> {
    let size = match usize::try_from(page.size) {
        Ok(0) => 100,
        Ok(size) => size.min(1000),
        Err(_) => return Err(Status::new(Code::InvalidArgument, "page_size must not be negative")),
    };
    let mut names = all.keys().filter(|name| name.starts_with(prefix) && **name > page.token);
    let found: Vec<_> = names.by_ref().take(size).cloned().collect();
    let next = names.next().and(found.last()).cloned().unwrap_or_default();
    Ok((found, next))
}
