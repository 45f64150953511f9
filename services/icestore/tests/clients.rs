//! Test that the service, its readiness and its checks use the clients that are handed in.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use emulator::{Emulator, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use google_cloud_storage::client::Storage;
use icestore::Icestore;
use icestore::config::Settings;
use pubsub::{Channels, Clients, DeadLetterConfig, Keyword};
use serde_json::{Value, json};
use service::tools::preflight::State;
use service::{Hosted, Service as _};
use tokio::time::{sleep, timeout};

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Address where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

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
    // This client reaches the embedded cloud, whatever the address in the settings is.
    let proxy = reqwest::Proxy::http(emulator.url()).unwrap();
    let http = reqwest::Client::builder().proxy(proxy).build().unwrap();
    Clients {
        channels: Some(Channels::new(move || server.connect_lazy())),
        topics: build!(TopicAdmin, emulator),
        subscriptions: build!(SubscriptionAdmin, emulator),
        rights: build!(SchemaService, emulator),
        storage: storage::Clients { uploads: build!(Storage, emulator), http: Some(http) },
        ..Clients::default()
    }
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.process.project = "p".into();
    (settings.process.http.host, settings.process.http.port) = ("127.0.0.1".into(), 0);
    settings.intake.subscription.id = "archive".into();
    settings.intake.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop));
    settings.intake.pubsub.endpoint = Some(NOBODY.into());
    settings.storage.endpoint = Some(NOBODY.into());
    settings.storage.bucket = "bucket".into();
    settings.pipeline.batch.max_idle = Duration::from_millis(100);
    settings
}

/// Sends a request to the embedded cloud.
async fn call(emulator: &Emulator, method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}/{path}", emulator.url());
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).json(&body);
    request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_works_with_the_clients_that_are_handed_in() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    call(&emulator, "POST", "storage/v1/b?project=p", json!({ "name": "bucket" })).await;
    call(&emulator, "PUT", "v1/projects/p/topics/readings", json!({})).await;
    let subscription = json!({ "topic": "projects/p/topics/readings" });
    call(&emulator, "PUT", "v1/projects/p/subscriptions/archive", subscription).await;
    let service = Icestore::new(settings()).with_clients(clients(&emulator).await);

    let states = service.preflight().await.unwrap().into_iter().map(|found| found.state);
    assert_eq!(states.collect::<Vec<_>>(), [State::Ready, State::Ready]);

    let hosted = Hosted::start(service).await.unwrap();
    let ready = async {
        while !hosted.health().is_ready() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, ready).await.is_ok(), "{:?}", hosted.health().conditions());
    let messages = json!({ "messages": [{ "data": "e30=" }] });
    call(&emulator, "POST", "v1/projects/p/topics/readings:publish", messages).await;
    let archived = async {
        loop {
            let listed = objects(&emulator).await;
            if listed["items"].as_array().is_some_and(|items| !items.is_empty()) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, archived).await.unwrap();
    hosted.shutdown(PATIENCE).await.unwrap();
}

/// Lists the objects of the bucket.
async fn objects(emulator: &Emulator) -> Value {
    let url = format!("{}/storage/v1/b/bucket/o", emulator.url());
    reqwest::get(url).await.unwrap().json().await.unwrap()
}
