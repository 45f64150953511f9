//! Questions about existing resources: topics, subscriptions, and who reads from them.

pub(crate) mod create;

use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error as ApiError;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model;
use pipeline::{Error, Recovery};
use service::renewable::Renewable;
use service::settings::Parsed;
use service::{Condition, Pauses, credentials};
use tokio::time::timeout;

use crate::audience::{Audience, FindAudience};
use crate::connection::Connection;
use crate::names::TopicName;
use crate::settings::Endpoint;

/// Longest duration of one question.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest duration of the question for an audience. It ends before the guard gives up its rule, so
/// that the reason names Pub/Sub.
const AUDIENCE_TIMEOUT: Duration = Duration::from_secs(9);

/// Reason why a resource was not seen. `code` is Pub/Sub's code, if it answered.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct LookupError {
    pub(crate) code: Option<Code>,
    why: String,
}

impl LookupError {
    fn silent(error: impl std::error::Error + 'static) -> Self {
        Self { code: None, why: no_answer(&error) }
    }

    /// Returns advice for a person. `instead` describes an alternative. It is part of the advice
    /// only if Pub/Sub has answered.
    pub(crate) fn advice(&self, endpoint: &Endpoint, instead: &str) -> String {
        let place = endpoint.endpoint.as_ref().map_or("Google's own Pub/Sub", Parsed::text);
        match self.code {
            Some(Code::NotFound) => instead.to_owned(),
            Some(Code::PermissionDenied) => {
                format!("take the role roles/pubsub.viewer to see it, or {instead}")
            }
            _ if credentials::is_about_missing(&self.why) => "then run it again".into(),
            Some(Code::Unauthenticated) => format!("{place} does not take these credentials"),
            _ => format!(
                "{place} must be reached from here: look at the network, pubsub.endpoint and \
                 PUBSUB_EMULATOR_HOST"
            ),
        }
    }

    fn of(name: &str, error: &ApiError) -> Self {
        let code = code(error);
        let why = match code {
            Some(Code::NotFound) => format!("{name} does not exist"),
            _ => format!("{name} cannot be read: {}", credentials::explain(error)),
        };
        Self { code, why }
    }
}

/// Client that asks which resources exist.
#[derive(Debug, Clone)]
pub struct Admin(Renewable<AdminClients>);

#[derive(Debug)]
struct AdminClients {
    topics: TopicAdmin,
    subscriptions: SubscriptionAdmin,
    rights: SchemaService,
}

impl Admin {
    /// Builds the clients. Sends nothing yet.
    ///
    /// # Errors
    /// `Stop` if no client can be built.
    pub async fn new(connection: &Connection) -> Result<Self, Error> {
        let connection = connection.clone();
        let clients = Renewable::open(move || {
            let connection = connection.clone();
            Box::pin(async move {
                Ok(AdminClients {
                    topics: connection.topics().await?,
                    subscriptions: connection.subscriptions().await?,
                    rights: connection.rights().await?,
                })
            })
        });
        Ok(Self(clients.await?))
    }

    /// Checks that somebody would see a message published to this topic. Pub/Sub itself also
    /// confirms messages that nobody will ever see.
    ///
    /// # Errors
    /// `Retry` if nobody would see it, or if Pub/Sub cannot be asked.
    pub async fn require_audience(&self, topic: &TopicName) -> Result<(), Error> {
        match self.audience(topic).await {
            Audience::Someone | Audience::Unchecked(_) => Ok(()),
            Audience::Nobody(why) | Audience::Missing(why) | Audience::Unknown(why) => {
                Err(Recovery::Retry.because("publish", why))
            }
        }
    }

    /// Returns a subscription, or the reason why it cannot be seen.
    pub(crate) async fn find_subscription(
        &self,
        name: &str,
    ) -> Result<model::Subscription, LookupError> {
        let clients = self.0.lease().await.map_err(LookupError::silent)?;
        let asked = clients.subscriptions.get_subscription().set_subscription(name).send();
        let asked = timeout(TIMEOUT, asked).await;
        if asked.is_ok() {
            clients.done();
        }
        asked.map_err(LookupError::silent)?.map_err(|error| LookupError::of(name, &error))
    }

    /// Returns true if we have a permission on a resource, or the reason why Pub/Sub does not tell.
    pub(crate) async fn may(&self, name: &str, permission: &str) -> Result<bool, LookupError> {
        let clients = self.0.lease().await.map_err(LookupError::silent)?;
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
        let granted =
            asked.map_err(LookupError::silent)?.map_err(|error| LookupError::of(name, &error))?;
        Ok(granted.permissions.iter().any(|granted| granted == permission))
    }
}

