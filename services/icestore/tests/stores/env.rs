//! An embedded cloud, and the binary that uses it.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::{Emulator, Options};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Payloads that tests publish.
pub(crate) const PAYLOADS: [&str; 3] = ["1", "2", "3"];
/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct TestEnv {
    pub(crate) emulator: Emulator,
    pub(crate) folder: TempDir,
}

/// A running icestore. Dropping it kills the process.
pub(crate) struct Service {
    child: Child,
    log: std::path::PathBuf,
}

impl TestEnv {
    pub(crate) async fn new() -> Self {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        Self { emulator, folder: tempfile::tempdir().unwrap() }
    }

    /// Creates the topics and the subscription.
    pub(crate) async fn create_resources(&self) {
        self.put("topics/enriched", json!({})).await;
        self.put("topics/letters", json!({ "messageRetentionDuration": "600s" })).await;
        self.put("subscriptions/archive", json!({ "topic": "projects/p/topics/enriched" })).await;
    }

    async fn put(&self, resource: &str, body: Value) {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        Client::new().put(url).json(&body).send().await.unwrap().error_for_status().unwrap();
    }

    /// Returns a resource of Pub/Sub, Cloud Storage or BigQuery, or null.
    pub(crate) async fn resource(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("{}/{path}", self.emulator.url())).await.unwrap();
        if !answer.status().is_success() {
            return Value::Null;
        }
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    pub(crate) async fn publish(&self) {
        let url = format!("{}/v1/projects/p/topics/enriched:publish", self.emulator.url());
        let messages: Vec<_> =
            PAYLOADS.iter().map(|data| json!({ "data": STANDARD.encode(data) })).collect();
        let request = Client::new().post(url).json(&json!({ "messages": messages }));
        request.send().await.unwrap().error_for_status().unwrap();
    }

    fn command(&self, variables: &[(&str, String)]) -> Command {
        let address = self.emulator.address().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_icestore"));
        command.env_clear().envs([
            ("DATAFLOW__PROJECT", "p"),
            ("DATAFLOW__SUBSCRIPTION__ID", "archive"),
            ("DATAFLOW__DEAD_LETTERS__TOPIC_ID", "letters"),
            // An object is closed when it has all messages, so there is one object.
            ("DATAFLOW__PIPELINE__BATCH__MAX_MESSAGES", "3"),
            ("PUBSUB_EMULATOR_HOST", &address),
            ("STORAGE_EMULATOR_HOST", &address),
            ("PORT", "0"),
        ]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the service with these variables.
    pub(crate) fn start(&self, variables: &[(&str, String)]) -> Service {
        let log = self.folder.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let child = self.command(variables).stderr(file).stdout(Stdio::null()).spawn().unwrap();
        Service { child, log }
    }

    /// Runs a tool that must succeed, and returns what it prints.
    pub(crate) fn tool(&self, args: &[&str], variables: &[(&str, String)]) -> String {
        self.tool_with(args, variables, b"")
    }

    /// Runs a tool with this input.
    pub(crate) fn tool_with(
        &self,
        args: &[&str],
        variables: &[(&str, String)],
        input: &[u8],
    ) -> String {
        let mut command = self.command(variables);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(output.status.success(), "{args:?}: {text}");
        text
    }

    /// Waits until `found` returns something.
    pub(crate) async fn until<T>(&self, service: &Service, found: impl Fn() -> Option<T>) -> T {
        let waiting = async {
            loop {
                match found() {
                    Some(found) => break found,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("nothing came:\n{}", service.log()))
    }
}

impl Service {
    /// Returns its log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Returns true once it has opened its subscription.
    pub(crate) fn is_reading(&self) -> bool {
        let is_it = |line: &str| line.contains(r#""ready""#) && line.contains(r#""subscription""#);
        self.log().lines().any(is_it)
    }

    /// Ends the service, and expects success.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
    }

    /// Waits for a service that ends by itself, and returns its exit code.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, except after a failure.
        let _ended = self.child.kill();
    }
}

/// Returns the payloads in an object of `jsonl.gz`.
pub(crate) fn lines(object: &[u8]) -> Vec<String> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(object).read_to_string(&mut text).unwrap();
    let payload = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let payload = STANDARD.decode(line["originalPubSubPayload"].as_str().unwrap()).unwrap();
        String::from_utf8(payload).unwrap()
    };
    let mut payloads: Vec<_> = text.lines().map(payload).collect();
    // Several streams have no common order.
    payloads.sort();
    payloads
}
