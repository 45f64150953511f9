//! Tests of clients that are handed in.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::{Emulator, Options};
use enrich::cache::Fetch as _;
use enrich::cache::firestore::{Firestore, FirestoreSettings};
use enrich::cache::redis::{Redis, RedisSettings};
use enrich::config::Settings;
use enrich::{Clients, Enrich, RedisClient};
use firestore::{FirestoreDb, FirestoreDbOptions};
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use pubsub::{Channels, DeadLetterConfig, Keyword};
use serde_json::{Value, json};
use service::google::Access;
use service::tools::preflight::State;
use service::{Hosted, Service as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Address where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// Returns a client of the embedded Firestore, which has a document in another project.
async fn database(emulator: &Emulator) -> FirestoreDb {
    let options = FirestoreDbOptions::new("other".into()).with_firebase_api_url(emulator.url());
    let anonymous = Access::new(None, None).await.credentials();
    let database = FirestoreDb::with_options_auth(options, anonymous).await.unwrap();
    let insert = database.fluent().insert().into("devices").document_id("d-1");
    let document = json!({ "room": "kitchen" });
    insert.object(&document).execute::<Value>().await.unwrap();
    database
}

/// Returns settings of Firestore. Nobody listens at their address.
fn documents() -> FirestoreSettings {
    FirestoreSettings {
        collection: "devices".into(),
        endpoint: Some(NOBODY.into()),
        ..FirestoreSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_read_with_the_client_that_is_handed_in() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let firestore = Some(database(&emulator).await);
    let clients = Clients { firestore, ..Clients::default() };

    let source = Firestore::new("p", &documents()).with_clients(&clients);
    let found = source.fetch(&["d-1".into()]).await.unwrap().remove(0).unwrap();

    assert_eq!(found["room"], "kitchen");
    // Redis must not mix the documents of two projects.
    assert_eq!(source.origin(), format!("{}/other/(default)/devices", emulator.url()));
}

/// Answers commands as an empty Redis does, and keeps their words.
async fn serve(stream: TcpStream, words: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        if stream.read_line(&mut head).await.unwrap() == 0 {
            return;
        }
        let count: usize = head.trim().trim_start_matches('*').parse().unwrap();
        let mut command = Vec::new();
        for _ in 0..count {
            let mut length = String::new();
            stream.read_line(&mut length).await.unwrap();
            let length: usize = length.trim().trim_start_matches('$').parse().unwrap();
            let mut word = vec![0; length + 2];
            stream.read_exact(&mut word).await.unwrap();
            command.push(String::from_utf8_lossy(&word[..length]).into_owned());
        }
        let answer = match command[0].as_str() {
            "MGET" => "*1\r\n$-1\r\n",
            "CLUSTER" => "-ERR this is no cluster\r\n",
            _ => "+OK\r\n",
        };
        words.lock().unwrap_or_else(PoisonError::into_inner).extend(command);
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Words that a server of Redis has received.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<Vec<String>>>);

impl Words {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts an empty Redis. Returns a client of it with a login, and the words that it receives.
async fn empty_redis() -> (redis::Client, Words) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let login = format!("redis://robot:hunter2@{}", listener.local_addr().unwrap());
    let words = Words::default();
    let Words(seen) = words.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&seen)));
        }
    });
    (redis::Client::open(login).unwrap(), words)
}

#[tokio::test]
async fn redis_is_asked_with_the_client_that_is_handed_in() {
    service::install_crypto();
    let (client, words) = empty_redis().await;
    let address = client.get_connection_info().addr().to_string();
    let client = RedisClient::Node(client);
    let shown = format!("{client:?}");
    // The settings have no URL.
    let redis = Redis::with_client(&RedisSettings::default(), client).of_source("source");

    let known = redis.get(&["d-1".into()]).await.unwrap();

    assert!(known[0].entry.is_none());
    let words = words.all();
    assert!(words.iter().any(|word| word.ends_with("source/d-1")), "{words:?}");
    assert!(words.contains(&"hunter2".to_owned()), "the client logs in: {words:?}");
    assert!(shown.contains(&address) && !shown.contains("hunter2"), "{shown}");
}