impl FindAudience for Admin {
    async fn audience(&self, topic: &TopicName) -> Audience {
        let clients = match self.0.lease().await {
            Ok(clients) => clients,
            Err(error) => return Audience::Unknown(no_answer(&error)),
        };
        let asked = timeout(AUDIENCE_TIMEOUT, clients.ask_audience(topic)).await;
        if asked.is_ok() {
            clients.done();
        }
        match asked {
            Ok(Ok(audience)) => audience,
            Ok(Err(error)) => match code(&error) {
                Some(Code::NotFound) => Audience::Missing(format!("{topic} does not exist")),
                Some(Code::PermissionDenied | Code::Unauthenticated) => {
                    let right = "no right to see its subscriptions (roles/pubsub.viewer)";
                    Audience::Unchecked(right.into())
                }
                _ => Audience::Unknown(no_answer(&error)),
            },
            Err(late) => Audience::Unknown(no_answer(&late)),
        }
    }
}

impl AdminClients {
    async fn ask_audience(&self, topic: &TopicName) -> Result<Audience, ApiError> {
        let found = self.topics.get_topic().set_topic(topic.as_str()).send().await?;
        if found.message_retention_duration.is_some() {
            return Ok(Audience::Someone);
        }
        let mut listed = self.topics.list_topic_subscriptions().set_topic(topic.as_str());
        let mut listeners = Vec::new();
        loop {
            let page = listed.clone().send().await?;
            for name in page.subscriptions {
                let listener = self.listener(&name).await?;
                if listener == Listener::All {
                    return Ok(Audience::Someone);
                }
                listeners.push((name, listener));
                if listeners.len() >= MAX_LISTENERS {
                    return Ok(judge(topic, &listeners));
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(judge(topic, &listeners));
            }
            listed = listed.set_page_token(page.next_page_token);
        }
    }

    async fn listener(&self, name: &str) -> Result<Listener, ApiError> {
        if is_left_behind(name) {
            return Ok(Listener::None);
        }
        match self.subscriptions.get_subscription().set_subscription(name).send().await {
            Ok(found) => Ok(Listener::of(&found)),
            Err(error) => match code(&error) {
                Some(Code::NotFound) => Ok(Listener::None),
                Some(Code::PermissionDenied | Code::Unauthenticated) => Ok(Listener::Unknown),
                _ => Err(error),
            },
        }
    }
}

/// Returns true for a subscription that a deleted topic left behind. It no longer receives anything.
fn is_left_behind(name: &str) -> bool {
    name.contains("_deleted-")
}

/// Maximum number of subscriptions of a topic that are examined.
const MAX_LISTENERS: usize = 20;

/// The part of its topic that a subscription receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    All,
    /// Messages that pass its filter. Pub/Sub drops the others.
    Some,
    /// Unknown, because we may not see the subscription.
    Unknown,
    None,
}

impl Listener {
    fn of(found: &model::Subscription) -> Self {
        match (found.detached, found.filter.is_empty()) {
            (true, _) => Self::None,
            (false, true) => Self::All,
            (false, false) => Self::Some,
        }
    }
}

