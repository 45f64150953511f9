//! Opens everything in Pub/Sub that a service needs to read from a subscription.

use anyhow::Context as _;
use pipeline::Error;
use pipeline::Reasons;
use pipeline::dead_letter::Policy;
use service::{Context, Dependency};
use tokio::task::JoinSet;

use crate::admin::{Admin, subscription_watcher};
use crate::audience::SharedAudience;
use crate::clients::Clients;
use crate::connection::Connection;
use crate::dead_letters::DeadLetters;
use crate::guard::TopicGuard;
use crate::names::TopicName;
use crate::preflight::Preflight;
use crate::publishers::Publishers;
use crate::settings::{DeadLetterConfig, IntakeSettings, Keyword};
use crate::source::{Source, SourceMetrics};

/// Settings of a service that reads from a subscription.
pub trait Reads {
    /// Reasons why its messages can end without being sent.
    const REASONS: Reasons;

    /// Returns the source of its messages, and the destination of its dead letters.
    fn intake(&self) -> Intake<'_>;
}

/// Settings for the source of messages and the destination of dead letters.
#[derive(Debug, Clone)]
pub struct Intake<'a> {
    /// Name of the service.
    pub service: &'static str,
    /// Id of the project.
    pub project: &'a str,
    /// Subscription to read from, and the destination of dead letters. The check of the settings
    /// reports a missing one.
    pub settings: &'a IntakeSettings,
    /// Connection settings of Cloud Storage, for large dead letters.
    pub storage: storage::Endpoint,
    /// Rule that finds the readers of topics. By default Pub/Sub is asked.
    pub audience: Option<SharedAudience>,
    /// Credentials of the settings, and clients that are handed in.
    pub clients: Clients,
}

/// A running intake.
pub struct Opened {
    /// Source of the messages.
    pub source: Source,
    /// Publishers for the service and its dead letters.
    pub publishers: Publishers,
    /// Guard that checks that all topics have an audience.
    pub guard: TopicGuard,
    /// Destination of dead letters.
    pub dead_letters: Policy<DeadLetters>,
}

impl<'a> Intake<'a> {
    /// Returns the same intake with another rule that finds the readers of topics.
    #[must_use]
    pub fn with_audience(self, audience: Option<SharedAudience>) -> Self {
        Self { audience, ..self }
    }

    /// Uses clients that are handed in. Without credentials of their own, they use those of the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        let identity = clients.identity.clone().or(self.clients.identity);
        Self { clients: Clients { identity, ..clients }, ..self }
    }

    /// Creates missing resources if the settings ask for it. Waits until `topics` and the dead-letter
    /// topic exist, then opens the subscription. Adds the tasks that keep readiness up to date to
    /// `watchers`.
    ///
    /// # Errors
    /// Faults that waiting cannot repair.
    pub async fn open(
        self,
        topics: impl IntoIterator<Item = TopicName>,
        context: &Context,
        watchers: &mut JoinSet<()>,
    ) -> anyhow::Result<Opened> {
        let metrics = SourceMetrics::default();
        context.registry.register(|registry| metrics.register(registry));
        let condition = context.health.condition("subscription");
        let IntakeSettings { subscription, dead_letters, pubsub, create, .. } = self.settings;
        let dead_letters = dead_letters.as_ref().context("dead_letters is required")?;

        let connection = Connection::new(pubsub.clone()).with_clients(self.clients.clone());
        let admin = Admin::new(&connection).await?;
        let mut topics: Vec<_> = topics.into_iter().collect();
        if *create {
            self.needs(topics.clone()).create_missing(&condition).await?;
        }
        topics.extend(dead_letters.topic(self.project)?);
        let guard = TopicGuard::new(topics.clone());
        if !topics.is_empty() {
            let condition = context.health.condition("topics");
            let rule = self.audience.unwrap_or_else(|| SharedAudience::new(admin.clone()));
            guard.wait(&rule, &condition).await;
            watchers.spawn(guard.clone().watch(rule, condition));
        }
        let publishers = Publishers::new(&connection).await?;
        let source = Source::open(&connection, self.project, subscription, metrics);
        let opened = Opened {
            source: source.await?,
            dead_letters: DeadLetters::policy(
                dead_letters,
                self.project,
                &publishers,
                &guard,
                &self.storage,
                &self.clients,
            )
            .await?,
            publishers,
            guard,
        };
        watchers.spawn(subscription_watcher(
            admin,
            subscription.name(self.project)?,
            *dead_letters == DeadLetterConfig::Keyword(Keyword::Subscription),
            condition,
        ));
        Ok(opened)
    }

    /// Checks everything that is needed of Pub/Sub: reading, publishing to `topics`, and dead
    /// letters.
    ///
    /// # Errors
    /// No client can be built.
    pub async fn preflight(
        self,
        topics: impl IntoIterator<Item = TopicName>,
    ) -> Result<Vec<Dependency>, Error> {
        self.needs(topics.into_iter().collect()).check().await
    }

    /// Returns everything that is needed of Pub/Sub, with these topics to publish to.
    fn needs(&self, topics: Vec<TopicName>) -> Preflight<'_> {
        Preflight {
            project: self.project,
            pubsub: &self.settings.pubsub,
            storage: &self.storage,
            topics,
            subscription: Some(&self.settings.subscription),
            dead_letters: self.settings.dead_letters.as_ref(),
            create: self.settings.create,
            audience: self.audience.clone(),
            clients: &self.clients,
        }
    }
}
