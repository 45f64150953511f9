//! Tests of dashboards and alerts on a real Prometheus that scrapes the running services.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use e2e::names::{ENRICHED, SERVICES};
use e2e::postgres::Postgres;
use e2e::process::Process;
use e2e::process::free_port;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::examples::root;
use crate::flow_env::{FlowEnv, until};
use crate::flows::Device;

/// Expression that has no result while all services are ready.
const NOT_READY: &str = "dataflow_service_ready == 0";

/// A Prometheus with the settings of docker-compose.yml. Dropping it kills the process.
struct Prometheus {
    port: u16,
    _process: Child,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes these services. If it is not installed, prints that and
    /// returns `None`.
    fn start(env: &FlowEnv, services: &BTreeMap<&str, Process>) -> Option<Self> {
        let folder = env.folder.path();
        let monitoring = root().join("deploy/monitoring");
        std::fs::copy(monitoring.join("alerts.yml"), folder.join("alerts.yml")).unwrap();
        let mut config = std::fs::read_to_string(monitoring.join("prometheus.yml")).unwrap();
        config = config.replace("_interval: 5s", "_interval: 200ms");
        let mut targets = String::from("static_configs:\n");
        for (name, service) in services {
            let address = service.url().replace("http://", "");
            config = config.replace(&format!("{name}:8080"), &address);
            if !SERVICES.contains(name) {
                // No name server tells their addresses here.
                let target = format!("targets: [\"{address}\"], labels: {{ service: {name} }}");
                targets.push_str(&format!("      - {{ {target} }}\n"));
            }
        }
        assert!(config.contains("names: [postgres, query]"), "they are found by their names");
        config = config.replace("static_configs:\n", &targets);
        let is_lookup = |line: &&str| line.contains("dns_sd_configs") || line.contains("names: [");
        config = config
            .lines()
            .filter(|line| !is_lookup(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();

        let port = free_port().unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(process) = command.kill_on_drop(true).spawn() else {
            // Writes to stderr directly, because the test runner captures printed output.
            std::io::stderr().write_all(b"SKIPPED: prometheus is missing\n").unwrap();
            return None;
        };
        Some(Self { port, _process: process })
    }

    /// Returns true if the expression has a numeric result.
    async fn tells(&self, expression: &str) -> bool {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.port);
        let asked = reqwest::Client::new().get(url).query(&[("query", expression)]).send().await;
        // Prometheus needs some time to start.
        let Ok(answer) = asked else { return false };
        let Ok(answer) = answer.json::<Value>().await else { return false };
        assert_ne!(answer["status"], "error", "{expression}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap();
        series.iter().any(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN"))
    }
}

/// Returns the expressions of all dashboards.
fn expressions() -> Vec<String> {
    let mut expressions = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy/monitoring/dashboards")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let board: Value = serde_json::from_str(&text).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            let targets = panel["targets"].as_array().unwrap().iter();
            expressions.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
        }
    }
    expressions
}

/// Starts PostgreSQL with the login of the examples, and the subscription of the service postgres.
async fn start_database(env: &FlowEnv) -> Postgres {
    let server = Postgres::start().await.unwrap();
    server.run("CREATE ROLE dataflow LOGIN").await.unwrap();
    server.run("CREATE DATABASE dataflow OWNER dataflow").await.unwrap();
    env.cloud.create_subscription("postgres", ENRICHED).await.unwrap();
    server
}

async fn start_services(
    env: &FlowEnv,
    database: &Postgres,
    query_port: u16,
) -> BTreeMap<&'static str, Process> {
    let mut services = BTreeMap::new();
    for name in SERVICES.into_iter().chain(["postgres", "query"]) {
        let config = root().join("services").join(name).join("example.yaml");
        let (log, port) = (env.folder.path().join("log"), free_port().unwrap());
        let mut variables = match name {
            "query" => vec![("DATAFLOW__API__PORT", query_port.to_string())],
            _ => env.variables(name),
        };
        if name != "query" {
            variables.push(("DATAFLOW__PIPELINE__BATCH__MAX_AGE", "100ms".into()));
        }
        if name == "enrich" {
            variables.push(("DATAFLOW__ADMIN__PORT", free_port().unwrap().to_string()));
        }
        if matches!(name, "postgres" | "query") {
            variables.extend([
                ("DATAFLOW__POSTGRES__HOST", "127.0.0.1".into()),
                ("DATAFLOW__POSTGRES__PORT", database.port().to_string()),
                ("DATAFLOW__POSTGRES__SSLMODE", "disable".into()),
            ]);
        }
        services.insert(name, Process::start_with(name, &config, port, &log, &variables).unwrap());
    }
    for service in services.values_mut() {
        service.ready().await.unwrap();
    }
    services
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_what_running_services_export() {
    let mut env = FlowEnv::with_resources().await;
    let (database, query_port) = (start_database(&env).await, free_port().unwrap());
    let mut services = start_services(&env, &database, query_port).await;
    let Some(prometheus) = Prometheus::start(&env, &services) else { return };
    let mut device = Device::new(env.broker.port());

    let mut silent = expressions();
    assert!(silent.iter().any(|expression| expression == NOT_READY));
    silent.retain(|expression| expression != NOT_READY);
    let spoke = tokio::time::timeout(Duration::from_secs(120), async {
        while let Some(expression) = silent.last() {
            device.publish("devices/device-00001/up", false, r#"{"temperature":21.5}"#).await;
            let data = format!("http://127.0.0.1:{query_port}/data?source_id=device-00001");
            assert_ne!(reqwest::get(data).await.unwrap().status().as_u16(), 500);
            if prometheus.tells(expression).await {
                silent.pop();
            }
        }
    });
    assert!(spoke.await.is_ok(), "these show nothing: {silent:#?}");

    assert!(!prometheus.tells(NOT_READY).await, "all is well");
    env.broker.stop().await.unwrap();
    until(async || prometheus.tells(NOT_READY).await).await;
    let alert = r#"ALERTS{alertname="DataflowNotReady",service="ingestion",dependency="mqtt"}"#;
    until(async || prometheus.tells(alert).await).await;

    for (name, service) in &mut services {
        let ended = service.terminate().await.unwrap();
        assert!(ended.success(), "{name} ended with {ended}");
    }
}
