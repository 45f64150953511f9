//! Processes that are measured.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use e2e::metrics::RECEIVED;
use e2e::process::{Process, binary};
use e2e::usage::{children_cpu_time, cpu_time, peak_megabytes};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::sleep;

use crate::service::Service;
use crate::table::Measured;

/// Pause between two reads of a service's metrics.
const LOOK: Duration = Duration::from_millis(50);

/// Starts a service, and returns the time until it was ready.
pub(crate) async fn start(
    folder: &Path,
    service: Service,
    settings: &Value,
) -> anyhow::Result<(Process, Duration)> {
    let started = Instant::now();
    let mut process = Process::start_in(folder, service.name(), settings)?;
    let log = folder.join(format!("{}.log", service.name()));
    process.ready().await.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    Ok((process, started.elapsed()))
}

/// Measures a service from its readiness until it has received all messages and has drained.
pub(crate) async fn measure(
    mut process: Process,
    ready_in: Duration,
    messages: u64,
) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let pid = process.pid().context("the process has ended")?;
    let (own, before) = (cpu_time(pid)?, children_cpu_time()?);
    while process.metrics().await?.count(RECEIVED) < messages {
        sleep(LOOK).await;
    }
    let taken = started.elapsed();
    let peak = peak_megabytes(pid)?;
    let draining = Instant::now();
    let status = process.terminate().await?;
    if !status.success() {
        bail!("the service ended with {status}");
    }
    let drained_in = draining.elapsed();
    let cpu = children_cpu_time()? - before - own;
    Ok(Measured {
        messages_per_second: messages as f64 / taken.as_secs_f64(),
        cpu_us_per_message: cpu.as_secs_f64() * 1e6 / messages as f64,
        peak_rss_mb: peak,
        ready_ms: ready_in.as_secs_f64() * 1e3,
        drain_ms: drained_in.as_secs_f64() * 1e3,
        spread_percent: 0.0,
    })
}

/// Runs a bare loop over this many messages.
///
/// `port` is that of the broker, or the one on which the loop listens.
pub(crate) async fn bare(
    which: &str,
    cloud: &str,
    port: u16,
    messages: u64,
) -> anyhow::Result<Measured> {
    let mut command = Command::new(binary("bare")?);
    command.arg(which).args(["--endpoint", cloud]);
    command.args(["--port", &port.to_string(), "--messages", &messages.to_string()]);
    loop_of(command, messages).await
}

/// Runs the bare loop of a command over this many messages.
pub(crate) async fn loop_of(mut command: Command, messages: u64) -> anyhow::Result<Measured> {
    let launched = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("start the bare loop")?;
    let pid = child.id().context("the bare loop has ended")?;
    let mut lines = BufReader::new(child.stdout.take().context("read its output")?).lines();
    expect(&mut lines, "ready").await?;
    let ready_in = launched.elapsed();
    let started = Instant::now();
    let (own, before) = (cpu_time(pid)?, children_cpu_time()?);
    expect(&mut lines, "done").await?;
    let taken = started.elapsed();
    let peak = peak_megabytes(pid)?;
    drop(child.stdin.take());
    let status = child.wait().await.context("wait for the bare loop")?;
    if !status.success() {
        bail!("the bare loop ended with {status}");
    }
    let cpu = children_cpu_time()? - before - own;
    let count = messages.max(1) as f64;
    Ok(Measured {
        messages_per_second: messages as f64 / taken.as_secs_f64(),
        cpu_us_per_message: cpu.as_secs_f64() * 1e6 / count,
        peak_rss_mb: peak,
        ready_ms: ready_in.as_secs_f64() * 1e3,
        ..Measured::default()
    })
}

async fn expect(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> anyhow::Result<()> {
    match lines.next_line().await.context("read its output")? {
        Some(line) if line == word => Ok(()),
        other => bail!("the bare loop said {other:?}, not {word}"),
    }
}
