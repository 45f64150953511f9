//! Checks that Pub/Sub has everything that the settings of a service need. Changes nothing.

use google_cloud_gax::error::rpc::Code;
use pipeline::Error;
use service::Dependency;
use service::create;
use service::tools::preflight::State;
use storage::{Bucket, ObjectStore as _};

use crate::admin::Admin;
use crate::audience::{Audience, FindAudience as _, SharedAudience, ask};
use crate::clients::Clients;
use crate::connection::Connection;
use crate::names::TopicName;
use crate::settings::{DeadLetterConfig, Endpoint, Keyword, Subscription};

/// Least role needed on a topic that is published to.
const PUBLISHER: &str = "roles/pubsub.publisher";
/// Least role needed on a subscription that is read from.
const SUBSCRIBER: &str = "roles/pubsub.subscriber";
/// Role needed on both, to see whether messages reach a subscription.
const VIEWER: &str = "roles/pubsub.viewer";

/// Resources in Pub/Sub that the settings of a service name.
#[derive(Debug, Clone)]
pub struct Preflight<'a> {
    /// Id of the project.
    pub project: &'a str,
    /// Connection settings of Pub/Sub.
    pub pubsub: &'a Endpoint,
    /// Connection settings of Cloud Storage, for large dead letters.
    pub storage: &'a storage::Endpoint,
    /// Topics that are published to.
    pub topics: Vec<TopicName>,
    /// Subscription that is read from.
    pub subscription: Option<&'a Subscription>,
    /// Destination of dead letters.
    pub dead_letters: Option<&'a DeadLetterConfig>,
    /// True if the service creates what is missing at its start.
    pub create: bool,
    /// Rule that finds the readers of topics. By default Pub/Sub is asked.
    pub audience: Option<SharedAudience>,
    /// Credentials, and clients that are handed in.
    pub clients: &'a Clients,
}

impl Preflight<'_> {
    /// Checks all of these resources.
    ///
    /// # Errors
    /// No client can be built, or nobody has checked these settings.
    pub async fn check(&self) -> Result<Vec<Dependency>, Error> {
        let clients = self.clients;
        let connection = Connection::new(self.pubsub.clone()).with_clients(clients.clone());
        let admin = Admin::new(&connection).await?;
        let mut dependencies = Vec::new();
        if let Some(subscription) = self.subscription {
            let found = self.subscription(&admin, subscription.name(self.project)?).await;
            dependencies.push(found.created(self.create));
        }
        let dead_letters = self
            .dead_letters
            .map(|dead_letters| dead_letters.topic(self.project))
            .transpose()?
            .flatten();
        for topic in self.topics.iter().chain(&dead_letters) {
            dependencies.push(self.topic(&admin, topic).await);
        }
        let bucket = self.dead_letters.map(DeadLetterConfig::bucket).transpose()?.flatten();
        if let Some(bucket) = bucket {
            let bucket = Bucket::open(bucket, self.storage, &clients.identity, &clients.storage);
            dependencies.push(bucket.await?.dependency().await.created(self.create));
        }
        Ok(dependencies)
    }

    async fn subscription(&self, admin: &Admin, name: String) -> Dependency {
        let leaves_dead_letters =
            self.dead_letters == Some(&DeadLetterConfig::Keyword(Keyword::Subscription));
        let state = match admin.find_subscription(&name).await {
            Ok(found) if found.topic == "_deleted-topic_" => {
                State::Differs("its topic was deleted: nothing will come".into())
            }
            Ok(found) if leaves_dead_letters && found.dead_letter_policy.is_none() => {
                State::Differs(
                    "it has no dead-letter policy, which `dead_letters: subscription` needs".into(),
                )
            }
            Ok(_) => rights(admin, &name, "pubsub.subscriptions.consume", SUBSCRIBER).await,
            Err(error) => match error.code {
                Some(Code::NotFound) => State::Missing("it does not exist".into()),
                Some(Code::PermissionDenied) => {
                    State::Unchecked(format!("no right to see it ({VIEWER})"))
                }
                _ => State::Unreachable(error.to_string()),
            },
        };
        Dependency { kind: "subscription", name, roles: &[SUBSCRIBER, VIEWER], state }
    }

    async fn topic(&self, admin: &Admin, topic: &TopicName) -> Dependency {
        let audience = match &self.audience {
            Some(rule) => ask(rule, topic).await,
            None => admin.audience(topic).await,
        };
        let state = match audience {
            Audience::Someone => {
                rights(admin, topic.as_str(), "pubsub.topics.publish", PUBLISHER).await
            }
            Audience::Missing(_) if self.create => State::WillCreate(create::AT_START.into()),
            Audience::Nobody(why) | Audience::Missing(why) => State::Missing(why),
            Audience::Unchecked(why) => State::Unchecked(why),
            Audience::Unknown(why) => State::Unreachable(why),
        };
        Dependency { kind: "topic", name: topic.to_string(), roles: &[PUBLISHER, VIEWER], state }
    }
}

/// Checks that we have the permission that the service needs.
async fn rights(admin: &Admin, name: &str, permission: &str, role: &str) -> State {
    match admin.may(name, permission).await {
        Err(error) if !matches!(error.code, Some(Code::PermissionDenied | Code::Unimplemented)) => {
            State::Unreachable(error.to_string())
        }
        may => State::of_right(permission, role, may),
    }
}
