//! Enrich carries messages from a Pub/Sub subscription to a topic, and adds data about their
//! device.
//!
//! - `pubsub::Source` reads the messages.
//! - [`enrichment::Enrichment`] finds the key of a message, looks its document up and applies it.
//! - [`cache::Lookup`] asks memory, Redis and Firestore, in this order.
//! - `pubsub::Sink` publishes the enriched message.
//!
//! A message is acknowledged once Pub/Sub has confirmed the enriched one.

pub mod admin;
pub mod apply;
pub mod cache;
mod clients;
pub mod config;
pub mod enrichment;
pub mod key;
pub mod metrics;
mod preflight;
pub mod reasons;
pub mod tools;

use std::time::Duration;

use pipeline::{Pipeline, Reasons};
use pubsub::{FindAudience, Reads as _, SharedAudience, TopicGuard};
use service::{Condition, Context, Dependency, Health, Pauses, Running, Service, WrongSettings};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, warn};
use web::Server;

use apply::{Apply, Fields};
use cache::firestore::Firestore;
use cache::invalidation::Listener;
use cache::redis::Redis;
use cache::{Fetch, Lookup};
pub use clients::{Clients, RedisClient};
use config::{Admin, Settings};
use enrichment::Enrichment;
use key::{FirstOf, Key};
use metrics::Metrics;

/// Time between two checks of the source's health.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reasons why a message can end here without being sent.
pub const REASONS: Reasons = Reasons {
    refused: &[
        pipeline::reasons::ENVELOPE,
        reasons::MISSING,
        pubsub::reasons::SINK,
        pipeline::reasons::EVERY_SERVICE,
    ],
    skipped: &[reasons::MISSING],
};

/// Enrich with its settings, not started yet.
pub struct Enrich<K = FirstOf, A = Fields, F = Firestore> {
    settings: Settings,
    key: K,
    apply: A,
    source: F,
    audience: Option<SharedAudience>,
    clients: Clients,
}

impl Enrich {
    /// Creates the service with the key, the fields and the collection of its settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let key = FirstOf::new(settings.enrichment.key.clone());
        let apply = Fields::new(settings.enrichment.fields.clone());
        let source = settings.documents();
        Self { settings, key, apply, source, audience: None, clients: Clients::default() }
    }
}

impl<K: Key, A: Apply, F: Fetch> Enrich<K, A, F> {
    /// Creates the service with a custom key, applier and source of documents.
    #[must_use]
    pub fn with(settings: Settings, key: K, apply: A, source: F) -> Self {
        Self { settings, key, apply, source, audience: None, clients: Clients::default() }
    }

    /// Finds the readers of topics by this rule, instead of asking Pub/Sub.
    #[must_use]
    pub fn with_audience(self, rule: impl FindAudience) -> Self {
        Self { audience: Some(SharedAudience::new(rule)), ..self }
    }

    /// Uses clients and credentials that are handed in. Those that are left out are built from the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        Self { source: self.source.with_clients(&clients), clients, ..self }
    }
}

impl<K: Key, A: Apply, F: Fetch> Service for Enrich<K, A, F> {
    const NAME: &'static str = "enrich";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, key, apply, source, audience, clients } = self;
        let metrics = Metrics::default();
        let counts = context.registry.pipeline(Self::NAME, &REASONS);
        context.registry.register(|registry| metrics.register(registry));
        let mut watchers = JoinSet::new();
        let redis = Redis::of(&settings.cache.redis, clients.redis)?;
        let (lookup, reader) = Lookup::with_redis(&settings.cache, redis, source, metrics.clone());
        let mut reading = JoinSet::new();
        reading.spawn(reader);
        let layers = lookup.clone();
        let admin = open(&settings, &lookup, context, &mut watchers).await?;
        let topic = settings.topic()?;
        let intake = settings.intake().with_audience(audience).with_clients(clients.intake);
        let opened = intake.open([topic.clone()], context, &mut watchers).await?;
        context.health.tell("guarantees", guarantees(&settings, &opened.guard)?);
        let pipeline = Pipeline {
            service: Self::NAME,
            source: opened.source,
            transform: Enrichment {
                key,
                apply,
                lookup,
                input: settings.enrichment.input,
                on_missing: settings.enrichment.on_missing,
                topic,
                metrics,
            },
            sink: pubsub::Sink::new(opened.publishers, opened.guard).reporting_to(&context.health),
            dead_letters: opened.dead_letters,
            limits: settings.pipeline,
            metrics: counts,
        };
        let running = Running::new(watchers).start(pipeline, &context.health);
        let running = running.with_drain(|grace| admin.shutdown(grace));
        Ok(running.with_close(move |left| async move {
            layers.close();
            match timeout(left, reading.join_next()).await {
                Ok(Some(Err(error))) => error!(%error, "the reader of documents has failed"),
                Ok(_) => {}
                Err(_) => warn!("reads of documents were cut off at the end of the grace period"),
            }
        }))
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let settings = &self.settings;
        let topic = settings.topic()?;
        let intake = settings.intake().with_audience(self.audience.clone());
        let intake = intake.with_clients(self.clients.intake.clone());
        let mut dependencies = intake.preflight([topic]).await?;
        dependencies.push(preflight::documents(&self.source, &settings.firestore.collection).await);
        let redis = self.clients.redis.clone();
        dependencies.extend(preflight::redis(&settings.cache.redis, redis, &self.source).await);
        Ok(dependencies)
    }
}

/// Opens the admin port, and watches the caches.
async fn open<F: Fetch>(
    settings: &Settings,
    lookup: &Lookup<F>,
    context: &Context,
    watchers: &mut JoinSet<()>,
) -> anyhow::Result<Server> {
    let condition = context.health.condition("documents");
    let admin = admin::bind(&settings.admin).await?;
    context.health.tell("admin", admin.address().to_string());
    let counts = web::Metrics::default();
    context.registry.register(|registry| counts.register(registry, &[Admin::SECTION]));
    let admin = admin.serve(admin::routes(lookup.clone()), &counts);
    watchers.spawn(watch(lookup.clone(), condition, context.health.clone()));
    let listener = Listener::start(lookup.clone(), context.health.clone()).await;
    watchers.spawn(listener.run());
    Ok(admin)
}

fn guarantees(settings: &Settings, guard: &TopicGuard) -> Result<Vec<String>, WrongSettings> {
    let mut lines = service::Settings::explain(settings)?;
    if !guard.unchecked().is_empty() {
        lines.push(
            "whether somebody sees all messages of the topic is unchecked: the log says why".into(),
        );
    }
    Ok(lines)
}

/// Sets `condition` to ready while the source answers, and reports the state of Redis. Never
/// returns.
///
/// Without Redis, each key is read from the source. So an outage of Redis is no reason to stop
/// messages.
async fn watch<F: Fetch>(lookup: Lookup<F>, condition: Condition, health: Health) {
    let check = async || {
        lookup.probe_source().await;
        lookup.probe_redis().await;
        health.tell("redis", lookup.redis_state());
        let outage = lookup.source_outage();
        outage.map_or(Ok(()), |why| Err(format!("{why}; known keys go on")))
    };
    condition.watch(check, Pauses { ready: INTERVAL, not_ready: INTERVAL }).await;
}