/// Builds a client of the embedded cloud, as a program would.
macro_rules! build {
    ($client:ident, $emulator:expr) => {{
        let credentials = anonymous::Builder::new().build();
        let builder = $client::builder().with_endpoint($emulator.url());
        Some(builder.with_credentials(credentials).build().await.unwrap())
    }};
}

/// Returns clients of the embedded Pub/Sub.
async fn intake(emulator: &Emulator) -> pubsub::Clients {
    let server = tonic::transport::Endpoint::from_shared(emulator.url()).unwrap();
    pubsub::Clients {
        channels: Some(Channels::new(move || server.connect_lazy())),
        topics: build!(TopicAdmin, emulator),
        subscriptions: build!(SubscriptionAdmin, emulator),
        rights: build!(SchemaService, emulator),
        ..pubsub::Clients::default()
    }
}

/// Returns settings of the service. Nobody listens at their addresses, and they have no Redis.
fn settings() -> Settings {
    let mut settings = Settings { topic_id: "enriched".into(), ..Settings::default() };
    settings.process.project = "p".into();
    (settings.process.http.host, settings.process.http.port) = ("127.0.0.1".into(), 0);
    settings.admin.port = 0;
    settings.intake.subscription.id = "raw".into();
    settings.intake.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop));
    settings.intake.pubsub.endpoint = Some(NOBODY.into());
    settings.firestore = documents();
    settings.enrichment.fields = BTreeMap::from([("where".into(), "room".into())]);
    settings
}

/// Sends a request to the embedded Pub/Sub.
async fn call(emulator: &Emulator, method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}/v1/projects/p/{path}", emulator.url());
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).json(&body);
    request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

/// Waits for the next message of the subscription `enriched`, and returns its data.
async fn next(emulator: &Emulator) -> Value {
    let pulled = async {
        loop {
            let body = json!({ "maxMessages": 1, "returnImmediately": true });
            let pulled = call(emulator, "POST", "subscriptions/enriched:pull", body).await;
            match pulled["receivedMessages"][0]["message"]["data"].as_str() {
                Some(data) => break STANDARD.decode(data).unwrap(),
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    serde_json::from_slice(&timeout(PATIENCE, pulled).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_works_with_the_clients_that_are_handed_in() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    for topic in ["raw", "enriched"] {
        call(&emulator, "PUT", &format!("topics/{topic}"), json!({})).await;
        let subscription = json!({ "topic": format!("projects/p/topics/{topic}") });
        call(&emulator, "PUT", &format!("subscriptions/{topic}"), subscription).await;
    }
    let (redis, words) = empty_redis().await;
    let clients = Clients {
        intake: intake(&emulator).await,
        firestore: Some(database(&emulator).await),
        redis: Some(RedisClient::Node(redis)),
    };
    let service = Enrich::new(settings()).with_clients(clients);

    let mut found = service.preflight().await.unwrap();
    // This Redis has no channels.
    found.retain(|found| found.kind != "redis channel");
    let kinds: Vec<_> = found.iter().map(|found| found.kind).collect();
    assert_eq!(kinds, ["subscription", "topic", "documents", "redis"]);
    assert!(found.iter().all(|found| found.state == State::Ready), "{found:?}");

    let hosted = Hosted::start(service).await.unwrap();
    let ready = async {
        while !hosted.health().is_ready() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, ready).await.is_ok(), "{:?}", hosted.health().conditions());
    let message = json!({ "data": STANDARD.encode("{}"), "attributes": { "device_id": "d-1" } });
    call(&emulator, "POST", "topics/raw:publish", json!({ "messages": [message] })).await;

    assert_eq!(next(&emulator).await["enrichmentData"], json!({ "where": "kitchen" }));
    let words = words.all();
    assert!(words.iter().any(|word| word.ends_with("/devices/d-1")), "{words:?}");
    hosted.shutdown(PATIENCE).await.unwrap();
}
