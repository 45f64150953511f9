//! A stage for flows: a real broker, the embedded cloud or Google's, and the services in this
//! process, with resources of their own.

use std::time::Duration;

use e2e::cloud::Cloud;
use e2e::fleet::{Fleet, Plan};
use e2e::mosquitto::Mosquitto;
use emulator::{Emulator, Options};
use icestore::Icestore;
use ingestion::Ingestion;
use ingestion::config::{Producer, Route};
use pubsub::{Endpoint, Graves};
use service::{Hosted, Http};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Longest wait for anything that should happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that a flow needs.
pub(crate) struct Stage {
    pub(crate) broker: Mosquitto,
    pub(crate) cloud: Cloud,
    pub(crate) emulator: Option<Emulator>,
    pub(crate) folder: TempDir,
}

impl Stage {
    /// Starts the broker, and makes topic, subscriptions and bucket.
    pub(crate) async fn set() -> Self {
        service::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(&folder.path().join("broker"), 0).await.unwrap();
        // The same tests run against Google's own cloud when a project is named.
        let (cloud, emulator) = match std::env::var("DATAFLOW_E2E_PROJECT") {
            Ok(project) => (Cloud::google(&project).unwrap(), None),
            Err(_) => {
                let emulator = Emulator::start(Options::default()).await.unwrap();
                (Cloud::embedded(&emulator.url()), Some(emulator))
            }
        };
        let stage = Self { broker, cloud, emulator, folder };
        let name = |kind| stage.cloud.name(kind);
        for (topic, subscription) in [("raw", "archive"), ("dead", "buried")] {
            stage.cloud.create_topic(&name(topic)).await.unwrap();
            stage.cloud.create_subscription(&name(subscription), &name(topic)).await.unwrap();
        }
        stage.cloud.create_bucket(&name("bucket")).await.unwrap();
        stage
    }

    /// Removes what [`Stage::set`] has made.
    pub(crate) async fn strike(self) {
        let name = |kind| self.cloud.name(kind);
        let (topics, subscriptions) =
            ([name("raw"), name("dead")], [name("archive"), name("buried")]);
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let subscriptions: Vec<_> = subscriptions.iter().map(String::as_str).collect();
        self.cloud.teardown((&topics, &subscriptions), &[&name("bucket")]).await.unwrap();
    }

    pub(crate) fn endpoint(&self) -> Option<String> {
        self.emulator.as_ref().map(Emulator::url)
    }

    pub(crate) fn fleet(&self, messages: u64) -> Fleet {
        let port = self.broker.port();
        Fleet::start(Plan { port, messages: Some(messages), devices: 50, ..Plan::default() })
    }

    /// Ingestion's settings: one route for the fleet's topics.
    pub(crate) fn ingestion(&self) -> ingestion::config::Settings {
        let mut route = Route::default();
        route.source.mqtt_topic = "devices/{device_id}/up".into();
        route.source.qos = 1;
        route.destination.route_name = "uplinks".into();
        let mut settings = ingestion::config::Settings {
            project: self.cloud.project.clone(),
            dead_letters: Some(Graves::Topic { topic_id: self.cloud.name("dead"), bucket: None }),
            http: loopback(),
            pubsub: Endpoint { endpoint: self.endpoint(), ..Endpoint::default() },
            ..ingestion::config::Settings::default()
        };
        settings.mqtt.url = format!("mqtt://127.0.0.1:{}", self.broker.port());
        settings.mqtt.reconnect.min = Duration::from_millis(100);
        settings.mqtt.reconnect.max = Duration::from_secs(1);
        settings.routes.insert("up".into(), route);
        let producer = Producer { topic_id: self.cloud.name("raw") };
        settings.producers.insert("uplinks".into(), producer);
        settings
    }

    /// Icestore's settings: small objects, soon.
    pub(crate) fn icestore(&self) -> icestore::config::Settings {
        let mut settings = icestore::config::Settings {
            project: self.cloud.project.clone(),
            dead_letters: Some(Graves::Topic { topic_id: self.cloud.name("dead"), bucket: None }),
            http: loopback(),
            pubsub: Endpoint { endpoint: self.endpoint(), ..Endpoint::default() },
            ..icestore::config::Settings::default()
        };
        settings.subscription.id = self.cloud.name("archive");
        settings.subscription.lease_extension = Duration::from_secs(10);
        settings.storage.bucket = self.cloud.name("bucket");
        settings.storage.endpoint = self.endpoint();
        settings.pipeline.batch.max_age = Duration::from_millis(500);
        settings
    }
}

fn loopback() -> Http {
    Http { host: "127.0.0.1".into(), port: 0 }
}

/// Starts ingestion and waits until it is ready.
pub(crate) async fn start_ingestion(settings: ingestion::config::Settings) -> Hosted {
    let hosted = Hosted::start(Ingestion::new(settings.clone()), &settings).await.unwrap();
    until(async || hosted.health().is_ready()).await;
    hosted
}

/// Starts icestore and waits until it is ready.
pub(crate) async fn start_icestore(settings: icestore::config::Settings) -> Hosted {
    let hosted = Hosted::start(Icestore::new(settings.clone()), &settings).await.unwrap();
    until(async || hosted.health().is_ready()).await;
    hosted
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("what was waited for did not come about");
}

/// The sum of a counter over all its labels.
pub(crate) fn counter(hosted: &Hosted, name: &str) -> u64 {
    let text = hosted.metrics().unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}
