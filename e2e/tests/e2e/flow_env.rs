//! Test environment of the flows: a real broker, the embedded cloud or Google's, and the services
//! in this process. Each test has its own resources.

use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use bigqueries::Bigqueries;
use e2e::archive::{self, Line};
use e2e::cloud::{Cloud, Received, Urls};
use e2e::env::TestEnv;
use e2e::fleet::{Fleet, FleetPlan};
use e2e::hosted::HostedService;
use e2e::metrics::Metrics;
use e2e::mosquitto::Mosquitto;
use e2e::names::{self, ARCHIVE, DEAD_LETTER_REPORT, DEVICES, RAW, Subscription, TABLE};
use e2e::reconcile::Arrived;
use e2e::settings::ServiceSettings;
use e2e::strictness::{self, Strictness};
use e2e::timings::{self, Timings};
use emulator::{Emulator, Options};
use enrich::Enrich;
use icestore::Icestore;
use ingestion::Ingestion;
use serde_json::{Map, Value};
use service::google::EndpointUrl;
use service::settings::Parsed;
use service::{Hosted, Service};
use tokio::time::{sleep, timeout};

use crate::emulators;

/// Grace period of a service.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
/// Longest wait for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Variable that names a project of Google's own cloud for the flows.
const PROJECT: &str = "DATAFLOW_E2E_PROJECT";

/// Subscriptions of a flow without enrich: icestore and bigqueries read what ingestion publishes.
pub(crate) const RAW_ARCHIVE: &str = "raw-archive";
pub(crate) const RAW_ROWS: &str = "raw-rows";

/// Environment of one test. On Google's own cloud it has no server. It records the phases of the test.
pub(crate) struct FlowEnv {
    pub(crate) env: TestEnv<Option<Emulator>>,
    pub(crate) timings: Timings,
}

impl Deref for FlowEnv {
    type Target = TestEnv<Option<Emulator>>;

    fn deref(&self) -> &Self::Target {
        &self.env
    }
}

impl DerefMut for FlowEnv {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.env
    }
}

fn subscriptions() -> Vec<Subscription> {
    let raw = [RAW_ARCHIVE, RAW_ROWS].map(|id| Subscription::new(id, RAW));
    [&names::SUBSCRIPTIONS[..], &raw].concat()
}

impl FlowEnv {
    /// Starts the broker, and creates topics, subscriptions, bucket and dataset.
    #[track_caller]
    pub(crate) fn start() -> impl Future<Output = Self> {
        Self::start_with("allow_anonymous true", |_| {})
    }

    /// Like [`FlowEnv::start`], with extra settings of the broker. `prepare` creates the files that
    /// they name.
    #[track_caller]
    pub(crate) fn start_with(
        settings: &str,
        prepare: impl FnOnce(&Path),
    ) -> impl Future<Output = Self> {
        Self::start_timed(Timings::start(timings::RESOURCES), settings, prepare)
    }

    async fn start_timed(timings: Timings, settings: &str, prepare: impl FnOnce(&Path)) -> Self {
        service::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let settings = settings.replace("FOLDER", &folder.path().display().to_string());
        let home = folder.path().join("broker");
        let broker = Mosquitto::start_with(&home, 0, &settings).await.unwrap();
        // The same tests run against Google's own cloud if a project is named.
        let (cloud, server) = match std::env::var(PROJECT) {
            Ok(project) => (Cloud::google(&project).unwrap(), None),
            Err(_) => {
                let emulator = Emulator::start(Options::default()).await.unwrap();
                if Strictness::from_environment() == Strictness::LikeGoogle {
                    strictness::imitate_google(&emulator.url()).await.unwrap();
                }
                (Cloud::embedded(&emulator.url()).in_new_run(), Some(emulator))
            }
        };
        let env = TestEnv { broker, redis: None, server, cloud, folder };
        Self::create(env, timings).await
    }

    /// Starts an environment with Google's emulators of Pub/Sub and Firestore. Table and archive
    /// are in the embedded cloud. If the emulators are not installed, prints that and returns
    /// `None`.
    pub(crate) async fn start_on_googles_emulators() -> Option<Self> {
        let timings = Timings::start(timings::RESOURCES);
        service::install_crypto();
        let pubsub = emulators::start(&emulators::PUBSUB).await?;
        let firestore = emulators::start(&emulators::FIRESTORE).await?;
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("broker");
        let broker = Mosquitto::start_with(&home, 0, "allow_anonymous true").await.unwrap();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let urls = Urls { pubsub, firestore, ..Urls::all(&emulator.url()) };
        let cloud = Cloud::emulated(urls).in_new_run();
        let server = Some(emulator);
        let env = TestEnv { broker, redis: None, server, cloud, folder };
        Some(Self::create(env, timings).await)
    }

    async fn create(env: TestEnv<Option<Emulator>>, timings: Timings) -> Self {
        env.cloud.create_resources(&subscriptions()).await.unwrap();
        Self { env, timings }
    }

    /// Returns the name of the bucket of the archive.
    pub(crate) fn bucket(&self) -> String {
        self.cloud.name(ARCHIVE)
    }

    /// Writes the documents of the first devices of a fleet.
    pub(crate) async fn put_devices(&self, devices: u32) {
        let documents = e2e::reading::documents(devices);
        self.cloud.put_documents(&self.cloud.name(DEVICES), documents).await.unwrap();
    }

    /// Removes the resources that [`FlowEnv::start`] created, and the documents of the devices.
    pub(crate) async fn teardown(self) {
        timings::phase(timings::TEARDOWN);
        self.cloud.delete_resources(&subscriptions()).await.unwrap();
        drop(self.timings);
    }

