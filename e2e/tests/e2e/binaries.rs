//! Runs the four binaries as processes, with settings from YAML and environment variables.

use std::time::Duration;

use crate::flow_env::{FlowEnv, until};
use e2e::names::SERVICES;
use e2e::process::Process;
use e2e::redis::Redis;
use e2e::settings::ServiceSettings;

/// Starts all four services in the order of the flow.
async fn start_all(env: &FlowEnv, redis: &Redis) -> Vec<(&'static str, Process)> {
    let settings = ServiceSettings::new(&env.cloud, env.broker.port(), Some(redis.url()));
    let mut services = Vec::new();
    for name in SERVICES {
        let settings = settings.json(name).unwrap();
        services.push((name, Process::start_in(env.folder.path(), name, &settings).unwrap()));
    }
    for (_, process) in &mut services {
        process.ready().await.unwrap();
    }
    services
}

#[tokio::test(flavor = "multi_thread")]
async fn every_binary_answers_and_takes_variables_over_its_file() {
    let env = FlowEnv::start().await;
    let redis = Redis::start().await.unwrap();
    let mut services = start_all(&env, &redis).await;

    for (name, process) in &services {
        let get = async |path: &str| {
            let answer = reqwest::get(format!("{}{path}", process.url())).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(get("/healthz").await, (200, "OK".into()), "{name}");
        assert_eq!(get("/readyz").await, (200, "READY".into()), "{name}");
        for line in get("/").await.1.lines() {
            let (path, _) = line.split_once(' ').unwrap();
            // The body of a stream has no end.
            let answer = reqwest::get(format!("{}{path}", process.url())).await.unwrap();
            assert_eq!(answer.status(), 200, "{path} of {name}");
        }
        let (_, metrics) = get("/metrics").await;
        let received =
            format!("dataflow_pipeline_received_messages_total{{pipeline=\"{name}\"}} 0\n");
        assert!(metrics.contains(&received), "{metrics}");
        let status: serde_json::Value = serde_json::from_str(&get("/status").await.1).unwrap();
        // The file says 0, and the variable PORT overrides it.
        assert_eq!(status["settings"]["http"]["port"], process.port(), "{status}");
        assert!(status["guarantees"].is_array(), "{status}");
    }
    for (name, process) in &mut services {
        let ended = process.terminate().await.unwrap();
        assert!(ended.success(), "{name} ended with {ended}");
    }
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_that_cannot_end() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return env.teardown().await };
    let settings = service::settings::to_value(&env.ingestion()).unwrap();
    let folder = env.folder.path();
    let mut ingestion = Process::start_in(folder, "ingestion", &settings).unwrap();
    ingestion.ready().await.unwrap();
    emulator.faults().delay("Publish", 1, Duration::from_secs(3600));
    let fleet = env.fleet(1);
    let status = format!("{}/status", ingestion.url());
    let in_flight = async || {
        let status: serde_json::Value = reqwest::get(&status).await.unwrap().json().await.unwrap();
        status["counts"]["in_flight_messages"] == 1
    };
    until(in_flight).await;

    let log = folder.join("ingestion.log");
    ingestion.ask_to_end().unwrap();
    until(async || std::fs::read_to_string(&log).unwrap().contains("a second signal")).await;
    let ended = ingestion.terminate().await.unwrap();

    assert_eq!(ended.code(), Some(1));
    drop(fleet);
    env.teardown().await;
}
