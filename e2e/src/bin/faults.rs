//! The fault test as a program. Its exit code is 0 if nothing was lost and 1 if something was.

use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use e2e::faults::{self, Plan};
use e2e::strictness::Strictness;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Runs the four services and postgres under faults, and accounts for every message.
///
/// Two replicas of each service, mosquitto, Redis, PostgreSQL and the embedded cloud run as
/// processes. Every link has a proxy. Fleets and hostile clients send while faults happen that are drawn from the
/// seed. At the end each confirmed message must be in the table and in the archive, and exactly once
/// in PostgreSQL, or in the dead letters with the right reason. The test needs mosquitto,
/// redis-server and postgresql.
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Args {
    /// Time during which messages are sent, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Seed of the faults: the same seed gives the same faults at the same times.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Run only the fault of this name; can be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// `all`, or `none` for a soak that measures growth of memory, files and latency.
    #[arg(long, default_value = "all")]
    faults: Kinds,
    /// Messages a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Run the embedded cloud without latencies, quotas, and the end of idle and old streams.
    #[arg(long)]
    lenient: bool,
    /// Print the names of all faults, and do nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kinds {
    All,
    None,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        print(&faults::names().join("\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "e2e=info".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    build()?;
    let plan = Plan {
        length: Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?,
        seed: args.seed,
        only: args.only,
        has_faults: args.faults == Kinds::All,
        rate: args.rate,
        strictness: if args.lenient { Strictness::Lenient } else { Strictness::LikeGoogle },
    };
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let report = tokio::select! {
        report = faults::run(&plan) => report?,
        // Returning from here also ends everything that was started.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    print(&report.to_string());
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a line. A reader that is gone, as with `--list | head`, is not an error.
fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").unwrap_or_default();
}

/// Builds the services and the emulator, in the profile of this program.
fn build() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Builds the whole workspace: a build of some packages alone would compile shared dependencies
    // again.
    command.args(["build", "--workspace", "--bins"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("run cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo build: {status}") }
}
