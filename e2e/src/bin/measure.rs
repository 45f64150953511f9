//! Measures each service alone: messages a second, CPU time a message, peak memory.
//!
//! `cargo build --release --workspace && cargo run --release -p e2e --bin measure -- 200000`
//!
//! Each service is a process of its own with default settings, fed from a backlog, so that nothing
//! but the service sets the pace; the embedded cloud is another process. CPU time is user and system
//! time from `/proc/PID/stat`, of the service alone; memory is its `VmHWM`.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use e2e::cloud::Cloud;
use e2e::fleet::{Fleet, Plan};
use e2e::mosquitto::{Mosquitto, free_port};
use e2e::process::{Process, binary};
use e2e::reading;
use e2e::redis::Redis;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::sleep;

const PAYLOAD_BYTES: usize = 1024;
const DEFAULT_MESSAGES: u64 = 200_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let messages = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the number of messages")?,
        None => DEFAULT_MESSAGES,
    };
    let folder = tempfile::tempdir()?;
    let (mut emulator, url) = start_emulator(folder.path()).await?;
    let cloud = Cloud::embedded(&url);
    for topic in ["raw", "enriched", "dead"] {
        cloud.create_topic(topic).await?;
    }
    let subscriptions =
        [("archive", "raw"), ("enrich", "raw"), ("rows", "enriched"), ("buried", "dead")];
    for (subscription, topic) in subscriptions {
        cloud.create_subscription(subscription, topic).await?;
    }
    cloud.create_bucket("bucket").await?;
    cloud.create_dataset("dataflow").await?;
    cloud.put_documents("devices", reading::documents(Plan::default().devices)).await?;
    println!("{messages} messages of {PAYLOAD_BYTES} bytes, default settings");
    println!("{:<12}{:>12}{:>14}{:>12}", "service", "messages/s", "CPU us/msg", "peak MB");
    ingestion(folder.path(), &url, messages).await?;
    // What ingestion has published is the backlog of icestore and enrich, and what enrich has is that
    // of bigqueries.
    icestore(folder.path(), &url, messages).await?;
    enrich(folder.path(), &url, messages).await?;
    bigqueries(folder.path(), &url, messages).await?;
    emulator.kill().await.context("end the embedded cloud")
}

async fn start_emulator(folder: &Path) -> anyhow::Result<(Child, String)> {
    let port = free_port()?;
    let mut command = Command::new(binary("emulator")?);
    command.args(["--port", &port.to_string(), "--data-dir"]).arg(folder.join("cloud"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
    let mut child = child.context("start the embedded cloud")?;
    while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("the embedded cloud ended at its start: {status}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok((child, format!("http://127.0.0.1:{port}")))
}

/// The broker holds the backlog: it has a session of ingestion's, and ingestion is away.
async fn ingestion(folder: &Path, url: &str, messages: u64) -> anyhow::Result<()> {
    let broker = Mosquitto::start(&folder.join("broker"), 0).await?;
    let settings = json!({
        "project": "local",
        "mqtt": { "url": format!("mqtt://127.0.0.1:{}", broker.port()) },
        "routes": { "up": {
            "source": { "mqtt_topic": "devices/{device_id}/up", "qos": 1 },
            "destination": { "route_name": "up" },
        }},
        "producers": { "up": { "topic_id": "raw" } },
        "dead_letters": { "topic_id": "dead" },
        "pubsub": { "endpoint": url },
    });
    start(folder, "ingestion", &settings).await?.terminate().await?;
    let mut fleet = Fleet::start(Plan {
        port: broker.port(),
        messages: Some(messages),
        payload_bytes: PAYLOAD_BYTES,
        ..Plan::default()
    });
    fleet.finish().await;
    measure(start(folder, "ingestion", &settings).await?, "ingestion", messages).await
}

async fn icestore(folder: &Path, url: &str, messages: u64) -> anyhow::Result<()> {
    let settings = json!({
        "project": "local",
        "subscription": { "id": "archive" },
        "storage": { "bucket": "bucket", "endpoint": url },
        "dead_letters": { "topic_id": "dead" },
        "pubsub": { "endpoint": url },
    });
    measure(start(folder, "icestore", &settings).await?, "icestore", messages).await
}

/// With Redis, and with few devices: nearly every document is in memory.
async fn enrich(folder: &Path, url: &str, messages: u64) -> anyhow::Result<()> {
    let redis = Redis::start().await?;
    let settings = json!({
        "project": "local",
        "subscription": { "id": "enrich" },
        "topic_id": "enriched",
        "firestore": { "collection": "devices", "endpoint": url },
        "cache": { "redis": { "url": redis.url() } },
        "admin": { "port": 0 },
        "dead_letters": { "topic_id": "dead" },
        "pubsub": { "endpoint": url },
    });
    measure(start(folder, "enrich", &settings).await?, "enrich", messages).await
}

/// Four columns of its own, the metadata columns and the rest.
async fn bigqueries(folder: &Path, url: &str, messages: u64) -> anyhow::Result<()> {
    let settings = json!({
        "project": "local",
        "subscription": { "id": "rows" },
        "table": { "dataset": "dataflow", "id": "readings", "columns": [
            { "name": "device_id", "type": "STRING", "from": "attribute.device_id" },
            { "name": "location", "type": "STRING", "from": "enrichment.location" },
            { "name": "number", "type": "INT64" },
            { "name": "temperature", "type": "FLOAT64" },
        ] },
        "bigquery": { "endpoint": url },
        "dead_letters": { "topic_id": "dead" },
        "pubsub": { "endpoint": url },
    });
    measure(start(folder, "bigqueries", &settings).await?, "bigqueries", messages).await
}

async fn start(folder: &Path, name: &str, settings: &Value) -> anyhow::Result<Process> {
    let config = folder.join(format!("{name}.yaml"));
    std::fs::write(&config, serde_json::to_vec(settings)?).context("write settings")?;
    let log = folder.join(format!("{name}.log"));
    let mut process = Process::start(name, &config, free_port()?, &log)?;
    process.ready().await?;
    Ok(process)
}

/// Waits until the service has passed all messages, or, for what waits in open batches, until it has
/// taken all and then drained.
async fn measure(mut process: Process, name: &str, messages: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let pid = process.pid().context("the process has ended")?;
    while counter(&process, "received").await? < messages {
        sleep(Duration::from_millis(20)).await;
    }
    let taken = started.elapsed();
    let (cpu, peak) = (cpu_time(pid)?, peak_megabytes(pid)?);
    let status = process.terminate().await?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    let rate = messages as f64 / taken.as_secs_f64();
    let cpu = cpu.as_secs_f64() * 1e6 / messages as f64;
    println!("{name:<12}{rate:>12.0}{cpu:>14.1}{peak:>12.0}");
    Ok(())
}

async fn counter(process: &Process, name: &str) -> anyhow::Result<u64> {
    let text = reqwest::get(format!("{}/metrics", process.url())).await?.text().await?;
    let name = format!("dataflow_pipeline_{name}_messages_total ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
    Ok(value.unwrap_or(0))
}

/// User and system time so far: fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms.
fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read CPU time")?;
    let after_name = stat.rsplit_once(')').context("read CPU time")?.1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>().context("read CPU time")?)
}

fn peak_megabytes(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read memory")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("read memory")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().context("read memory")?;
    Ok(kilobytes / 1024.0)
}
