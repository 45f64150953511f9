//! Rows that postgres wrote are found over HTTP.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::hosted::HostedService;
use postgresql::SslMode;
use proptest::prelude::*;
use query::Query;
use query::config::Settings;
use reqwest::{Response, StatusCode};
use rows::column::{Column, Kind};
use serde_json::{Value, json};
use service::{Hosted, Http};

use crate::env::{Env, GRACE, TABLE, sent, start, until};

struct Api {
    url: String,
    hosted: Hosted,
}

impl Api {
    async fn start(env: &Env, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        settings.process.http = Http { host: "127.0.0.1".into(), port: 0, ..Http::default() };
        settings.api.port = 0;
        settings.postgres = env.settings().postgres;
        settings.postgres.sslmode = SslMode::Disable;
        settings.table.name = "readings".into();
        settings.table.source_column = "device_id".into();
        change(&mut settings);
        let service = HostedService::start(Query::new(settings)).await.unwrap();
        service.ready(Duration::from_secs(60)).await.unwrap();
        let status = service.hosted.health().report();
        let url = format!("http://{}", status["api"].as_str().unwrap());
        Self { url, hosted: service.hosted }
    }

    async fn get(&self, query: &[(&str, &str)]) -> Response {
        let client = reqwest::Client::new();
        let url = reqwest::Url::parse_with_params(&format!("{}/data", self.url), query).unwrap();
        client.get(url).send().await.unwrap()
    }

    async fn data(&self, query: &[(&str, &str)]) -> Value {
        let answer = self.get(query).await;
        assert_eq!(answer.status(), StatusCode::OK, "{query:?}");
        answer.json().await.unwrap()
    }
}

fn settings(env: &Env) -> postgres::config::Settings {
    let mut settings = env.settings();
    settings.table.columns =
        vec![Column::new("device_id", Kind::String), Column::new("number", Kind::Int64)];
    settings.table.source_column = Some("device_id".into());
    settings
}

/// Writes rows: ten a second from 2025-06-15T00:00:00Z on, of ten devices in turn.
async fn with_rows(env: &Env, count: usize) {
    let hosted = start(settings(env)).await;
    let message = |number: usize| {
        let (seconds, tenth) = (number / 10, number % 10);
        let (minute, second) = (seconds / 60, seconds % 60);
        let payload = json!({ "device_id": format!("d-{tenth}"), "number": number });
        json!({
            "id": format!("{number:06}"),
            "payload": STANDARD.encode(payload.to_string()),
            "publishTime": format!("2025-06-15T00:{minute:02}:{second:02}.{tenth}Z"),
        })
    };
    let messages: Vec<_> = (0..count).map(message).collect();
    env.publish(0, &messages).await;
    until(async || sent(&hosted) >= count as u64).await;
    hosted.shutdown(GRACE).await.unwrap();
}

fn numbers(answer: &Value) -> Vec<i64> {
    answer["data"].as_array().unwrap().iter().map(|row| row["number"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_source_and_time_page_by_page() {
    let env = Env::start().await;
    with_rows(&env, 1_000).await;
    let api = Api::start(&env, |_| {}).await;

    // 100 rows by default, in the order of their times.
    let first = api.data(&[]).await;
    assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
    // A half-open interval.
    let (start, end) = ("2025-06-15T00:00:10Z", "2025-06-15T00:00:12Z");
    let some = api.data(&[("start_time", start), ("end_time", end)]).await;
    assert_eq!(numbers(&some), (100..120).collect::<Vec<_>>());
    let one = api.data(&[("source_id", "d-3"), ("limit", "3"), ("offset", "1")]).await;
    assert_eq!(numbers(&one), [13, 23, 33]);
    // The tokens lead through all rows, once.
    let (mut all, mut next) = (Vec::new(), None::<String>);
    loop {
        let query: Vec<_> =
            next.iter().map(|next| ("next", next.as_str())).chain([("limit", "70")]).collect();
        let page = api.data(&query).await;
        all.extend(numbers(&page));
        next = page["next"].as_str().map(str::to_owned);
        if next.is_none() {
            break;
        }
    }
    assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    api.hosted.shutdown(GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_as_lines_or_as_a_table_too() {
    let env = Env::start().await;
    with_rows(&env, 3).await;
    let api = Api::start(&env, |_| {}).await;

    let lines = api.get(&[("format", "ndjson"), ("limit", "2")]).await;
    assert!(lines.headers()["x-next"].len() > 1);
    let lines = lines.text().await.unwrap();
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| &row["number"]).collect::<Vec<_>>(), [0, 1]);
    let table = api.get(&[("format", "csv")]).await;
    assert_eq!(table.headers()["content-type"], "text/csv; charset=utf-8");
    let table = table.text().await.unwrap();
    assert_eq!(table.lines().count(), 4);
    assert!(table.lines().next().unwrap().split(',').any(|name| name == "device_id"), "{table}");
    api.hosted.shutdown(GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_what_is_wrong() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let api = Api::start(&env, |_| {}).await;

    for (name, value) in [("limit", "0"), ("next", "x"), ("start_time", "now"), ("color", "red")] {
        let answer = api.get(&[(name, value)]).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["field"], name, "{problem}");
    }
    api.hosted.shutdown(GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended_by_the_server() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let api = Api::start(&env, |settings| settings.timeout = Duration::from_millis(500)).await;

    let mut holder = env.server.client().await.unwrap();
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {TABLE}")).await.unwrap();
    let answer = api.get(&[]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    drop(lock);
    drop(holder);
    until(async || api.get(&[]).await.status() == StatusCode::OK).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE application_name = 'dataflow-query' AND state = 'active'";
    assert_eq!(env.server.count(waiting).await.unwrap(), 0, "nothing goes on in the server");
    api.hosted.shutdown(GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_and_comes_back() {
    let mut env = Env::start().await;
    with_rows(&env, 1).await;
    let api = Api::start(&env, |_| {}).await;

    env.server.kill().await.unwrap();
    let answer = api.get(&[]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.text().await.unwrap().contains("127.0.0.1"), "no address of ours");
    env.server.start_again().await.unwrap();
    until(async || api.get(&[]).await.status() == StatusCode::OK).await;
    api.hosted.shutdown(GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_a_value_and_never_sql() {
    let env = Env::start().await;
    with_rows(&env, 10).await;
    let api = Api::start(&env, |_| {}).await;
    let runtime = tokio::runtime::Handle::current();

    tokio::task::block_in_place(|| {
        let texts = prop_oneof!["\\PC{1,40}", "['\";\\\\$%_ -]{1,20}", "d-[0-9]' OR '1'='1"];
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
        runner
            .run(&texts, |text| {
                let answer = runtime.block_on(api.get(&[("source_id", &text)]));
                prop_assert_eq!(answer.status(), StatusCode::OK);
                let answer: Value = runtime.block_on(answer.json()).unwrap();
                let expected = usize::from(text.len() == 3 && text.starts_with("d-"));
                prop_assert_eq!(answer["data"].as_array().unwrap().len(), expected);
                Ok(())
            })
            .unwrap();
    });
    assert_eq!(env.rows().await, 10);
    api.hosted.shutdown(GRACE).await.unwrap();
}
