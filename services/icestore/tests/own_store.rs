//! Test that the service writes to a store that the program hands in.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use emulator::{Emulator, Options};
use icestore::Icestore;
use icestore::config::Settings;
use pipeline::{Error, Recovery};
use pubsub::{DeadLetterConfig, Keyword};
use serde_json::{Value, json};
use service::tools::preflight::State;
use service::{Dependency, Hosted, Service as _};
use storage::{Object, ObjectStore, Outage};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store in memory. Clones share its objects.
#[derive(Debug, Clone, Default)]
struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// Signal that an object was created.
    created: Arc<Notify>,
}

impl MemoryStore {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectStore for MemoryStore {
    async fn create(&self, object: &Object) -> Result<(), Error> {
        self.objects().insert(object.name.clone(), object.content.clone());
        self.created.notify_one();
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        _page: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let objects = self.objects();
        let names = objects.keys().filter(|name| name.starts_with(prefix));
        Ok((names.cloned().collect(), None))
    }

    async fn read(&self, name: &str) -> Result<Bytes, Error> {
        let found = self.objects().get(name).cloned();
        found.ok_or_else(|| Recovery::Retry.because("read object", "it does not exist"))
    }

    fn address(&self, name: &str) -> String {
        format!("memory:{name}")
    }

    async fn find(&self) -> Result<(), Outage> {
        Ok(())
    }

    async fn dependency(&self) -> Dependency {
        let name = self.address("");
        Dependency { kind: "store", name, roles: &[], state: State::Ready }
    }
}

/// Returns settings with a bucket that nobody can reach.
fn settings(emulator: &Emulator) -> Settings {
    let mut settings = Settings::default();
    settings.process.project = "p".into();
    (settings.process.http.host, settings.process.http.port) = ("127.0.0.1".into(), 0);
    settings.intake.subscription.id = "archive".into();
    settings.intake.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop));
    settings.intake.pubsub.endpoint = Some(emulator.url().into());
    settings.storage.endpoint = Some("http://127.0.0.1:1".into());
    settings.storage.bucket = "unused".into();
    settings.pipeline.batch.max_messages = 1;
    settings
}

/// Sends a request to the embedded cloud.
async fn call(emulator: &Emulator, method: &str, path: &str, body: Value) {
    let url = format!("{}/v1/projects/p/{path}", emulator.url());
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).json(&body);
    request.send().await.unwrap().error_for_status().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_in_the_store_that_is_handed_in() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    call(&emulator, "PUT", "topics/readings", json!({})).await;
    let subscription = json!({ "topic": "projects/p/topics/readings" });
    call(&emulator, "PUT", "subscriptions/archive", subscription).await;
    let store = MemoryStore::default();
    let service = Icestore::new(settings(&emulator)).with_store(store.clone());

    let dependencies = service.preflight().await.unwrap();
    let hosted = Hosted::start(service).await.unwrap();
    let messages = json!({ "messages": [{ "data": "e30=" }] });
    call(&emulator, "POST", "topics/readings:publish", messages).await;
    let created = timeout(PATIENCE, store.created.notified()).await;
    assert!(created.is_ok(), "{:?}", hosted.health().conditions());
    hosted.shutdown(PATIENCE).await.unwrap();

    let names: Vec<_> = dependencies.iter().map(|found| found.name.as_str()).collect();
    assert!(names.contains(&"memory:"), "{names:?}");
    assert!(!names.contains(&"gs://unused"), "{names:?}");
    let objects = store.objects();
    assert_eq!(objects.len(), 1, "{:?}", objects.keys());
    let (name, content) = objects.first_key_value().unwrap();
    assert!(name.starts_with("archive/") && name.ends_with(".jsonl.gz"), "{name}");
    let mut lines = String::new();
    flate2::read::MultiGzDecoder::new(&content[..]).read_to_string(&mut lines).unwrap();
    assert!(lines.contains(r#""originalPubSubPayload":"e30=""#), "{lines}");
}
