//! Environment of one test: PostgreSQL as a process, and the embedded cloud in this one.

use std::time::Duration;

use e2e::cloud::{Cloud, Publication, Received};
use e2e::hosted::HostedService;
use e2e::metrics::{Metrics, SENT};
use e2e::names::{self, DEAD_LETTER_REPORT, DEAD_LETTERS, RAW, Subscription};
use e2e::postgres::{DATABASE, Postgres as Server, USER};
use e2e::timings::{self, Timings};
use emulator::{Emulator, Options};
use postgres::Postgres;
use postgres::config::Settings;
use postgresql::SslMode;
use pubsub::DeadLetterConfig;
use serde_json::{Value, json};
use service::{Hosted, Http, Service};
use tokio::time::{sleep, timeout};

/// Grace period of a service.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(120);
/// Subscription of the service.
const ROWS: &str = "postgres-rows";
/// Subscription of bigqueries, which writes the same rows.
pub(crate) const BIGQUERY_ROWS: &str = "bigquery-rows";
/// Table of the rows.
pub(crate) const TABLE: &str = "public.readings";

pub(crate) struct Env {
    pub(crate) server: Server,
    pub(crate) cloud: Cloud,
    pub(crate) emulator: Emulator,
    _timings: Timings,
}

impl Env {
    pub(crate) async fn start() -> Self {
        Self::start_with(Server::start().await.unwrap()).await
    }

    pub(crate) async fn start_with(server: Server) -> Self {
        let _timings = Timings::start(timings::RESOURCES);
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let cloud = Cloud::embedded(&emulator.url());
        let rows = [ROWS, BIGQUERY_ROWS].map(|id| Subscription::new(id, RAW));
        let subscriptions = [&names::SUBSCRIPTIONS[..], &rows].concat();
        cloud.create_resources(&subscriptions).await.unwrap();
        Self { server, cloud, emulator, _timings }
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.process.project.clone_from(&self.cloud.project);
        settings.process.http = Http { host: "127.0.0.1".into(), port: 0, ..Http::default() };
        settings.intake.dead_letters = Some(DeadLetterConfig::Topic {
            topic_id: self.cloud.name(DEAD_LETTERS).into(),
            bucket: None,
        });
        settings.intake.pubsub.endpoint = self.cloud.endpoint(|urls| &urls.pubsub).map(Into::into);
        settings.intake.subscription.id = self.cloud.name(ROWS).into();
        settings.intake.subscription.lease_extension = Duration::from_secs(10);
        settings.pipeline.batch.max_messages = 500;
        settings.pipeline.retry.max = Duration::from_millis(500);
        settings.postgres.host = "127.0.0.1".into();
        settings.postgres.port = self.server.port();
        settings.postgres.user = USER.into();
        settings.postgres.database = DATABASE.into();
        settings.postgres.sslmode = SslMode::Disable;
        settings.table.name = "readings".into();
        settings
    }

    /// Publishes a message for each payload. Its `ingest_id` is its number, from `first` on.
    pub(crate) async fn publish(&self, first: usize, payloads: &[Value]) {
        timings::phase(timings::SEND);
        let topic = self.cloud.name(RAW);
        let publications: Vec<_> = payloads
            .iter()
            .enumerate()
            .map(|(index, payload)| {
                let attributes = json!({ "ingest_id": (first + index).to_string() });
                Publication {
                    data: payload.to_string().into_bytes(),
                    attributes,
                    ordering_key: String::new(),
                }
            })
            .collect();
        for some in publications.chunks(500) {
            self.cloud.publish_with_keys(&topic, some).await.unwrap();
        }
    }

    pub(crate) async fn rows(&self) -> i64 {
        self.server.count(&format!("SELECT count(*) FROM {TABLE}")).await.unwrap()
    }

    /// Returns the first dead letters, as many as asked for.
    pub(crate) async fn dead_letters(&self, count: usize) -> Vec<Received> {
        let mut dead_letters = Vec::new();
        until(async || {
            dead_letters
                .extend(self.cloud.pull(&self.cloud.name(DEAD_LETTER_REPORT)).await.unwrap());
            dead_letters.len() >= count
        })
        .await;
        dead_letters
    }
}

/// Starts the service with these settings, and waits until it is ready.
pub(crate) async fn start(settings: Settings) -> Hosted {
    start_service(Postgres::new(settings)).await
}

/// Starts a service and waits until it is ready.
pub(crate) async fn start_service(service: impl Service) -> Hosted {
    let service = HostedService::start(service).await.unwrap();
    service.ready(PATIENCE).await.unwrap();
    service.hosted
}

/// Returns how many messages are rows, or were found to be rows already.
pub(crate) fn sent(hosted: &Hosted) -> u64 {
    Metrics::parse(&hosted.metrics().unwrap()).count(SENT)
}

/// Waits until a condition holds.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    timings::phase(timings::SETTLE);
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("what was waited for did not come about");
    timings::phase(timings::VERIFY);
}
