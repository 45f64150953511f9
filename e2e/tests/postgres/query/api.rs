//! Environment of the tests: the same rows in both stores, and a query service on each.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bigqueries::Bigqueries;
use e2e::cloud::Publication;
use e2e::hosted::HostedService;
use e2e::names::{DATASET, RAW};
use query::Query;
use query::config::{BigQuerySettings, Settings};
use reqwest::{Response, StatusCode};
use rows::column::{Column, Kind};
use serde_json::{Value, json};
use service::{Hosted, Http};

use crate::env::sent;
use crate::env::{BIGQUERY_ROWS, Env, GRACE, start, until};

/// Store of a query service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Postgres,
    BigQuery,
}

/// Stores that give the same answers.
pub(crate) const STORES: [StoreKind; 2] = [StoreKind::Postgres, StoreKind::BigQuery];

/// A running query service.
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) hosted: Hosted,
    client: reqwest::Client,
}

/// Returns the settings of a query service.
pub(crate) fn settings(env: &Env, store: StoreKind) -> Settings {
    let mut settings = Settings::default();
    settings.process.http = Http { host: "127.0.0.1".into(), port: 0, ..Http::default() };
    settings.api.port = 0;
    settings.table.name = "readings".into();
    settings.table.source_column = "device_id".into();
    match store {
        StoreKind::Postgres => settings.postgres = Some(env.settings().postgres),
        StoreKind::BigQuery => {
            settings.process.project.clone_from(&env.cloud.project);
            settings.bigquery = Some(BigQuerySettings {
                dataset: DATASET.into(),
                endpoint: env.cloud.endpoint(|urls| &urls.bigquery).map(Into::into),
                ..BigQuerySettings::default()
            });
        }
    }
    // Statements of an emulator and of a server on a busy machine.
    settings.timeout = Duration::from_secs(60);
    settings
}

impl Api {
    pub(crate) async fn start(env: &Env, store: StoreKind) -> Self {
        Self::start_with(settings(env, store)).await
    }

    pub(crate) async fn start_with(settings: Settings) -> Self {
        Self::start_service(Query::new(settings)).await
    }

    pub(crate) async fn start_service(query: Query) -> Self {
        let service = HostedService::start(query).await.unwrap();
        service.ready(Duration::from_secs(60)).await.unwrap();
        let status = service.hosted.health().report();
        let url = format!("http://{}", status["api"].as_str().unwrap());
        Self { url, hosted: service.hosted, client: reqwest::Client::new() }
    }

    pub(crate) async fn get(&self, query: &[(&str, &str)]) -> Response {
        let url = reqwest::Url::parse_with_params(&format!("{}/data", self.url), query).unwrap();
        self.client.get(url).send().await.unwrap()
    }

    pub(crate) async fn text(&self, query: &[(&str, &str)]) -> String {
        let answer = self.get(query).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{query:?}: {text}");
        text
    }

    pub(crate) async fn data(&self, query: &[(&str, &str)]) -> Value {
        serde_json::from_str(&self.text(query).await).unwrap()
    }

    pub(crate) async fn shutdown(self) {
        self.hosted.shutdown(GRACE).await.unwrap();
    }
}

/// Writes a row for each message into both stores.
pub(crate) async fn write(env: &Env, columns: &[Column], messages: &[Value]) {
    let mut settings = env.settings();
    settings.table.columns = columns.to_vec();
    settings.table.source_column = Some("device_id".into());
    let postgres = start(settings).await;
    let of_postgres = env.settings();
    let mut settings = bigqueries::config::Settings {
        process: of_postgres.process,
        intake: of_postgres.intake,
        ..bigqueries::config::Settings::default()
    };
    settings.intake.subscription.id = env.cloud.name(BIGQUERY_ROWS).into();
    settings.bigquery.endpoint = env.cloud.endpoint(|urls| &urls.bigquery).map(Into::into);
    settings.table.dataset = DATASET.into();
    settings.table.id = "readings".into();
    settings.table.columns = columns.to_vec();
    settings.pipeline.batch.max_age = Duration::from_millis(100);
    let bigqueries = HostedService::start(Bigqueries::new(settings)).await.unwrap();
    bigqueries.ready(Duration::from_secs(60)).await.unwrap();

    publish(env, messages).await;

    let count = messages.len() as u64;
    until(async || sent(&postgres) >= count && sent(&bigqueries.hosted) >= count).await;
    postgres.shutdown(GRACE).await.unwrap();
    bigqueries.shutdown(GRACE).await.unwrap();
}

/// Publishes envelopes. The id of each is its `ingest_id`.
async fn publish(env: &Env, messages: &[Value]) {
    let publication = |message: &Value| Publication {
        data: message.to_string().into_bytes(),
        attributes: json!({ "ingest_id": message["id"] }),
        ordering_key: String::new(),
    };
    let all: Vec<_> = messages.iter().map(publication).collect();
    let is_large = all.iter().any(|one| one.data.len() > 100_000);
    for some in all.chunks(if is_large { 4 } else { 500 }) {
        env.cloud.publish_with_keys(&env.cloud.name(RAW), some).await.unwrap();
    }
}

/// Returns an envelope of ingestion around a payload.
pub(crate) fn envelope(id: &str, time: &str, payload: &Value) -> Value {
    let payload = STANDARD.encode(payload.to_string());
    json!({ "id": id, "payload": payload, "publishTime": time })
}

/// Writes rows: ten a second from 2025-06-15T00:00:00Z on, of ten devices in turn.
pub(crate) async fn with_rows(env: &Env, count: usize) {
    let message = |number: usize| {
        let (seconds, tenth) = (number / 10, number % 10);
        let (minute, second) = (seconds / 60, seconds % 60);
        let payload = json!({ "device_id": format!("d-{tenth}"), "number": number });
        let time = format!("2025-06-15T00:{minute:02}:{second:02}.{tenth}Z");
        envelope(&format!("{number:06}"), &time, &payload)
    };
    let messages: Vec<_> = (0..count).map(message).collect();
    let columns = [Column::new("device_id", Kind::String), Column::new("number", Kind::Int64)];
    write(env, &columns, &messages).await;
}

/// Returns the numbers of the rows of an answer.
pub(crate) fn numbers(answer: &Value) -> Vec<i64> {
    answer["data"].as_array().unwrap().iter().map(|row| row["number"].as_i64().unwrap()).collect()
}
