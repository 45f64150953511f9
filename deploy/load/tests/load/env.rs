//! Environment of a test: a broker, the embedded cloud and ingestion, and the program itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::cloud::Cloud;
use e2e::env::TestEnv;
use e2e::hosted::HostedService;
use e2e::mosquitto::Mosquitto;
use e2e::names::{self, ENRICH, ROUTE};
use emulator::{Emulator, Options};
use ingestion::Ingestion;
use ingestion::config::{HttpIngest, RouteSettings, Settings};
use message::Envelope;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Longest wait for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Grace period of a service.
const GRACE: Duration = Duration::from_secs(20);

/// Broker, cloud and ingestion.
pub(crate) struct Env {
    pub(crate) env: TestEnv<Emulator>,
    pub(crate) ingestion: HostedService,
}

/// Run of the program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    /// Report in JSON; null if there is none.
    pub(crate) report: Value,
}

/// Messages, each with its address and payload. Copies count once.
pub(crate) type Messages = BTreeSet<(String, String)>;

impl Env {
    /// Starts everything. Ingestion has a route for the topics of devices, and one for HTTP.
    pub(crate) async fn start(broker: &str, change: impl FnOnce(&mut Settings, &Path)) -> Self {
        service::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        e2e::certificates::make(folder.path()).unwrap();
        let lines = broker.replace("FOLDER", &folder.path().display().to_string());
        let home = folder.path().join("broker");
        let broker = Mosquitto::start_with(&home, 0, &lines).await.unwrap();
        let server = Emulator::start(Options::default()).await.unwrap();
        let cloud = Cloud::embedded(&server.url());
        cloud.create_resources(&names::SUBSCRIPTIONS).await.unwrap();
        let env = TestEnv { broker, redis: None, server, cloud, folder };
        let mut settings = env.settings().ingestion;
        settings.mqtt.reconnect.min = Duration::from_millis(50);
        settings.mqtt.reconnect.max = Duration::from_millis(200);
        let mut route = RouteSettings::default();
        route.source.http_source = Some("{device_id}".into());
        route.destination.route_name = ROUTE.into();
        settings.routes.insert("http".into(), route);
        settings.http_ingest = Some(HttpIngest { port: 0, ..HttpIngest::default() });
        change(&mut settings, env.folder.path());
        let ingestion = HostedService::start(Ingestion::new(settings)).await.unwrap();
        ingestion.ready(PATIENCE).await.unwrap();
        Self { env, ingestion }
    }

    /// Starts everything with the usual settings.
    pub(crate) async fn usual() -> Self {
        Self::start("allow_anonymous true", |_, _| {}).await
    }

    /// Returns the URL of the broker.
    pub(crate) fn broker(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.env.broker.port())
    }

    /// Returns the URL of ingest over HTTP.
    pub(crate) fn ingest(&self) -> String {
        let report = self.ingestion.hosted.health().report();
        format!("http://{}/ingest", report["http_ingest"].as_str().unwrap())
    }

    /// Waits until this number of different messages has arrived, and returns all.
    pub(crate) async fn arrived(&self, count: usize) -> Messages {
        let mut arrived = Messages::new();
        let pulled = async {
            while arrived.len() < count {
                for one in self.env.cloud.pull(ENRICH).await.unwrap() {
                    let envelope = Envelope::read(&one.data).unwrap();
                    let payload = envelope.payload.unwrap();
                    let payload = String::from_utf8(payload.bytes().to_vec()).unwrap();
                    let names = ["mqtt_topic", "http_source"];
                    let address = names.iter().find_map(|name| one.attributes.get(*name));
                    arrived.insert((address.unwrap().clone(), payload));
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let is_complete = timeout(PATIENCE, pulled).await.is_ok();
        assert!(is_complete, "{} of {count} messages have arrived", arrived.len());
        arrived
    }

    pub(crate) async fn stop(self) {
        self.ingestion.shutdown(GRACE).await.unwrap();
    }
}

/// Starts the program.
pub(crate) fn start(options: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// Runs the program to its end. With a target, it also writes its report as JSON.
pub(crate) async fn run(options: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let option = format!("--report={}", file.display());
    let process = start(&[options, &[&option]].concat());
    ended(process, Some(&file)).await
}

/// Waits for the end of the program, and reads the report from a file.
pub(crate) async fn ended(process: Child, report: Option<&Path>) -> Ended {
    let output = timeout(PATIENCE, process.wait_with_output()).await.unwrap().unwrap();
    let json = report.and_then(|file| std::fs::read(file).ok());
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        report: json.map(|json| serde_json::from_slice(&json).unwrap()).unwrap_or_default(),
    }
}

/// Sends SIGINT to the program.
pub(crate) async fn interrupt(process: &Child) {
    let id = process.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
}

/// Returns the messages that the program would send with these options.
pub(crate) async fn planned(options: &[&str]) -> Messages {
    let process = start(&[options, &["--dry-run"]].concat());
    let ended = ended(process, None).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let mut messages = Messages::new();
    for line in ended.out.lines() {
        let (address, payload) = line.split_once('\t').unwrap();
        messages.insert((address.to_owned(), payload.to_owned()));
    }
    messages
}

impl Ended {
    /// Requires this exit code, and these counts in the report.
    #[track_caller]
    pub(crate) fn assert(&self, code: i32, counts: &[(&str, u64)]) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert_eq!(self.report["exit_code"], code);
        for (name, count) in counts {
            assert_eq!(self.report[name], *count, "{name}: {}", self.report);
        }
    }
}
