//! Ingestion carries messages from an MQTT broker, and from clients over HTTP and gRPC, to Pub/Sub
//! topics, as its routes say.
//!
//! - [`mqtt::Source`] subscribes. It hands each PUBLISH on with a handle to acknowledge it.
//! - [`http::HttpSource`] has the messages of requests, whose clients wait for the outcome.
//! - [`route::Route`] finds the route of a message, gives it an id and wraps it into an envelope.
//! - `pubsub::Sink` publishes it.
//!
//! The PUBACK, or the answer, is sent after Pub/Sub has confirmed the message. PUBACKs keep the order
//! of the PUBLISHes.

pub mod config;
pub mod dead_letters;
pub mod enricher;
pub mod filter;
pub mod guarantee;
pub mod host;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod mqtt;
pub mod ordering;
pub mod proto;
pub mod reasons;
pub mod route;
pub mod routes;
pub mod source;
pub mod tools;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use pipeline::dead_letter::Policy;
use pipeline::{Pipeline, Reasons};
use pubsub::{
    Admin, Clients, Connection, DeadLetters, FindAudience, Preflight, Publishers, SharedAudience,
    TopicGuard, TopicName,
};
use service::{Context, Dependency, Health, Running, Service, WrongSettings};
use tokio::task::JoinSet;
use tracing::{info, warn};

use config::{HttpIngest, Settings};
use dead_letters::Named;
use enricher::{Enricher, FromTopic};
use metrics::Metrics;
use mqtt::Mode;
use ordering::Ordering;
use route::Route;
use routes::Routes;
use source::Sources;

/// Reasons why a message can end here without being sent.
pub const REASONS: Reasons = Reasons {
    refused: &[reasons::REFUSED, pubsub::reasons::SINK, pipeline::reasons::EVERY_SERVICE],
    skipped: &[reasons::SKIPPED, pipeline::reasons::PAYLOAD_SIZE],
};

/// Ingestion with its settings, not started yet.
pub struct Ingestion<E = FromTopic> {
    settings: Settings,
    enricher: E,
    audience: Option<SharedAudience>,
    mode: Mode,
    metrics: Metrics,
    clients: Clients,
}

impl Ingestion {
    /// Creates the service with the standard enricher. It writes `DeviceID`, `Topic` and
    /// `Timestamp` into the enrichment data.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_enricher(settings, FromTopic)
    }
}

impl<E: Enricher> Ingestion<E> {
    /// Creates the service with a custom enricher.
    #[must_use]
    pub fn with_enricher(settings: Settings, enricher: E) -> Self {
        let (metrics, clients) = (Metrics::default(), Clients::default());
        Self { settings, enricher, audience: None, mode: Mode::Run, metrics, clients }
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
        Self { clients, ..self }
    }

    /// Carries the messages that the broker still holds for this replica, and then ends its
    /// sessions. Use it for a replica that was removed permanently. The replica's process must have
    /// ended.
    ///
    /// The specification lets a broker drop unsent messages at an UNSUBSCRIBE [MQTT 5, 3.10.4].
    /// mosquitto keeps them.
    ///
    /// # Errors
    /// Fails when the replica is alive or a message could not be carried. The sessions stay then.
    /// Also fails when the broker has no session of this replica.
    pub async fn retire(mut self) -> anyhow::Result<()> {
        if !self.settings.has_mqtt() {
            bail!("there is no mqtt.url: ingestion has sessions only at a broker");
        }
        self.mode = Mode::Drain;
        // The messages of clients over HTTP are not those of a removed replica.
        self.settings.http_ingest = None;
        let (mqtt, grace) = (self.settings.mqtt.clone(), self.settings.process.grace_period);
        let metrics = self.metrics.clone();
        let mut running = self.start(&Context::default()).await?;
        running.exhausted().await?;
        running.shutdown(grace).await?;
        // This runs even if no session existed, because the search for sessions has created some.
        mqtt::Source::end_sessions(&mqtt).await?;
        if metrics.absent_sessions.get() >= mqtt.connections.into() {
            bail!(
                "{} has no session {}: nothing was retired; check --ordinal, mqtt.name and mqtt.url. A \
                 replica that was retired before has none either, nor has one whose session has expired",
                mqtt.url,
                mqtt.client_id(0)
            );
        }
        info!("retired: the broker keeps nothing for this replica any more");
        Ok(())
    }
}

impl<E: Enricher> Service for Ingestion<E> {
    const NAME: &'static str = "ingestion";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, enricher, audience, mode, metrics, clients } = self;
        let clients = clients.or_settings(&settings.process.google);
        let (health, registry) = (&context.health, &context.registry);
        let counts = registry.pipeline(Self::NAME, &REASONS);
        registry.register(|registry| metrics.register(registry));
        let topics_condition = health.condition("topics");
        // Wrong settings end the service. Nothing must be waited for before.
        if settings.has_mqtt() {
            settings.mqtt.broker()?;
        }
        let routes = Arc::new(Routes::new(&settings.routes)?);
        let http = match &settings.http_ingest {
            Some(http) => Some(http::Port::bind(http).await?),
            None => None,
        };

        let connection = Connection::new(settings.pubsub.clone()).with_clients(clients.clone());
        let admin = Admin::new(&connection).await?;
        let guard = TopicGuard::new(topics(&settings)?);
        if settings.create {
            needs(&settings, &clients)?.create_missing(&topics_condition).await?;
        }
        let audience = audience.unwrap_or_else(|| SharedAudience::new(admin));
        guard.wait(&audience, &topics_condition).await;

