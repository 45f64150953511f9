//! Creation of topics and subscriptions that are missing.

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error as ApiError;
use google_cloud_pubsub::model::{self, ExpirationPolicy, RetryPolicy};
use google_cloud_wkt::Duration;
use service::create::{Created, NotCreated};
use service::credentials;
use tokio::time::timeout;
use tracing::warn;

use super::{Admin, AdminClients, LookupError, TIMEOUT, code, is_left_behind, no_answer};
use crate::names::TopicName;

/// Role with the permissions to create topics and subscriptions.
const ROLE: &str = "roles/pubsub.editor";
const DAY: i64 = 24 * 3600;
/// Properties of subscriptions that `deploy/gcp.sh` makes: the acknowledgement deadline in seconds,
/// the retention, and the delays of redelivery.
const ACK_DEADLINE: i32 = 60;
const RETENTION: i64 = 7 * DAY;
const DELAYS: (i64, i64) = (1, 60);
/// Retention of the topic of dead letters, so that somebody has time to look at them.
const DEAD_LETTER_RETENTION: i64 = 30 * DAY;

/// Content of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicContent {
    Messages,
    DeadLetters,
}

impl Admin {
    /// Creates a topic unless it exists.
    pub(crate) async fn ensure_topic(
        &self,
        topic: &TopicName,
        content: TopicContent,
    ) -> Result<Created, NotCreated> {
        let clients = self.0.lease().await.map_err(|error| NotCreated::Yet(no_answer(&error)))?;
        let created = timeout(TIMEOUT, clients.create_topic(topic, content)).await;
        if created.is_ok() {
            clients.done();
        }
        created.unwrap_or_else(|late| Err(NotCreated::Yet(no_answer(&late))))
    }

    /// Creates a subscription of a topic of dead letters, unless the topic has one of any name.
    ///
    /// If its subscriptions may not be listed, `topic_was` decides: only a topic that was created now
    /// has none for certain.
    pub(crate) async fn ensure_reader(
        &self,
        name: &str,
        topic: &TopicName,
        topic_was: Created,
    ) -> Result<Created, NotCreated> {
        let clients = self.0.lease().await.map_err(|error| NotCreated::Yet(no_answer(&error)))?;
        let listed = timeout(TIMEOUT, clients.has_subscription(topic)).await;
        if listed.is_ok() {
            clients.done();
        }
        let has_one = listed.unwrap_or_else(|late| Err(NotCreated::Yet(no_answer(&late))))?;
        if has_one.unwrap_or(topic_was == Created::Before) {
            return Ok(Created::Before);
        }
        self.ensure_subscription(name, topic, TopicContent::DeadLetters).await
    }

    /// Creates a subscription of a topic unless it exists.
    pub(crate) async fn ensure_subscription(
        &self,
        name: &str,
        topic: &TopicName,
        content: TopicContent,
    ) -> Result<Created, NotCreated> {
        let clients = self.0.lease().await.map_err(|error| NotCreated::Yet(no_answer(&error)))?;
        let created = timeout(TIMEOUT, clients.create_subscription(name, topic, content)).await;
        if created.is_ok() {
            clients.done();
        }
        created.unwrap_or_else(|late| Err(NotCreated::Yet(no_answer(&late))))
    }
}

impl AdminClients {
    async fn create_topic(
        &self,
        topic: &TopicName,
        content: TopicContent,
    ) -> Result<Created, NotCreated> {
        if seen(self.topics.get_topic().set_topic(topic.as_str()).send().await)?.is_some() {
            return Ok(Created::Before);
        }
        let retention = match content {
            TopicContent::Messages => None,
            TopicContent::DeadLetters => Some(Duration::clamp(DEAD_LETTER_RETENTION, 0)),
        };
        let created = self
            .topics
            .create_topic()
            .set_name(topic.as_str())
            .set_or_clear_message_retention_duration(retention)
            .send();
        outcome(created.await, "pubsub.topics.create")
    }

