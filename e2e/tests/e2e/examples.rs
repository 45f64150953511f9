//! Dependencies for the example settings of the services, with the resources of the local overlay.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use e2e::cloud::Cloud;
use e2e::env::TestEnv;
use e2e::mosquitto::Mosquitto;
use e2e::process::binary;
use e2e::redis::Redis;
use e2e::timings::{self, Timings};
use emulator::{Emulator, Options, Resources};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::flow_env::FlowEnv;

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl FlowEnv {
    /// Starts a broker, a Redis and an embedded cloud with these resources.
    pub(crate) async fn for_examples(resources: Option<Resources>) -> Self {
        let timings = Timings::start(timings::RESOURCES);
        let folder = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(&folder.path().join("broker"), 0).await.unwrap();
        let emulator = Emulator::start(Options { resources, ..Options::default() }).await.unwrap();
        let (cloud, server) = (Cloud::embedded(&emulator.url()), Some(emulator));
        let redis = Some(Redis::start().await.unwrap());
        Self { env: TestEnv { broker, redis, server, cloud, folder }, timings }
    }

    /// Starts an environment with the resources of the local overlay.
    pub(crate) async fn with_resources() -> Self {
        let file = root().join("deploy/kubernetes/overlays/local/resources.yaml");
        Self::for_examples(Some(Resources::read(&file).unwrap())).await
    }

    pub(crate) fn emulator(&self) -> &Emulator {
        self.server.as_ref().unwrap()
    }

    pub(crate) fn redis(&self) -> &Redis {
        self.redis.as_ref().unwrap()
    }

    /// Returns the variables of docker-compose.yml, with the addresses of this environment.
    pub(crate) fn variables(&self, service: &str) -> Vec<(&'static str, String)> {
        let cloud = self.emulator().address().to_string();
        let mut variables =
            vec![("DATAFLOW__PROJECT", "local".into()), ("PUBSUB_EMULATOR_HOST", cloud.clone())];
        variables.extend(match service {
            "ingestion" => {
                vec![("DATAFLOW__MQTT__URL", format!("mqtt://127.0.0.1:{}", self.broker.port()))]
            }
            "enrich" => vec![
                ("FIRESTORE_EMULATOR_HOST", cloud),
                ("DATAFLOW__CACHE__REDIS__URL", self.redis().url()),
            ],
            "bigqueries" => vec![("BIGQUERY_EMULATOR_HOST", cloud)],
            _ => vec![("STORAGE_EMULATOR_HOST", cloud)],
        });
        variables
    }

    /// Runs a command-line tool of a service with its example settings.
    pub(crate) async fn run(&self, service: &str, args: &[&str], input: &[u8]) -> Output {
        let config = root().join("services").join(service).join("example.yaml");
        self.run_with(service, &config, args, input).await
    }

    /// Builds the command for a tool of a service, without starting it.
    pub(crate) fn command(&self, service: &str, config: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary(service).unwrap());
        command.args(args).arg("--config").arg(config).envs(self.variables(service));
        command
    }

    pub(crate) async fn run_with(
        &self,
        service: &str,
        config: &Path,
        args: &[&str],
        input: &[u8],
    ) -> Output {
        let mut command = self.command(service, config, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).await.unwrap();
        drop(stdin);
        child.wait_with_output().await.unwrap()
    }

    /// Runs a tool that must succeed, and parses the JSON that it prints.
    pub(crate) async fn json(&self, service: &str, args: &[&str], input: &[u8]) -> Value {
        let output = self.run(service, args, input).await;
        assert!(output.status.success(), "{service} {args:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub(crate) fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}
