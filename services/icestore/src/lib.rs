//! Icestore: messages flow from a Pub/Sub subscription into compressed objects in Cloud Storage.
//!
//! `pubsub::Source` reads messages. [`archive::Archive`] makes a line of JSON of each, with its
//! batch key. [`sink::Sink`] lets one compressed file grow for each key, and uploads it whole or
//! not at all. A message is acknowledged when its object exists.

pub mod archive;
pub mod config;
pub mod format;
pub mod key;
mod object;
pub mod objects;
pub mod reasons;
pub mod sink;
pub mod tools;

use pipeline::{Pipeline, Reasons};
use pubsub::{Clients, Reads as _};
use service::{Context, Dependency, Running, Service, WrongSettings};
use tokio::task::JoinSet;

use archive::Archive;
use config::Settings;
use key::{BatchKey, Template};
use objects::Objects;
use sink::Sink;

/// Reasons for which a message can end here without being sent.
pub const REASONS: Reasons = Reasons {
    refused: &[pipeline::reasons::ENVELOPE, reasons::REFUSED, pipeline::reasons::EVERY_SERVICE],
    skipped: &[],
};

/// The service with its settings, before its start.
pub struct Icestore<K = Template> {
    settings: Settings,
    key: Result<K, WrongSettings>,
    clients: Clients,
}

impl Icestore {
    /// Creates the service with the batch key of its settings. If it is wrong, the start fails.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let key = settings.archive.template();
        Self { settings, key, clients: Clients::default() }
    }
}

impl<K: BatchKey> Icestore<K> {
    /// Creates the service with a custom batch key.
    #[must_use]
    pub fn with_batch_key(settings: Settings, key: K) -> Self {
        Self { settings, key: Ok(key), clients: Clients::default() }
    }

    /// Uses clients and credentials that are handed in. Those that are left out are built from the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        Self { clients, ..self }
    }
}

impl<K: BatchKey> Service for Icestore<K> {
    const NAME: &'static str = "icestore";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, key, clients } = self;
        let key = key?;
        let health = &context.health;
        let counts = context.registry.pipeline(Self::NAME, &REASONS);
        let objects = Objects::default();
        context.registry.register(|registry| objects.register(registry));
        let bucket_condition = health.condition("bucket");
        health.tell("guarantees", service::Settings::explain(&settings)?);

        let intake = settings.intake().with_clients(clients);
        let bucket = settings.storage.open(&intake.clients).await?;
        bucket.wait(&bucket_condition).await;
        let mut watchers = JoinSet::new();
        let opened = intake.open([], context, &mut watchers).await?;
        watchers.spawn(objects.clone().watch(counts.clone()));
        watchers.spawn(bucket.clone().watch(bucket_condition));
        let pipeline = Pipeline {
            service: Self::NAME,
            source: opened.source,
            transform: Archive::new(key, settings.archive.input),
            sink: Sink::new(bucket, &settings.archive).with_metrics(objects),
            dead_letters: opened.dead_letters,
            limits: settings.pipeline,
            metrics: counts,
        };
        Ok(Running::new(watchers).start(pipeline, health))
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let intake = self.settings.intake().with_clients(self.clients.clone());
        let bucket = self.settings.storage.open(&intake.clients).await?;
        let mut dependencies = intake.preflight([]).await?;
        dependencies.push(bucket.dependency().await);
        Ok(dependencies)
    }
}
