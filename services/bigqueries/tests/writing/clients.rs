//! Tests of clients that are handed in.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bigqueries::Bigqueries;
use bigqueries::client::{Clients, Endpoint, rest_with};
use bigqueries::config::Settings;
use bigqueries::sink::Sink;
use bigqueries::table::Table;
use google_cloud_auth::credentials::anonymous;
use google_cloud_bigquery::client::Write;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use pipeline::Sink as _;
use pubsub::{Channels, DeadLetterConfig, Keyword};
use rows::cell::Cell;
use rows::column::{Column, Kind};
use serde_json::{Value, json};
use service::tools::preflight::State;
use service::{Context, Hosted, Service as _};
use tokio::time::{sleep, timeout};

use crate::{BOTH, Cloud, TIME_LIMIT, encode, name, settings};

/// Address where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// Builds a client of the embedded cloud, as a program would.
macro_rules! build {
    ($client:ident, $cloud:expr) => {{
        let credentials = anonymous::Builder::new().build();
        let builder = $client::builder().with_endpoint($cloud.emulator.url());
        builder.with_credentials(credentials).build().await.unwrap()
    }};
}

/// Returns clients that reach the embedded cloud, whatever the address in the settings is.
async fn clients(cloud: &Cloud) -> Clients {
    let proxy = reqwest::Proxy::http(cloud.emulator.url()).unwrap();
    Clients {
        intake: intake(cloud).await,
        http: Some(reqwest::Client::builder().proxy(proxy).build().unwrap()),
        storage_write: Some(Arc::new(build!(Write, cloud))),
    }
}

/// Returns the same for Pub/Sub.
async fn intake(cloud: &Cloud) -> pubsub::Clients {
    let server = tonic::transport::Endpoint::from_shared(cloud.emulator.url()).unwrap();
    pubsub::Clients {
        channels: Some(Channels::new(move || server.connect_lazy())),
        topics: Some(build!(TopicAdmin, cloud)),
        subscriptions: Some(build!(SubscriptionAdmin, cloud)),
        rights: Some(build!(SchemaService, cloud)),
        ..pubsub::Clients::default()
    }
}

#[tokio::test]
async fn the_table_is_checked_and_written_with_the_clients_that_are_handed_in() {
    let cloud = Cloud::start().await;
    let clients = clients(&cloud).await;
    let nobody = Endpoint { endpoint: Some(NOBODY.into()), ..Endpoint::default() };
    let columns = [Column::new("n", Kind::Int64)];
    let rest = rest_with(&nobody, &clients).await.unwrap();
    let table = Table::new(rest, name(), columns.as_slice().into(), settings());
    let condition = Context::default().health.condition("table");

    timeout(TIME_LIMIT, table.wait(&condition)).await.unwrap().unwrap();
    let inserting = Sink::insert_all(table.clone());
    let appending = Sink::storage_write_with(&nobody, table, clients).await.unwrap();
    for (number, sink) in [(1, inserting), (2, appending)] {
        let batch = encode(&sink, vec![vec![Cell::Int(number)]]);
        assert_eq!(timeout(TIME_LIMIT, sink.write(&batch, TIME_LIMIT)).await.unwrap().unwrap(), []);
    }

    assert_eq!(cloud.rows("SELECT n FROM d.t ORDER BY n").await, [json!(["1"]), json!(["2"])]);
}

/// Settings of a service. Nobody listens at its endpoints.
fn of_service() -> Settings {
    let mut settings = Settings { table: settings(), ..Settings::default() };
    settings.process.project = "p".into();
    (settings.process.http.host, settings.process.http.port) = ("127.0.0.1".into(), 0);
    settings.table.columns = vec![Column::new("n", Kind::Int64)];
    settings.bigquery.endpoint = Some(NOBODY.into());
    settings.intake.subscription.id = "rows".into();
    settings.intake.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop));
    settings.intake.pubsub.endpoint = Some(NOBODY.into());
    settings.pipeline.batch.max_age = Duration::from_millis(100);
    settings
}

/// Sends a request to the embedded Pub/Sub.
async fn call(cloud: &Cloud, method: &str, path: &str, body: Value) {
    let url = format!("{}/v1/projects/p/{path}", cloud.emulator.url());
    let request = cloud.http.request(method.parse().unwrap(), url).json(&body);
    request.send().await.unwrap().error_for_status().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_works_with_the_clients_that_are_handed_in() {
    for write in BOTH {
        let cloud = Cloud::start().await;
        call(&cloud, "PUT", "topics/readings", json!({})).await;
        let subscription = json!({ "topic": "projects/p/topics/readings" });
        call(&cloud, "PUT", "subscriptions/rows", subscription).await;
        let settings = Settings { write, ..of_service() };
        let service = Bigqueries::new(settings).with_clients(clients(&cloud).await);

        let found = service.preflight().await.unwrap().into_iter().map(|found| found.state);
        let states: Vec<_> = found.collect();
        assert!(matches!(states[..], [State::Ready, State::WillCreate(_)]), "{states:?}");

        let hosted = Hosted::start(service).await.unwrap();
        let ready = async {
            while !hosted.health().is_ready() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(TIME_LIMIT, ready).await.is_ok(), "{:?}", hosted.health().conditions());
        let messages = json!({ "messages": [{ "data": STANDARD.encode(r#"{"n": 7}"#) }] });
        call(&cloud, "POST", "topics/readings:publish", messages).await;
        let written = async {
            while cloud.rows("SELECT COUNT(*) FROM d.t").await == [json!(["0"])] {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(TIME_LIMIT, written).await.unwrap();
        assert_eq!(cloud.rows("SELECT n FROM d.t").await, [json!(["7"])], "{write:?}");
        hosted.shutdown(TIME_LIMIT).await.unwrap();
    }
}
