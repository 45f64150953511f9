//! Test environment of the flows: a real broker, the embedded cloud or Google's, and the services
//! in this process. Each test has its own resources.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use bigqueries::Bigqueries;
use e2e::cloud::Cloud;
use e2e::fleet::{Fleet, FleetPlan};
use e2e::hardness::{self, Strictness};
use e2e::mosquitto::Mosquitto;
use emulator::{Emulator, Options};
use enrich::Enrich;
use enrich::config::Admin;
use icestore::Icestore;
use ingestion::Ingestion;
use ingestion::config::{Producer, RouteSettings};
use message::FieldPath;
use message::field_path::Pointer;
use pubsub::{DeadLetterConfig, Endpoint};
use rows::column::{Column, Kind};
use serde_json::{Map, Value};
use service::{Hosted, Http, Service};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::emulators;

/// Grace period of a service.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
/// Counter of messages that a service has written.
pub(crate) const SENT: &str = "dataflow_pipeline_sent_messages_total";
/// Longest wait for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Variable that names a project of Google's own cloud for the flows.
const PROJECT: &str = "DATAFLOW_E2E_PROJECT";

/// Topics, each with its subscriptions.
const TOPICS: [(&str, &[&str]); 3] = [
    ("raw", &["archive", "rows", "enrich"]),
    ("enriched", &["enriched-archive", "enriched-rows"]),
    ("dead", &["buried"]),
];

/// Broker, cloud and folder of one test.
pub(crate) struct Stage {
    pub(crate) broker: Mosquitto,
    pub(crate) cloud: Cloud,
    pub(crate) emulator: Option<Emulator>,
    pub(crate) folder: TempDir,
    /// URLs of Google's emulators, if the flow uses them.
    googles: Option<Googles>,
}

/// URLs of Google's emulators.
#[derive(Debug, Clone)]
struct Googles {
    pubsub: String,
    firestore: String,
}

impl Stage {
    /// Starts the broker, and creates topics, subscriptions, bucket and dataset.
    pub(crate) async fn set() -> Self {
        Self::set_with("allow_anonymous true", |_| {}).await
    }

    /// Like [`Stage::set`], with extra settings of the broker. `prepare` creates the files that
    /// they name.
    pub(crate) async fn set_with(settings: &str, prepare: impl FnOnce(&Path)) -> Self {
        service::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let settings = settings.replace("FOLDER", &folder.path().display().to_string());
        let home = folder.path().join("broker");
        let broker = Mosquitto::start_with(&home, 0, &settings).await.unwrap();
        // The same tests run against Google's own cloud if a project is named.
        let (cloud, emulator) = match std::env::var(PROJECT) {
            Ok(project) => (Cloud::google(&project).unwrap(), None),
            Err(_) => {
                let emulator = Emulator::start(Options::default()).await.unwrap();
                if Strictness::from_environment() == Strictness::LikeGoogle {
                    hardness::harden(&emulator.url()).await.unwrap();
                }
                (Cloud::embedded(&emulator.url()), Some(emulator))
            }
        };
        let stage = Self { broker, cloud, emulator, folder, googles: None };
        stage.furnish().await;
        stage
    }

    /// Starts an environment with Google's emulators of Pub/Sub and Firestore. Table and archive
    /// are in the embedded cloud. If the emulators are not installed, prints that and returns
    /// `None`.
    pub(crate) async fn set_on_googles_emulators() -> Option<Self> {
        service::install_crypto();
        let pubsub = emulators::start(&emulators::PUBSUB).await?;
        let firestore = emulators::start(&emulators::FIRESTORE).await?;
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("broker");
        let broker = Mosquitto::start_with(&home, 0, "allow_anonymous true").await.unwrap();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let cloud = Cloud::embedded(&emulator.url()).with_messages_at(&pubsub, &firestore);
        let googles = Some(Googles { pubsub, firestore });
        let stage = Self { broker, cloud, emulator: Some(emulator), folder, googles };
        stage.furnish().await;
        Some(stage)
    }

    /// Creates topics, subscriptions, bucket and dataset.
    async fn furnish(&self) {
        let name = |kind| self.cloud.name(kind);
        for (topic, subscriptions) in TOPICS {
            self.cloud.create_topic(&name(topic)).await.unwrap();
            for subscription in subscriptions {
                let (subscription, topic) = (name(subscription), name(topic));
                self.cloud.create_subscription(&subscription, &topic).await.unwrap();
            }
        }
        self.cloud.create_bucket(&name("bucket")).await.unwrap();
        self.cloud.create_dataset(&self.dataset()).await.unwrap();
    }

