//! Measurement of all four services in a chain.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use e2e::fleet::{self, Fleet};
use e2e::metrics::SENT;
use e2e::names;
use e2e::process::free_port;
use e2e::process::{Process, binary};
use e2e::usage::{children_cpu_time, cpu_time, peak_megabytes};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

use crate::env::BenchEnv;
use crate::process;
use crate::service::Service;
use crate::table::{Measured, Row};

/// Measures the four services as processes, from the first message at the broker until all messages
/// are in the table and in the archive. CPU time and memory are sums over the four.
pub(crate) async fn measure(messages: u64, repeats: usize) -> anyhow::Result<Row> {
    let mut runs = Vec::new();
    for _ in 0..repeats {
        runs.push(run(messages).await?);
    }
    Ok(Row::alone("chain", "1 KB, four processes", Measured::median(&runs)))
}

async fn run(messages: u64) -> anyhow::Result<Measured> {
    let env = BenchEnv::start_with(&names::SUBSCRIPTIONS, 100).await?;
    let mut services = Vec::new();
    for service in Service::ALL {
        // By default, icestore waits for a minute.
        let soon = json!({ "pipeline": { "batch": { "max_age": "2s" } } });
        let changes = if service == Service::Icestore { soon } else { json!({}) };
        let settings = env.settings(service, &changes)?;
        services.push(process::start(env.servers.folder.path(), service, &settings).await?);
    }
    let pids: Vec<_> = services.iter().filter_map(|(process, _)| process.pid()).collect();
    let own: Duration = pids.iter().map(|pid| cpu_time(*pid)).sum::<anyhow::Result<_>>()?;
    let before = children_cpu_time()?;
    let started = Instant::now();
    let mut fleet = Fleet::start(fleet::FleetPlan {
        port: env.servers.broker.port(),
        messages: Some(messages),
        payload_bytes: 1024,
        ..fleet::FleetPlan::default()
    });
    fleet.finish().await;
    for (process, _) in &services[2..] {
        while process.metrics().await?.count(SENT) < messages {
            sleep(Duration::from_millis(50)).await;
        }
    }
    let taken = started.elapsed();
    let peak = pids.iter().map(|pid| peak_megabytes(*pid)).sum::<anyhow::Result<f64>>()?;
    let draining = Instant::now();
    for (process, _) in &mut services {
        terminate(process).await?;
    }
    let cpu = children_cpu_time()? - before - own;
    let drain = draining.elapsed();
    env.stop().await?;
    let ready = services.iter().map(|(_, ready_in)| ready_in.as_secs_f64() * 1e3);
    Ok(Measured {
        messages_per_second: messages as f64 / taken.as_secs_f64(),
        cpu_us_per_message: cpu.as_secs_f64() * 1e6 / messages as f64,
        peak_rss_mb: peak,
        ready_ms: ready.fold(0.0, f64::max),
        drain_ms: drain.as_secs_f64() * 1e3,
        spread_percent: 0.0,
    })
}

async fn terminate(process: &mut Process) -> anyhow::Result<()> {
    let status = process.terminate().await?;
    if status.success() { Ok(()) } else { bail!("a service ended with {status}") }
}

/// Measures local mode: devices, cloud and services in one process, the broker in another.
pub(crate) async fn measure_local(messages: u64, repeats: usize) -> anyhow::Result<Row> {
    let mut runs = Vec::new();
    for _ in 0..repeats {
        let folder = tempfile::tempdir().context("create a folder")?;
        let report = folder.path().join("report.json");
        let mut command = Command::new(binary("dataflow")?);
        command.args(["--messages", &messages.to_string(), "--payload-bytes", "1024", "--once"]);
        command.arg("--report").arg(&report);
        command.arg("--data-dir").arg(folder.path().join("data"));
        for port in ["--mqtt-port", "--cloud-port", "--ingest-port"] {
            command.args([port, &free_port()?.to_string()]);
        }
        // The services take four ports in a row. No other program asks for ports here in the
        // meantime.
        command.args(["--http-port", &free_port()?.min(60_000).to_string()]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let status = command.kill_on_drop(true).status().await.context("run local mode")?;
        if !status.success() {
            bail!("local mode ended with {status}");
        }
        let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
        let rate = report["messages_per_second"].as_f64().context("read the report")?;
        runs.push(Measured { messages_per_second: rate, ..Measured::default() });
    }
    Ok(Row::alone("chain", "1 KB, local mode", Measured::median(&runs)))
}
