//! Icestore: messages flow from a Pub/Sub subscription into compressed objects in Cloud Storage.
//!
//! `pubsub::Source` reads them; [`archive::Archive`] makes each a line of JSON with its batch key;
//! [`sink::Sink`] lets a gzip file grow per key and uploads it, whole or not at all. A message is
//! acknowledged when its object is there.

pub mod archive;
pub mod bucket;
pub mod config;
pub mod key;
pub mod sink;

use pipeline::Pipeline;
use pubsub::{
    Admin, Connection, DeadLetters, Graves, Keyword, Publishers, Source, SourceMetrics, TopicGuard,
};
use service::{Context, Running, Service};
use tokio::task::JoinSet;

use archive::Archive;
use bucket::Bucket;
use config::Settings;
use key::{BatchKey, Template};
use sink::Sink;

/// Icestore with its settings, not started yet.
pub struct Icestore<K = Template> {
    settings: Settings,
    key: K,
}

impl Icestore {
    /// Icestore with the batch key of its settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        // A template that is wrong was refused when the settings were read.
        let key = Template::parse(&settings.archive.batch_key).unwrap_or_default();
        Self { settings, key }
    }
}

impl<K: BatchKey> Icestore<K> {
    /// Icestore with a batch key of one's own.
    #[must_use]
    pub fn with_batch_key(settings: Settings, key: K) -> Self {
        Self { settings, key }
    }
}

impl<K: BatchKey> Service for Icestore<K> {
    const NAME: &'static str = "icestore";

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, key } = self;
        let health = &context.health;
        let source_metrics = SourceMetrics::default();
        let counts = pipeline::Metrics::default();
        context.registry.register(|registry| {
            counts.register(registry);
            source_metrics.register(registry);
        });
        let bucket_condition = health.condition("bucket");
        let subscription_condition = health.condition("subscription");
        let graves = settings.dead_letters.clone();
        let graves = graves.ok_or_else(|| anyhow::anyhow!("dead_letters is required"))?;
        health.tell("guarantees", vec![graves.guarantee()]);

        let bucket = Bucket::new(&settings.storage).await?;
        bucket.wait(&bucket_condition).await;
        let connection = Connection::new(settings.pubsub.clone());
        let admin = Admin::new(&connection).await?;
        let mut watchers = JoinSet::new();
        let guard = TopicGuard::new(graves.topic(&settings.project));
        if matches!(graves, Graves::Topic { .. }) {
            let condition = health.condition("dead_letters");
            guard.wait(&admin, &condition).await;
            watchers.spawn(guard.clone().watch(admin.clone(), condition));
        }
        let publishers = Publishers::new(&connection).await?;
        let running = Pipeline {
            service: Self::NAME,
            source: Source::open(
                &connection,
                &settings.project,
                &settings.subscription,
                source_metrics,
            )
            .await?,
            transform: Archive::new(key, settings.archive.input),
            sink: Sink::new(bucket.clone(), &settings.archive),
            dead_letters: DeadLetters::policy(&graves, &settings.project, &publishers, &guard),
            limits: settings.pipeline.clone(),
            metrics: counts.clone(),
        }
        .start();
        health.watch(running.status(), counts);
        watchers.spawn(bucket.watch(bucket_condition));
        watchers.spawn(pubsub::subscription_watcher(
            admin,
            (settings.project, settings.subscription.id),
            graves == Graves::Keyword(Keyword::Subscription),
            subscription_condition,
        ));
        Ok(Running::new(running, watchers))
    }
}