/// Returns the audience of a topic of which no visible subscription receives everything.
fn judge(topic: &TopicName, listeners: &[(String, Listener)]) -> Audience {
    let named = |wanted| {
        let named = listeners.iter().filter(move |(_, listener)| *listener == wanted);
        named.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (filtered, unknown) = (named(Listener::Some), named(Listener::Unknown));
    if !filtered.is_empty() {
        let why = "what its filter does not let pass may be seen by nobody";
        return Audience::Unchecked(format!("{why}: {filtered}"));
    }
    if !unknown.is_empty() {
        return Audience::Unchecked(format!("no right to see whether it has a filter: {unknown}"));
    }
    Audience::Nobody(format!("{topic} has neither a subscription nor retention"))
}

fn no_answer(error: &(dyn std::error::Error + 'static)) -> String {
    format!("Pub/Sub does not answer: {}", credentials::explain(error))
}

/// Returns the code of Pub/Sub's answer, or `None` if it did not answer.
pub(crate) fn code(error: &ApiError) -> Option<Code> {
    error.status().map(|status| status.code)
}

/// Updates `condition` with the presence of the subscription of this full name. If `needs_policy`, the subscription
/// must also have a dead-letter policy. Never returns.
pub(crate) async fn subscription_watcher(
    admin: Admin,
    name: String,
    needs_policy: bool,
    condition: Condition,
) {
    /// Pauses between two checks. An outage shows earlier elsewhere.
    const PAUSES: Pauses =
        Pauses { ready: Duration::from_secs(15), not_ready: Duration::from_secs(1) };
    let check = async || match admin.find_subscription(&name).await {
        Ok(found) if needs_policy && found.dead_letter_policy.is_none() => Err(format!(
            "{name} has no dead-letter policy, which `dead_letters: subscription` needs"
        )),
        Ok(_) => Ok(()),
        Err(unknown) => Err(unknown.to_string()),
    };
    condition.watch(check, PAUSES).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn advice_depends_on_whether_pubsub_has_answered() {
        let emulator =
            Endpoint { endpoint: Some("http://localhost:1".into()), ..Endpoint::default() };
        let advice = |code| {
            LookupError { code, why: "words".into() }.advice(&emulator, "name another with --x")
        };

        assert_eq!(advice(Some(Code::NotFound)), "name another with --x");
        let denied = advice(Some(Code::PermissionDenied));
        assert!(denied.contains("roles/pubsub.viewer") && denied.contains("--x"), "{denied}");
        for code in [None, Some(Code::Unavailable)] {
            let silent = advice(code);
            assert!(silent.starts_with("http://localhost:1 must be reached"), "{silent}");
            assert!(!silent.contains("--x"), "{silent}");
        }
        let refused = advice(Some(Code::Unauthenticated));
        assert_eq!(refused, "http://localhost:1 does not take these credentials");
    }

    #[test]
    fn advice_about_missing_credentials_is_not_repeated() {
        let error = LookupError { code: None, why: format!("{} (words)", credentials::MISSING) };

        assert_eq!(error.advice(&Endpoint::default(), "name another"), "then run it again");
    }

    #[test]
    fn a_filter_may_let_nothing_pass_and_what_is_detached_does_not_listen() {
        let subscription = || model::Subscription::new().set_name("s");

        assert_eq!(Listener::of(&subscription()), Listener::All);
        let filtered = subscription().set_filter("attributes:device_id");
        assert_eq!(Listener::of(&filtered), Listener::Some);
        assert_eq!(Listener::of(&subscription().set_detached(true)), Listener::None);
        assert_eq!(Listener::of(&filtered.set_detached(true)), Listener::None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn at_most_twenty_subscriptions_of_a_topic_are_examined() {
        service::install_crypto();
        let emulator = emulator::Emulator::start(<_>::default()).await.unwrap();
        let endpoint = Endpoint { endpoint: Some(emulator.url().into()), ..Endpoint::default() };
        let admin = Admin::new(&Connection::new(endpoint)).await.unwrap();
        let topic = TopicName::new("p", "topic");
        let put = async |resource: String, body: serde_json::Value| {
            let url = format!("{}/v1/projects/p/{resource}", emulator.url());
            let request = reqwest::Client::new().put(url).json(&body);
            request.send().await.unwrap().error_for_status().unwrap();
        };
        put("topics/topic".into(), json!({})).await;
        // The embedded Pub/Sub lists them by name. The last one receives everything.
        put("subscriptions/whole".into(), json!({ "topic": topic.as_str() })).await;
        let filtered = json!({ "topic": topic.as_str(), "filter": "attributes:device_id" });

        for index in 1..MAX_LISTENERS {
            put(format!("subscriptions/filtered-{index}"), filtered.clone()).await;
        }
        assert_eq!(admin.audience(&topic).await, Audience::Someone);

        put(format!("subscriptions/filtered-{MAX_LISTENERS}"), filtered).await;
        let bounded = admin.audience(&topic).await;
        assert!(matches!(bounded, Audience::Unchecked(_)), "{bounded:?}");
    }

    #[test]
    fn whoever_may_not_see_everything_is_named() {
        let topic = TopicName::new("p", "topic");
        let judged = |listeners: &[(&str, Listener)]| {
            let named = listeners.iter().map(|(name, listener)| ((*name).to_owned(), *listener));
            judge(&topic, &named.collect::<Vec<_>>())
        };

        let gone = judged(&[("gone", Listener::None)]);
        assert!(matches!(gone, Audience::Nobody(why) if why.contains("projects/p/topics/topic")));
        for listener in [Listener::Some, Listener::Unknown] {
            let doubtful = judged(&[("gone", Listener::None), ("doubtful", listener)]);
            let Audience::Unchecked(why) = doubtful else { panic!("{doubtful:?}") };
            assert!(why.ends_with(": doubtful"), "{why}");
        }
    }
}