    /// Returns the name of the dataset, where hyphens are not allowed.
    pub(crate) fn dataset(&self) -> String {
        self.cloud.name("dataset").replace('-', "_")
    }

    /// Writes the documents of the first devices of a fleet.
    pub(crate) async fn put_devices(&self, devices: u32) {
        let documents = e2e::reading::documents(devices);
        self.cloud.put_documents(&self.cloud.name("devices"), documents).await.unwrap();
    }

    /// Removes the resources that [`Stage::set`] created, and the documents of the devices.
    pub(crate) async fn strike(self) {
        let name = |kind: &str| self.cloud.name(kind);
        let topics: Vec<_> = TOPICS.iter().map(|(topic, _)| name(topic)).collect();
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let subscriptions = TOPICS.iter().flat_map(|(_, subscriptions)| subscriptions.iter());
        let subscriptions: Vec<_> = subscriptions.map(|subscription| name(subscription)).collect();
        let subscriptions: Vec<_> = subscriptions.iter().map(String::as_str).collect();
        self.cloud.teardown(&topics, &subscriptions, &[&name("bucket")]).await.unwrap();
        self.cloud.delete_dataset(&self.dataset()).await.unwrap();
        self.cloud.delete_documents(&name("devices")).await.unwrap();
    }

    /// Returns the embedded cloud for a test that injects faults. On Google's cloud, prints that
    /// the test is skipped and returns `None`.
    pub(crate) fn faulty_cloud(&self) -> Option<&Emulator> {
        if self.emulator.is_none() {
            // Writes to stderr directly, because the test runner captures printed output.
            let text = b"SKIPPED: the faults of this test need the embedded cloud\n";
            std::io::stderr().write_all(text).unwrap();
        }
        self.emulator.as_ref()
    }

    pub(crate) fn endpoint(&self) -> Option<String> {
        self.emulator.as_ref().map(Emulator::url)
    }

    fn pubsub(&self) -> Endpoint {
        let googles = self.googles.as_ref().map(|googles| googles.pubsub.clone());
        Endpoint { endpoint: googles.or_else(|| self.endpoint()), ..Endpoint::default() }
    }

    fn firestore(&self) -> Option<String> {
        let googles = self.googles.as_ref().map(|googles| googles.firestore.clone());
        googles.or_else(|| self.endpoint())
    }

    pub(crate) fn fleet(&self, messages: u64) -> Fleet {
        let port = self.broker.port();
        Fleet::start(FleetPlan {
            port,
            messages: Some(messages),
            devices: 50,
            ..FleetPlan::default()
        })
    }

