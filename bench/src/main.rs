//! Cost of each service, compared with a bare loop of the same clients.
//!
//! Each service runs in its own process and drains a backlog, so only the service sets the pace.
//! The embedded cloud, mosquitto and Redis are other processes on the same machine. In the same run
//! and on the same backlog, the bare loop does only what is necessary (`src/bin/bare.rs`). CPU time
//! is user and system time between readiness and exit, as the operating system counts it.

#![expect(clippy::print_stdout, reason = "for measuring: nobody reads a part of it")]

mod case;
mod chain;
mod env;
mod feed;
mod ingest;
mod keys;
mod postgres;
mod process;
mod query;
mod service;
mod table;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

use crate::case::Case;
use crate::table::{Measured, Row};

/// Measures the services and, for comparison, bare loops of the same clients; needs mosquitto and
/// redis-server.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// Also measure the cost with other payloads, devices, keys, routes, misses, lanes and
    /// backlogs.
    #[arg(long)]
    full: bool,
    /// Measure only this service, or only `chain`, or only `ingest` over HTTP and gRPC.
    #[arg(long)]
    only: Option<String>,
    /// Runs of each case; the median is reported.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Messages of a run at 1 KB.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// File for the results, as JSON.
    #[arg(long, default_value = "bench.json")]
    out: PathBuf,
    /// Another measurement.
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Debug, Subcommand)]
enum Other {
    Keys(keys::KeysArgs),
    Postgres(postgres::PostgresArgs),
    Query(query::QueryArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // An error means that a provider is already installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args = Args::parse();
    match &args.other {
        Some(Other::Keys(args)) => {
            build_unless(args.no_build)?;
            return keys::measure(args).await;
        }
        Some(Other::Postgres(args)) => {
            build_unless(args.no_build)?;
            return postgres::measure(args).await;
        }
        Some(Other::Query(args)) => {
            build_unless(args.no_build)?;
            return query::measure(args).await;
        }
        None => build()?,
    }
    let mut rows: Vec<Row> = Vec::new();
    let is_wanted = |name: &str| args.only.as_ref().is_none_or(|only| only == name);
    println!("{}", table::HEAD);
    for case in case::all(args.messages, args.full) {
        if is_wanted(case.service.name()) {
            report(&mut rows, measure(&case, args.repeats).await?);
        }
    }
    if is_wanted("chain") {
        report(&mut rows, chain::measure(args.messages, args.repeats).await?);
        report(&mut rows, chain::measure_local(args.messages, args.repeats).await?);
    }
    if is_wanted("ingest") {
        for way in ingest::Way::ALL {
            report(&mut rows, ingest::measure(way, args.messages, args.repeats).await?);
        }
    }
    let json = serde_json::to_vec_pretty(&rows).context("write results")?;
    std::fs::write(&args.out, json).with_context(|| format!("write {}", args.out.display()))?;
    println!("written to {}", args.out.display());
    Ok(())
}

fn report(rows: &mut Vec<Row>, row: Row) {
    println!("{row}");
    rows.push(row);
}

/// Runs a case several times, each time with the bare loop and then with the service.
async fn measure(case: &Case, repeats: usize) -> anyhow::Result<Row> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let env = env::BenchEnv::start(case).await.context("start the environment")?;
        env.feed(case).await.context("feed the backlog")?;
        bare.push(env.run_bare(case).await.context("run the bare loop")?);
        ours.push(env.run_service(case).await.context("run the service")?);
        env.stop().await.context("stop the environment")?;
    }
    let measured = Measured::median(&ours);
    let latency = match case.has_latency {
        true => Some(env::latency(case, measured.messages_per_second / 2.0).await?),
        false => None,
    };
    Ok(Row::new(case, measured, Measured::median(&bare), latency))
}

fn build_unless(is_built: bool) -> anyhow::Result<()> {
    if is_built { Ok(()) } else { build() }
}

/// Builds the measured programs as a release.
fn build() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "--workspace", "--bins"]).status();
    let status = built.context("run cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo build: {status}") }
}
