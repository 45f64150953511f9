//! What every service that reads from a subscription needs of Pub/Sub, opened in one go.

use pipeline::Error;
use pipeline::dead_letter::Policy;
use pipeline::metrics::Reasons;
use service::{Context, Need};
use tokio::task::JoinSet;

use crate::admin::{Admin, subscription_watcher};
use crate::connection::{Connection, TopicName};
use crate::dead_letters::DeadLetters;
use crate::guard::TopicGuard;
use crate::letters::Office;
use crate::publishers::Publishers;
use crate::settings::{Endpoint, Graves, Keyword, Subscription};
use crate::source::{Source, SourceMetrics};
use crate::survey::Survey;

/// Settings of a service that reads from a subscription.
pub trait Reads {
    /// Why its messages can end without being sent.
    const REASONS: Reasons;

    /// Where its messages come from, and where those go that can never succeed.
    fn intake(&self) -> Intake<'_>;
}

/// The settings that say where messages come from, and where those go that can never succeed.
#[derive(Debug, Clone)]
pub struct Intake<'a> {
    /// The service.
    pub service: &'static str,
    /// The project.
    pub project: &'a str,
    /// The subscription to read from.
    pub subscription: &'a Subscription,
    /// Where dead letters go; required, which the settings' check sees to.
    pub dead_letters: Option<&'a Graves>,
    /// How Pub/Sub is reached.
    pub pubsub: &'a Endpoint,
    /// How Cloud Storage is reached, for large dead letters.
    pub storage: storage::Endpoint,
}

/// An intake at work.
pub struct Opened {
    /// The messages.
    pub source: Source,
    /// For publishing.
    pub publishers: Publishers,
    /// Sees to it that all topics have an audience.
    pub guard: TopicGuard,
    /// The dead letters.
    pub dead_letters: Policy<DeadLetters>,
}

impl<'a> Intake<'a> {
    /// Waits until `topics` and that of the dead letters are there, opens the subscription, and adds
    /// to `watchers` the tasks that keep readiness true.
    ///
    /// # Errors
    /// For what waiting cannot mend.
    pub async fn open(
        self,
        topics: impl IntoIterator<Item = TopicName>,
        context: &Context,
        watchers: &mut JoinSet<()>,
    ) -> anyhow::Result<Opened> {
        let metrics = SourceMetrics::default();
        context.registry.register(|registry| metrics.register(registry));
        let condition = context.health.condition("subscription");
        let graves = self.dead_letters;
        let graves = graves.ok_or_else(|| anyhow::anyhow!("dead_letters is required"))?;

        let connection = Connection::new(self.pubsub.clone());
        let admin = Admin::new(&connection).await?;
        let topics: Vec<_> = topics.into_iter().chain(graves.topic(self.project)).collect();
        let guard = TopicGuard::new(topics.clone());
        if !topics.is_empty() {
            let condition = context.health.condition("topics");
            guard.wait(&admin, &condition).await;
            watchers.spawn(guard.clone().watch(admin.clone(), condition));
        }
        let publishers = Publishers::new(&connection).await?;
        let source = Source::open(&connection, self.project, self.subscription, metrics);
        let opened = Opened {
            source: source.await?,
            dead_letters: DeadLetters::policy(
                graves,
                self.project,
                &publishers,
                &guard,
                &self.storage,
            )
            .await?,
            publishers,
            guard,
        };
        watchers.spawn(subscription_watcher(
            admin,
            (self.project.to_owned(), self.subscription.id.clone()),
            *graves == Graves::Keyword(Keyword::Subscription),
            condition,
        ));
        Ok(opened)
    }

    /// Looks at what is needed of Pub/Sub to read, to publish to `topics`, and for dead letters.
    ///
    /// # Errors
    /// When no client can be built.
    pub async fn look(
        self,
        topics: impl IntoIterator<Item = TopicName>,
    ) -> Result<Vec<Need>, Error> {
        let survey = Survey {
            project: self.project,
            pubsub: self.pubsub,
            storage: &self.storage,
            topics: topics.into_iter().collect(),
            subscription: Some(self.subscription),
            dead_letters: self.dead_letters,
        };
        survey.look().await
    }

    /// The tool for its dead letters, which go back to where the service reads.
    #[must_use]
    pub fn office(self) -> Office<'a> {
        Office {
            service: self.service,
            project: self.project,
            pubsub: self.pubsub,
            topic: self.dead_letters.and_then(|graves| graves.topic(self.project)),
            reads: Some(self.subscription),
        }
    }
}
