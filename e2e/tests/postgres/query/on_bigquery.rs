//! Outages of BigQuery, queries that take too long there, and a client that is handed in.

use std::time::Duration;

use query::Query;
use reqwest::StatusCode;
use service::Service as _;
use service::tools::preflight::State;
use tonic::Code;

use super::api::{Api, StoreKind, numbers, settings, with_rows};
use crate::env::{Env, until};

/// Calls of a query, also of the check of the table.
const QUERY: &str = "bigquery.jobs.query";

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_and_ends() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let api = Api::start(&env, StoreKind::BigQuery).await;

    env.emulator.faults().refuse(QUERY, u64::MAX, Code::Unavailable);
    let answer = api.get(&[]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(!api.hosted.health().is_ready(), "the request told it at once");
    env.emulator.faults().clear();
    until(async || api.hosted.health().is_ready()).await;
    assert_eq!(api.get(&[]).await.status(), StatusCode::OK);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_answered_in_time() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let mut settings = settings(&env, StoreKind::BigQuery);
    settings.timeout = Duration::from_millis(500);
    let api = Api::start_with(settings).await;

    env.emulator.faults().delay(QUERY, u64::MAX, Duration::from_secs(3600));
    let answer = api.get(&[]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("took longer than 500ms"));
    env.emulator.faults().clear();
    until(async || api.get(&[]).await.status() == StatusCode::OK).await;
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_goes_over_the_client_that_is_handed_in() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let mut settings = settings(&env, StoreKind::BigQuery);
    // Nobody listens there. The client reaches the embedded cloud, whatever the address is.
    settings.bigquery.as_mut().unwrap().endpoint = Some("http://127.0.0.1:1".into());
    let proxy = reqwest::Proxy::http(env.emulator.url()).unwrap();
    let http = Some(reqwest::Client::builder().proxy(proxy).build().unwrap());
    let clients = bigquery::Clients { http, ..bigquery::Clients::default() };
    let query = Query::new(settings).with_clients(clients);

    let found = query.preflight().await.unwrap().remove(0);
    let api = Api::start_service(query).await;
    let answer = api.data(&[]).await;

    assert_eq!((found.kind, found.state), ("table", State::Ready));
    assert_eq!(numbers(&answer), [0]);
    api.shutdown().await;
}
