//! Runs the four binaries as processes, with settings from YAML and environment variables.

use std::path::PathBuf;
use std::time::Duration;

use crate::stage::{Stage, until};
use e2e::mosquitto::free_port;
use e2e::process::Process;
use e2e::redis::Redis;

/// A service as a process.
struct Binary {
    name: &'static str,
    port: u16,
    log: PathBuf,
    process: Process,
}

impl Binary {
    fn start(name: &'static str, stage: &Stage, settings: &impl serde::Serialize) -> Self {
        let folder = stage.folder.path();
        let (config, log) =
            (folder.join(format!("{name}.yaml")), folder.join(format!("{name}.log")));
        // JSON is also valid YAML.
        std::fs::write(&config, serde_json::to_vec_pretty(settings).unwrap()).unwrap();
        let port = free_port().unwrap();
        let process = Process::start(name, &config, port, &log).unwrap();
        Self { name, port, log, process }
    }
}

/// Starts all four services in the order of the flow.
async fn start_all(stage: &Stage, redis: &Redis) -> Vec<Binary> {
    let enrich = stage.enrich(Some(redis.url()));
    let (mut bigqueries, mut icestore) = (stage.bigqueries(), stage.icestore());
    bigqueries.subscription.id = stage.cloud.name("enriched-rows");
    icestore.subscription.id = stage.cloud.name("enriched-archive");
    let mut services = vec![
        Binary::start("ingestion", stage, &stage.ingestion()),
        Binary::start("enrich", stage, &enrich),
        Binary::start("bigqueries", stage, &bigqueries),
        Binary::start("icestore", stage, &icestore),
    ];
    for service in &mut services {
        service.process.ready().await.unwrap();
    }
    services
}

#[tokio::test(flavor = "multi_thread")]
async fn every_binary_answers_and_takes_variables_over_its_file() {
    let stage = Stage::set().await;
    let redis = Redis::start().await.unwrap();
    let mut services = start_all(&stage, &redis).await;

    for service in &services {
        let get = async |path: &str| {
            let answer = reqwest::get(format!("{}{path}", service.process.url())).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(get("/healthz").await, (200, "OK".into()), "{}", service.name);
        assert_eq!(get("/readyz").await, (200, "READY".into()), "{}", service.name);
        for line in get("/").await.1.lines() {
            let (path, _) = line.split_once(' ').unwrap();
            assert_eq!(get(path).await.0, 200, "{path} of {}", service.name);
        }
        let (_, metrics) = get("/metrics").await;
        assert!(metrics.contains("dataflow_pipeline_received_messages_total 0"), "{metrics}");
        let status: serde_json::Value = serde_json::from_str(&get("/status").await.1).unwrap();
        // The file says 0, and the variable PORT overrides it.
        assert_eq!(status["settings"]["http"]["port"], service.port, "{status}");
        assert!(status["guarantees"].is_array(), "{status}");
    }
    for service in &mut services {
        let ended = service.process.terminate().await.unwrap();
        assert!(ended.success(), "{} ended with {ended}", service.name);
    }
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_that_cannot_end() {
    let stage = Stage::set().await;
    let Some(emulator) = stage.faulty_cloud() else { return stage.strike().await };
    let mut ingestion = Binary::start("ingestion", &stage, &stage.ingestion());
    ingestion.process.ready().await.unwrap();
    emulator.faults().delay("Publish", 1, Duration::from_secs(3600));
    let fleet = stage.fleet(1);
    let status = format!("{}/status", ingestion.process.url());
    let in_flight = async || {
        let status: serde_json::Value = reqwest::get(&status).await.unwrap().json().await.unwrap();
        status["counts"]["in_flight_messages"] == 1
    };
    until(in_flight).await;

    ingestion.process.ask_to_end().unwrap();
    until(async || std::fs::read_to_string(&ingestion.log).unwrap().contains("a second signal"))
        .await;
    let ended = ingestion.process.terminate().await.unwrap();

    assert_eq!(ended.code(), Some(1));
    drop(fleet);
    stage.strike().await;
}
