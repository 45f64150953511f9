//! Test that the service publishes over the clients that are handed in, and names the last message.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use emulator::{Emulator, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use ingestion::Ingestion;
use ingestion::config::Settings;
use pubsub::{Channels, Clients};
use serde_json::{Value, json};
use service::tools::preflight::State;
use service::{Hosted, Service as _};
use tokio::time::{sleep, timeout};

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Settings of a service that takes messages over HTTP. Nobody listens at the endpoint.
const SETTINGS: &str = r#"
project: p
http: { host: 127.0.0.1, port: 0 }
http_ingest: { port: 0 }
routes:
  readings:
    source: { http_source: "{device_id}" }
    destination: { route_name: raw }
producers:
  raw: { topic_id: raw }
dead_letters: drop
pubsub: { endpoint: "http://127.0.0.1:1" }
"#;

/// Builds a client of the embedded cloud, as a program would.
macro_rules! build {
    ($client:ident, $emulator:expr) => {{
        let credentials = anonymous::Builder::new().build();
        let builder = $client::builder().with_endpoint($emulator.url());
        Some(builder.with_credentials(credentials).build().await.unwrap())
    }};
}

async fn clients(emulator: &Emulator) -> Clients {
    let server = tonic::transport::Endpoint::from_shared(emulator.url()).unwrap();
    Clients {
        channels: Some(Channels::new(move || server.connect_lazy())),
        topics: build!(TopicAdmin, emulator),
        subscriptions: build!(SubscriptionAdmin, emulator),
        rights: build!(SchemaService, emulator),
        ..Clients::default()
    }
}

fn settings() -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ingestion.yaml");
    std::fs::write(&file, SETTINGS).unwrap();
    service::settings::load(Some(file.as_path()), []).unwrap()
}

/// Sends a request. Returns the body of the answer.
async fn send(method: &str, url: String, body: Value) -> Value {
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).json(&body);
    request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_id_of_the_last_published_message() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let resource = |name: &str| format!("{}/v1/projects/p/{name}", emulator.url());
    send("PUT", resource("topics/raw"), json!({})).await;
    let subscription = json!({ "topic": "projects/p/topics/raw" });
    send("PUT", resource("subscriptions/readings"), subscription).await;
    let service = Ingestion::new(settings()).with_clients(clients(&emulator).await);

    let states = service.preflight().await.unwrap().into_iter().map(|found| found.state);
    assert_eq!(states.collect::<Vec<_>>(), [State::Ready]);
    let hosted = Hosted::start(service).await.unwrap();
    let ready = async {
        while !hosted.health().is_ready() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, ready).await.is_ok(), "{:?}", hosted.health().conditions());
    assert_eq!(hosted.health().report()["last_published"], Value::Null);

    let address = hosted.health().report()["http_ingest"].as_str().unwrap().to_owned();
    let item = json!({ "sourceId": "sensor-1", "payload": { "t": 21.5 } });
    send("POST", format!("http://{address}/ingest"), item).await;

    let last = hosted.health().report()["last_published"].clone();
    let pulled =
        send("POST", resource("subscriptions/readings:pull"), json!({ "maxMessages": 1 })).await;
    let id = &pulled["receivedMessages"][0]["message"]["messageId"];
    assert_eq!((&last["message_id"], &last["topic"]), (id, &json!("projects/p/topics/raw")));
    hosted.shutdown(PATIENCE).await.unwrap();
}