    /// Returns the embedded cloud for a test that injects faults. On Google's cloud, prints that
    /// the test is skipped and returns `None`.
    pub(crate) fn faulty_cloud(&self) -> Option<&Emulator> {
        if self.server.is_none() {
            // Writes to stderr directly, because the test runner captures printed output.
            let text = b"SKIPPED: the faults of this test need the embedded cloud\n";
            std::io::stderr().write_all(text).unwrap();
        }
        self.server.as_ref()
    }

    /// Returns the URL of the embedded cloud, if there is one.
    pub(crate) fn endpoint(&self) -> Option<Parsed<EndpointUrl>> {
        self.server.as_ref().map(|server| server.url().into())
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

    /// Returns settings with which everything happens soon. Subscriptions follow enrich.
    fn quick(&self, redis_url: Option<String>) -> ServiceSettings {
        let mut all = ServiceSettings::new(&self.cloud, self.broker.port(), redis_url);
        let ServiceSettings { ingestion, enrich, bigqueries, icestore } = &mut all;
        ingestion.mqtt.reconnect.min = Duration::from_millis(100);
        ingestion.mqtt.reconnect.max = Duration::from_secs(1);
        enrich.cache.redis.key_prefix = format!("{}:", self.cloud.run);
        icestore.pipeline.batch.max_age = Duration::from_millis(500);
        for subscription in [
            &mut enrich.intake.subscription,
            &mut bigqueries.intake.subscription,
            &mut icestore.intake.subscription,
        ] {
            subscription.lease_extension = Duration::from_secs(10);
        }
        all
    }

    /// Returns settings of ingestion with one route for the topics of the fleet.
    pub(crate) fn ingestion(&self) -> ingestion::config::Settings {
        self.quick(None).ingestion
    }

    /// Returns settings of enrich, with Redis if a URL is given.
    pub(crate) fn enrich(&self, redis_url: Option<String>) -> enrich::config::Settings {
        self.quick(redis_url).enrich
    }

    /// Returns settings of bigqueries behind enrich.
    pub(crate) fn enriched_bigqueries(&self) -> bigqueries::config::Settings {
        self.quick(None).bigqueries
    }

    /// Returns settings of bigqueries without enrich.
    pub(crate) fn bigqueries(&self) -> bigqueries::config::Settings {
        let mut settings = self.enriched_bigqueries();
        settings.intake.subscription.id = self.cloud.name(RAW_ROWS).into();
        settings
    }

    /// Returns settings of icestore behind enrich.
    pub(crate) fn enriched_icestore(&self) -> icestore::config::Settings {
        self.quick(None).icestore
    }

    /// Returns settings of icestore without enrich.
    pub(crate) fn icestore(&self) -> icestore::config::Settings {
        let mut settings = self.enriched_icestore();
        settings.intake.subscription.id = self.cloud.name(RAW_ARCHIVE).into();
        settings
    }

    /// Reads all messages of the archive.
    pub(crate) async fn arrived_lines(&self) -> Vec<Arrived> {
        self.lines().await.iter().map(|line| Arrived::of_line(line).unwrap()).collect()
    }

    /// Reads all messages of the table.
    pub(crate) async fn arrived_rows(&self) -> Vec<Arrived> {
        self.rows().await.iter().map(Arrived::of_row).collect()
    }

    /// Reads all lines of the archive.
    pub(crate) async fn lines(&self) -> Vec<Line> {
        archive::read(&self.cloud, &self.bucket(), "archive/").await.unwrap()
    }

    /// Reads the rows of the table after the first `skipped` ones.
    pub(crate) async fn rows_from(&self, skipped: usize) -> Vec<Map<String, Value>> {
        self.cloud.rows_from(&self.cloud.dataset(), TABLE, skipped).await.unwrap()
    }

    /// Reads all rows of the table.
    pub(crate) async fn rows(&self) -> Vec<Map<String, Value>> {
        self.cloud.rows(&self.cloud.dataset(), TABLE).await.unwrap()
    }
}

/// Starts a service and waits until it is ready.
pub(crate) async fn start(service: impl Service) -> Hosted {
    let service = HostedService::start(service).await.unwrap();
    service.ready(patience()).await.unwrap();
    service.hosted
}

pub(crate) async fn start_ingestion(settings: ingestion::config::Settings) -> Hosted {
    start(Ingestion::new(settings)).await
}

pub(crate) async fn start_icestore(settings: icestore::config::Settings) -> Hosted {
    start(Icestore::new(settings)).await
}

pub(crate) async fn start_enrich(settings: enrich::config::Settings) -> Hosted {
    start(Enrich::new(settings)).await
}

pub(crate) async fn start_bigqueries(settings: bigqueries::config::Settings) -> Hosted {
    start(Bigqueries::new(settings)).await
}

/// Returns the longest wait for what the cloud must do first. Google's may not know a new table or
/// column for minutes.
pub(crate) fn patience() -> Duration {
    if std::env::var_os(PROJECT).is_some() { 10 * PATIENCE } else { PATIENCE }
}

/// Waits until a condition holds.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    timings::phase(timings::SETTLE);
    let waited = timeout(patience(), async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("what was waited for did not come about");
    timings::phase(timings::VERIFY);
}

/// Returns the sum of a counter over all its labels.
pub(crate) fn counter(hosted: &Hosted, name: &str) -> u64 {
    Metrics::parse(&hosted.metrics().unwrap()).count(name)
}

/// Waits for the first dead letter.
pub(crate) async fn next_dead_letter(env: &FlowEnv) -> Received {
    let mut dead_letters = Vec::new();
    until(async || {
        dead_letters.extend(env.cloud.pull(&env.cloud.name(DEAD_LETTER_REPORT)).await.unwrap());
        !dead_letters.is_empty()
    })
    .await;
    dead_letters.remove(0)
}
