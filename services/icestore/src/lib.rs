//! Icestore: messages flow from a Pub/Sub subscription into compressed objects in Cloud Storage, in
//! a folder, or in a store with the API of S3.
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
pub mod store;
pub mod tools;

use pipeline::{Pipeline, Reasons};
use pubsub::{Clients, Reads as _};
use service::create;
use service::{Context, Dependency, Running, Service, WrongSettings};
use storage::ObjectStore;
use tokio::task::JoinSet;

use archive::Archive;
use config::Settings;
use key::{BatchKey, Template};
use objects::Objects;
use sink::Sink;
use store::{FromSettings, Given, OpenStore};

/// Reasons for which a message can end here without being sent.
pub const REASONS: Reasons = Reasons {
    refused: &[pipeline::reasons::ENVELOPE, reasons::REFUSED, pipeline::reasons::EVERY_SERVICE],
    skipped: &[],
};

/// The service with its settings, before its start.
pub struct Icestore<K = Template, O = FromSettings> {
    settings: Settings,
    key: Result<K, WrongSettings>,
    clients: Clients,
    store: O,
}

impl Icestore {
    /// Creates the service with the batch key of its settings. If it is wrong, the start fails.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let key = settings.archive.template();
        Self { settings, key, clients: Clients::default(), store: FromSettings }
    }
}

impl<K: BatchKey> Icestore<K> {
    /// Creates the service with a custom batch key.
    #[must_use]
    pub fn with_batch_key(settings: Settings, key: K) -> Self {
        Self { settings, key: Ok(key), clients: Clients::default(), store: FromSettings }
    }
}

impl<K: BatchKey, O: OpenStore> Icestore<K, O> {
    /// Uses clients and credentials that are handed in. Those that are left out are built from the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        Self { clients, ..self }
    }

    /// Returns the same service, which writes to this store.
    ///
    /// Settings without a bucket, a folder or an `s3` are still refused. The service does not write
    /// to the place that they name, but `replay` and `explain` use it, and so do estimates of the cost.
    #[must_use]
    pub fn with_store<S: ObjectStore>(self, store: S) -> Icestore<K, Given<S>> {
        let Self { settings, key, clients, store: _ } = self;
        Icestore { settings, key, clients, store: Given(store) }
    }
}

impl<K: BatchKey, O: OpenStore> Service for Icestore<K, O> {
    const NAME: &'static str = "icestore";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, key, clients, store } = self;
        let key = key?;
        let health = &context.health;
        let counts = context.registry.pipeline(Self::NAME, &REASONS);
        let objects = Objects::default();
        context.registry.register(|registry| objects.register(registry));
        let bucket_condition = health.condition("bucket");
        health.tell("guarantees", service::Settings::explain(&settings)?);

        let intake = settings.intake().with_clients(clients);
        let store = store.open(&settings.storage, &intake.clients).await?;
        if settings.intake.create {
            create::ensure(&store.address(""), &bucket_condition, || {
                store.ensure(&settings.process.project)
            })
            .await?;
        }
        store.wait(&bucket_condition).await?;
        let mut watchers = JoinSet::new();
        let opened = intake.open([], context, &mut watchers).await?;
        watchers.spawn(objects.clone().watch(counts.clone(), settings.storage.price()));
        watchers.spawn(store.clone().watch(bucket_condition));
        let pipeline = Pipeline {
            service: Self::NAME,
            source: opened.source,
            transform: Archive::new(key, settings.archive.input).with_levels(store.needs_levels()),
            sink: Sink::new(store, &settings.archive).with_metrics(objects),
            dead_letters: opened.dead_letters,
            limits: settings.pipeline,
            metrics: counts,
        };
        Ok(Running::new(watchers).start(pipeline, health))
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let intake = self.settings.intake().with_clients(self.clients.clone());
        let store = self.store.open(&self.settings.storage, &intake.clients).await?;
        let mut dependencies = intake.preflight([]).await?;
        let is_created = self.settings.intake.create && store.is_creatable();
        dependencies.push(store.dependency().await.created(is_created));
        Ok(dependencies)
    }
}
