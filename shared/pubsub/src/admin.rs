//! What exists: topics, subscriptions, and who listens.

use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error as ApiError;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model;
use pipeline::{Error, Recovery, Renewable};
use service::Condition;
use tokio::time::timeout;

use crate::connection::{Connection, TopicName, full_name};

/// Longest duration of one question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Who would see a message published to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A subscription, or whoever reads what is retained.
    Someone,
    /// Nobody: Pub/Sub would confirm the publish and forget the message.
    Nobody(String),
    /// We may not ask.
    Unchecked,
    /// We could not ask.
    Unknown(String),
}

/// Why something was not seen: Pub/Sub's code, where it answered.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Unseen {
    pub(crate) code: Option<Code>,
    why: String,
}

impl Unseen {
    fn silent(error: impl std::fmt::Display) -> Self {
        Self { code: None, why: format!("Pub/Sub does not answer: {error}") }
    }

    fn of(name: &str, error: &ApiError) -> Self {
        let code = code(error);
        let why = match code {
            Some(Code::NotFound) => format!("{name} does not exist"),
            _ => format!("{name} cannot be read: {error}"),
        };
        Self { code, why }
    }
}

/// Asks what exists.
#[derive(Debug, Clone)]
pub struct Admin(Renewable<Clients>);

#[derive(Debug)]
struct Clients {
    topics: TopicAdmin,
    subscriptions: SubscriptionAdmin,
    rights: SchemaService,
}

impl Admin {
    /// Builds the clients; nothing is sent yet.
    ///
    /// # Errors
    /// `Stop` when no client can be built.
    pub async fn new(connection: &Connection) -> Result<Self, Error> {
        let connection = connection.clone();
        let clients = Renewable::open(move || {
            let connection = connection.clone();
            Box::pin(async move {
                Ok(Clients {
                    topics: connection.topics().await?,
                    subscriptions: connection.subscriptions().await?,
                    rights: connection.rights().await?,
                })
            })
        });
        Ok(Self(clients.await?))
    }

    /// Who would see a message published to this topic.
    pub(crate) async fn audience(&self, topic: &TopicName) -> Audience {
        let clients = match self.0.lease().await {
            Ok(clients) => clients,
            Err(error) => return Audience::Unknown(format!("Pub/Sub cannot be asked: {error}")),
        };
        let asked = timeout(TIMEOUT, clients.ask_audience(topic)).await;
        if asked.is_ok() {
            clients.done();
        }
        match asked {
            Ok(Ok(audience)) => audience,
            Ok(Err(error)) => match code(&error) {
                Some(Code::NotFound) => Audience::Nobody(format!("{topic} does not exist")),
                Some(Code::PermissionDenied | Code::Unauthenticated) => Audience::Unchecked,
                _ => Audience::Unknown(format!("Pub/Sub does not answer: {error}")),
            },
            Err(late) => Audience::Unknown(format!("Pub/Sub does not answer: {late}")),
        }
    }

    /// Whether a message may be published to this topic: Pub/Sub would confirm one that nobody will see.
    ///
    /// # Errors
    /// `Retry` when nobody would see it, or Pub/Sub cannot be asked.
    pub async fn require_audience(&self, topic: &TopicName) -> Result<(), Error> {
        match self.audience(topic).await {
            Audience::Someone | Audience::Unchecked => Ok(()),
            Audience::Nobody(why) | Audience::Unknown(why) => {
                Err(Recovery::Retry.because("publish", why))
            }
        }
    }

    /// A subscription, or why it cannot be seen.
    pub(crate) async fn find_subscription(
        &self,
        name: &str,
    ) -> Result<model::Subscription, Unseen> {
        let clients = self.0.lease().await.map_err(Unseen::silent)?;
        let asked = clients.subscriptions.get_subscription().set_subscription(name).send();
        let asked = timeout(TIMEOUT, asked).await;
        if asked.is_ok() {
            clients.done();
        }
        asked.map_err(Unseen::silent)?.map_err(|error| Unseen::of(name, &error))
    }

    /// Whether we have a permission on something, or why that is not told.
    pub(crate) async fn may(&self, name: &str, permission: &str) -> Result<bool, Unseen> {
        let clients = self.0.lease().await.map_err(Unseen::silent)?;
        let asked = clients
            .rights
            .test_iam_permissions()
            .set_resource(name)
            .set_permissions([permission])
            .send();
        let asked = timeout(TIMEOUT, asked).await;
        if asked.is_ok() {
            clients.done();
        }
        let granted = asked.map_err(Unseen::silent)?.map_err(|error| Unseen::of(name, &error))?;
        Ok(granted.permissions.iter().any(|granted| granted == permission))
    }
}

impl Clients {
    async fn ask_audience(&self, topic: &TopicName) -> Result<Audience, ApiError> {
        let found = self.topics.get_topic().set_topic(topic.as_str()).send().await?;
        if found.message_retention_duration.is_some() {
            return Ok(Audience::Someone);
        }
        let mut listed =
            self.topics.list_topic_subscriptions().set_topic(topic.as_str()).set_page_size(1);
        // A deleted topic leaves its subscriptions, which do not listen to it any more.
        loop {
            let page = listed.clone().send().await?;
            if page.subscriptions.iter().any(|name| !name.contains("_deleted-")) {
                return Ok(Audience::Someone);
            }
            if page.next_page_token.is_empty() {
                let reason = format!("{topic} has neither a subscription nor retention");
                return Ok(Audience::Nobody(reason));
            }
            listed = listed.set_page_token(page.next_page_token);
        }
    }
}

/// The gRPC code, or what the HTTP status stands for.
pub(crate) fn code(error: &ApiError) -> Option<Code> {
    let of_status = error.status().map(|status| status.code);
    of_status.or_else(|| match error.http_status_code()? {
        403 => Some(Code::PermissionDenied),
        401 => Some(Code::Unauthenticated),
        404 => Some(Code::NotFound),
        _ => None,
    })
}

/// Keeps `condition` true to whether a subscription is there; `needs_policy` asks for a dead-letter
/// policy too. Never returns.
pub(crate) async fn subscription_watcher(
    admin: Admin,
    (project, id): (String, String),
    needs_policy: bool,
    condition: Condition,
) {
    /// Between two looks at a subscription that is there; outages show earlier elsewhere.
    const INTERVAL: Duration = Duration::from_secs(15);
    /// Between two looks at one that is not.
    const MISSING_INTERVAL: Duration = Duration::from_secs(1);
    let name = full_name(&project, "subscriptions", &id);
    loop {
        let interval = match admin.find_subscription(&name).await {
            Ok(found) if needs_policy && found.dead_letter_policy.is_none() => {
                condition.not_ready(format!(
                    "{name} has no dead-letter policy, which `dead_letters: subscription` needs"
                ));
                MISSING_INTERVAL
            }
            Ok(_) => {
                condition.ready();
                INTERVAL
            }
            Err(unseen) => {
                condition.not_ready(unseen.to_string());
                MISSING_INTERVAL
            }
        };
        tokio::time::sleep(interval).await;
    }
}