    async fn create_subscription(
        &self,
        name: &str,
        topic: &TopicName,
        content: TopicContent,
    ) -> Result<Created, NotCreated> {
        let found = self.subscriptions.get_subscription().set_subscription(name).send().await;
        if let Some(found) = seen(found)? {
            return reads(&found, topic);
        }
        let delays = RetryPolicy::new()
            .set_minimum_backoff(Duration::clamp(DELAYS.0, 0))
            .set_maximum_backoff(Duration::clamp(DELAYS.1, 0));
        let created = self
            .subscriptions
            .create_subscription()
            .set_name(name)
            .set_topic(topic.as_str())
            .set_ack_deadline_seconds(ACK_DEADLINE)
            .set_message_retention_duration(Duration::clamp(RETENTION, 0))
            // A policy without a time means that it never expires.
            .set_expiration_policy(ExpirationPolicy::new())
            .set_or_clear_retry_policy((content == TopicContent::Messages).then_some(delays))
            .send();
        let permissions =
            "pubsub.subscriptions.create, or pubsub.topics.attachSubscription on its topic";
        match outcome(created.await, permissions)? {
            Created::Now => Ok(Created::Now),
            Created::Before => self.look_again(name, topic).await,
        }
    }

    /// Checks a subscription that exists although it was not seen before.
    async fn look_again(&self, name: &str, topic: &TopicName) -> Result<Created, NotCreated> {
        let found = self.subscriptions.get_subscription().set_subscription(name).send().await;
        match found {
            Ok(found) => reads(&found, topic),
            Err(error) => match code(&error) {
                Some(Code::PermissionDenied) => {
                    warn!(
                        subscription = name,
                        %topic,
                        "it exists and may not be seen, so its topic is unchecked (roles/pubsub.viewer)"
                    );
                    Ok(Created::Before)
                }
                _ => Err(NotCreated::Yet(LookupError::of(name, &error).to_string())),
            },
        }
    }

    /// Returns true if a topic has a subscription. Returns `None` if the topic is missing, or if its
    /// subscriptions may not be listed.
    async fn has_subscription(&self, topic: &TopicName) -> Result<Option<bool>, NotCreated> {
        let mut listed = self.topics.list_topic_subscriptions().set_topic(topic.as_str());
        loop {
            let Some(page) = seen(listed.clone().send().await)? else { return Ok(None) };
            if page.subscriptions.iter().any(|name| !is_left_behind(name)) {
                return Ok(Some(true));
            }
            if page.next_page_token.is_empty() {
                return Ok(Some(false));
            }
            listed = listed.set_page_token(page.next_page_token);
        }
    }
}

/// Checks that an existing subscription reads from this topic.
fn reads(found: &model::Subscription, topic: &TopicName) -> Result<Created, NotCreated> {
    if found.topic == topic.as_str() {
        return Ok(Created::Before);
    }
    let wrong = format!("it exists, and reads {} instead of {topic}", found.topic);
    Err(NotCreated::Ever(wrong))
}

/// Returns a resource that exists, or `None` if it is missing or may not be seen.
fn seen<T>(found: Result<T, ApiError>) -> Result<Option<T>, NotCreated> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) => match code(&error) {
            Some(Code::NotFound | Code::PermissionDenied) => Ok(None),
            _ => Err(NotCreated::Yet(no_answer(&error))),
        },
    }
}

/// Returns the result of an attempt to create something.
fn outcome<T>(created: Result<T, ApiError>, permission: &str) -> Result<Created, NotCreated> {
    let Err(error) = created else { return Ok(Created::Now) };
    let why = credentials::explain(&error);
    match code(&error) {
        // It could not be seen, or another replica was faster.
        Some(Code::AlreadyExists) => Ok(Created::Before),
        Some(Code::PermissionDenied) => Err(NotCreated::denied(permission, ROLE, &why)),
        Some(Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented) => {
            Err(NotCreated::Ever(why))
        }
        _ => Err(NotCreated::Yet(why)),
    }
}