    /// Returns settings of ingestion with one route for the topics of the fleet.
    pub(crate) fn ingestion(&self) -> ingestion::config::Settings {
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = "devices/{device_id}/up".into();
        route.source.qos = 1;
        route.destination.route_name = "uplinks".into();
        let mut settings = ingestion::config::Settings {
            project: self.cloud.project.clone(),
            dead_letters: Some(DeadLetterConfig::Topic {
                topic_id: self.cloud.name("dead"),
                bucket: None,
            }),
            http: loopback(),
            pubsub: self.pubsub(),
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

    /// Returns settings of icestore that write small objects soon.
    pub(crate) fn icestore(&self) -> icestore::config::Settings {
        let mut settings = icestore::config::Settings {
            project: self.cloud.project.clone(),
            dead_letters: Some(DeadLetterConfig::Topic {
                topic_id: self.cloud.name("dead"),
                bucket: None,
            }),
            http: loopback(),
            pubsub: self.pubsub(),
            ..icestore::config::Settings::default()
        };
        settings.subscription.id = self.cloud.name("archive");
        settings.subscription.lease_extension = Duration::from_secs(10);
        settings.storage.bucket = self.cloud.name("bucket");
        settings.storage.endpoint = self.endpoint();
        settings.pipeline.batch.max_age = Duration::from_millis(500);
        settings
    }

    /// Returns settings of enrich, with Redis if a URL is given.
    pub(crate) fn enrich(&self, redis_url: Option<String>) -> enrich::config::Settings {
        let mut settings = enrich::config::Settings {
            project: self.cloud.project.clone(),
            topic_id: self.cloud.name("enriched"),
            dead_letters: Some(DeadLetterConfig::Topic {
                topic_id: self.cloud.name("dead"),
                bucket: None,
            }),
            admin: Admin { port: 0, ..Admin::default() },
            http: loopback(),
            pubsub: self.pubsub(),
            ..enrich::config::Settings::default()
        };
        settings.subscription.id = self.cloud.name("enrich");
        settings.subscription.lease_extension = Duration::from_secs(10);
        settings.firestore.collection = self.cloud.name("devices");
        settings.firestore.endpoint = self.firestore();
        settings.cache.redis.url = redis_url;
        settings.cache.redis.key_prefix = format!("{}:", self.cloud.run);
        settings
    }

    /// Returns settings of bigqueries with the columns that the comparison needs.
    pub(crate) fn bigqueries(&self) -> bigqueries::config::Settings {
        let column =
            |name: &str, kind, from| Column { from: Some(from), ..Column::new(name, kind) };
        let mut settings = bigqueries::config::Settings {
            project: self.cloud.project.clone(),
            dead_letters: Some(DeadLetterConfig::Topic {
                topic_id: self.cloud.name("dead"),
                bucket: None,
            }),
            http: loopback(),
            pubsub: self.pubsub(),
            ..bigqueries::config::Settings::default()
        };
        settings.subscription.id = self.cloud.name("rows");
        settings.subscription.lease_extension = Duration::from_secs(10);
        settings.bigquery.endpoint = self.endpoint();
        settings.table.dataset = self.dataset();
        settings.table.id = "readings".into();
        settings.table.columns = vec![
            column("device_id", Kind::String, FieldPath::Attribute("device_id".into())),
            column("location", Kind::String, FieldPath::Enrichment(Pointer::to("location"))),
            column("temperature", Kind::Float64, FieldPath::Payload(Pointer::to("temperature"))),
        ];
        settings
    }

    /// Reads the rows of the table after the first `skipped` ones.
    pub(crate) async fn rows_from(&self, skipped: usize) -> Vec<Map<String, Value>> {
        self.cloud.rows_from(&self.dataset(), "readings", skipped).await.unwrap()
    }

    /// Reads all rows of the table.
    pub(crate) async fn rows(&self) -> Vec<Map<String, Value>> {
        self.cloud.rows(&self.dataset(), "readings").await.unwrap()
    }
}

fn loopback() -> Http {
    Http { host: "127.0.0.1".into(), port: 0 }
}

/// Starts a service and waits until it is ready.
pub(crate) async fn start<S: Service>(service: S, settings: &impl service::Settings) -> Hosted {
    let hosted = Hosted::start(service, settings).await.unwrap();
    until(async || hosted.health().is_ready()).await;
    hosted
}

pub(crate) async fn start_ingestion(settings: ingestion::config::Settings) -> Hosted {
    start(Ingestion::new(settings.clone()), &settings).await
}

pub(crate) async fn start_icestore(settings: icestore::config::Settings) -> Hosted {
    start(Icestore::new(settings.clone()), &settings).await
}

pub(crate) async fn start_enrich(settings: enrich::config::Settings) -> Hosted {
    start(Enrich::new(settings.clone()), &settings).await
}

pub(crate) async fn start_bigqueries(settings: bigqueries::config::Settings) -> Hosted {
    start(Bigqueries::new(settings.clone()), &settings).await
}

/// Returns the longest wait for what the cloud must do first. Google's may not know a new table or
/// column for minutes.
pub(crate) fn patience() -> Duration {
    if std::env::var_os(PROJECT).is_some() { 10 * PATIENCE } else { PATIENCE }
}

/// Waits until a condition holds.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(patience(), async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("what was waited for did not come about");
}

/// Returns the sum of a counter over all its labels.
pub(crate) fn counter(hosted: &Hosted, name: &str) -> u64 {
    let text = hosted.metrics().unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Waits for the first dead letter.
pub(crate) async fn next_letter(stage: &Stage) -> e2e::cloud::Received {
    let mut letters = Vec::new();
    until(async || {
        letters.extend(stage.cloud.pull(&stage.cloud.name("buried")).await.unwrap());
        !letters.is_empty()
    })
    .await;
    letters.remove(0)
}