        let publishers = Publishers::new(&connection).await?;
        let dead_letters = open_dead_letters(&settings, &publishers, &guard, &clients).await?.map(
            |dead_letters| Named::new(dead_letters, Arc::clone(&routes), settings.identity.clone()),
        );
        let mqtt = settings.has_mqtt().then(|| connect(&settings, mode, &routes, &metrics, health));
        let grants = source::grants(mqtt.as_ref());
        let (port, http) = http.unzip();
        let mut watchers = JoinSet::new();
        watchers.spawn(guarantee::follow(
            settings.clone(),
            Arc::clone(&routes),
            !guard.unchecked().is_empty(),
            grants,
            health.clone(),
        ));
        watchers.spawn(guard.clone().watch(audience, topics_condition));
        let pipeline = Pipeline {
            service: Self::NAME,
            source: Sources::of(mqtt, http, settings.pipeline.retry, counts.clone()),
            dead_letters,
            sink: pubsub::Sink::new(publishers, guard).reporting_to(health),
            transform: Route::new(&settings, Arc::clone(&routes), enricher, metrics.clone())?,
            limits: settings.pipeline.clone(),
            metrics: counts,
        };
        let running = Running::new(watchers).start(pipeline, health);
        let Some((port, http)) = port.zip(settings.http_ingest) else { return Ok(running) };
        let parts = http::MessageParts { routes, identity: settings.identity, metrics };
        serve(port, &http, parts, context, running)
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let settings = &self.settings;
        let clients = self.clients.clone().or_settings(&settings.process.google);
        let needs = needs(settings, &clients)?;
        let preflight = Preflight { audience: self.audience.clone(), ..needs };
        let mut dependencies = preflight.check().await?;
        if settings.has_mqtt() {
            dependencies.push(mqtt::dependency(&settings.mqtt).await);
        }
        Ok(dependencies)
    }
}

/// Returns everything that ingestion needs of Pub/Sub.
fn needs<'a>(settings: &'a Settings, clients: &'a Clients) -> Result<Preflight<'a>, WrongSettings> {
    Ok(Preflight {
        project: &settings.process.project,
        pubsub: &settings.pubsub,
        storage: &settings.storage,
        topics: producer_topics(settings)?,
        subscription: None,
        dead_letters: settings.dead_letters.as_ref(),
        create: settings.create,
        audience: None,
        clients,
    })
}

/// Opens the destination of dead letters.
async fn open_dead_letters(
    settings: &Settings,
    publishers: &Publishers,
    guard: &TopicGuard,
    clients: &Clients,
) -> anyhow::Result<Policy<DeadLetters>> {
    let dead_letters = settings.dead_letters.as_ref();
    let dead_letters = dead_letters.ok_or_else(|| anyhow::anyhow!("dead_letters is required"))?;
    let (project, storage) = (&settings.process.project, &settings.storage);
    Ok(DeadLetters::policy(dead_letters, project, publishers, guard, storage, clients).await?)
}

/// Answers requests over HTTP and gRPC, until the service is drained.
fn serve(
    port: http::Port,
    settings: &HttpIngest,
    parts: http::MessageParts,
    context: &Context,
    running: Running,
) -> anyhow::Result<Running> {
    let counts = web::Metrics::default();
    context.registry.register(|registry| {
        counts.register(registry, &[HttpIngest::SECTION]);
        parts.metrics.register_http(registry);
    });
    context.health.tell(HttpIngest::SECTION, port.address().to_string());
    info!(address = %port.address(), "takes messages over HTTP and gRPC");
    let server = port.serve(settings, parts, context.health.clone(), &counts)?;
    Ok(running.with_drain(move |grace| server.shutdown(grace)))
}

/// Connects to the broker and subscribes to the filters of the routes.
fn connect(
    settings: &Settings,
    mode: Mode,
    routes: &Arc<Routes>,
    metrics: &Metrics,
    health: &Health,
) -> mqtt::Source {
    if settings.mqtt.ordinal.is_none() && host::ordinal().is_none() {
        warn!(
            client_id = settings.mqtt.client_id(0),
            "the host's name has no ordinal: with several replicas set mqtt.ordinal for each"
        );
    }
    let ordering = Ordering::new(routes, settings.ordering_buckets);
    let setup = mqtt::Setup {
        settings: &settings.mqtt,
        filters: &routes.filters(),
        ordering: ordering.as_ref(),
        metrics,
        health,
    };
    mqtt::Source::connect(mode, setup)
}

/// Returns all topics that ingestion publishes to, including the topic for dead letters.
fn topics(settings: &Settings) -> Result<BTreeSet<TopicName>, WrongSettings> {
    let project = &settings.process.project;
    let dead_letters = settings.dead_letters.as_ref().map(|to| to.topic(project)).transpose()?;
    Ok(producer_topics(settings)?.into_iter().chain(dead_letters.flatten()).collect())
}

/// Returns the topics of all producers.
fn producer_topics(settings: &Settings) -> Result<Vec<TopicName>, WrongSettings> {
    let producers = settings.producers.iter();
    producers.map(|(name, to)| to.topic(name, &settings.process.project)).collect()
}
