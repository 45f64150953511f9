//! Tests of clients that are handed in.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::{Arc, Mutex, PoisonError};

use emulator::{Emulator, Options};
use enrich::cache::Fetch as _;
use enrich::cache::firestore::{Firestore, FirestoreSettings};
use enrich::cache::redis::{Redis, RedisSettings};
use enrich::{Clients, RedisClient};
use firestore::{FirestoreDb, FirestoreDbOptions};
use serde_json::json;
use service::google::Access;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_read_with_the_client_that_is_handed_in() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let options = FirestoreDbOptions::new("other".into()).with_firebase_api_url(emulator.url());
    let anonymous = Access::new(None, None).await.credentials();
    let database = FirestoreDb::with_options_auth(options, anonymous).await.unwrap();
    let insert = database.fluent().insert().into("devices").document_id("d-1");
    let document = json!({ "room": "kitchen" });
    insert.object(&document).execute::<serde_json::Value>().await.unwrap();
    // Nobody listens at the address of the settings.
    let settings = FirestoreSettings {
        collection: "devices".into(),
        endpoint: Some("http://127.0.0.1:1".into()),
        ..FirestoreSettings::default()
    };
    let clients = Clients { firestore: Some(database), ..Clients::default() };

    let source = Firestore::new("p", &settings).with_clients(&clients);
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

#[tokio::test]
async fn redis_is_asked_with_the_client_that_is_handed_in() {
    service::install_crypto();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let words = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&words);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&seen)));
        }
    });
    let login = format!("redis://robot:hunter2@{address}");
    let client = RedisClient::Node(redis::Client::open(login).unwrap());
    let shown = format!("{client:?}");
    // The settings have no URL.
    let redis = Redis::with_client(&RedisSettings::default(), client).of_source("source");

    let known = redis.get(&["d-1".into()]).await.unwrap();

    assert!(known[0].entry.is_none());
    let words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(words.iter().any(|word| word.ends_with("source/d-1")), "{words:?}");
    assert!(words.contains(&"hunter2".to_owned()), "the client logs in: {words:?}");
    assert!(shown.contains(&address.to_string()) && !shown.contains("hunter2"), "{shown}");
}
