//! Cost of postgres beside a bare loop with the same statement, and the statement beside COPY.

mod copying;

use anyhow::Context as _;
use clap::Args;
use e2e::names::{DEAD_LETTER_REPORT, DEAD_LETTERS, ENRICHED, POSTGRES, Subscription, TABLE};
use e2e::postgres::{DATABASE, Postgres, USER};
use e2e::process::{Process, binary};
use postgres::statements::Statements;
use rows::Rows as _;
use service::settings::to_value;
use tokio::process::Command;

use crate::case::Load;
use crate::env::BenchEnv;
use crate::feed::Feed;
use crate::process;
use crate::table::Measured;

/// Rows a second that the service must write.
const TARGET_ROWS: f64 = 40_000.0;
/// Most CPU time of the service, compared with the bare loop.
const TARGET_RATIO: f64 = 1.5;
/// Options of the server: those of a small production server. Commits wait for the disk.
const SERVER: [&str; 3] = ["shared_buffers=256MB", "max_wal_size=4GB", "checkpoint_timeout=15min"];
/// Table of the bare loop. It is like the table of the service.
const BARE_TABLE: &str = "bare";

/// Measures postgres beside a bare loop with the same statement, and this statement beside COPY.
#[derive(Debug, Args)]
pub(crate) struct PostgresArgs {
    /// Rows of a run.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Runs of each measurement; the median is reported.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Measure the programs that are built already.
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Runs all measurements, and prints the results.
pub(crate) async fn measure(args: &PostgresArgs) -> anyhow::Result<()> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..args.repeats {
        let server = Postgres::start_with(&SERVER, |_| Ok(())).await?;
        let (of_bare, of_service) = beside_bare(&server, args.messages).await?;
        bare.push(of_bare);
        ours.push(of_service);
    }
    report(&Measured::median(&bare), &Measured::median(&ours));
    copying::measure(args.messages, args.repeats).await
}

fn report(bare: &Measured, ours: &Measured) {
    println!("{:<12}{:>12}{:>14}{:>10}", "", "rows a s", "CPU us a row", "peak MB");
    for (name, measured) in [("bare loop", bare), (POSTGRES, ours)] {
        println!(
            "{name:<12}{:>12.0}{:>14.1}{:>10.0}",
            measured.messages_per_second, measured.cpu_us_per_message, measured.peak_rss_mb
        );
    }
    let ratio = ours.cpu_us_per_message / bare.cpu_us_per_message;
    let is_met = |holds: bool| if holds { "met" } else { "MISSED" };
    println!(
        "target of {TARGET_ROWS:.0} rows a second: {}; CPU ratio {ratio:.2}, target {TARGET_RATIO}: {}",
        is_met(ours.messages_per_second >= TARGET_ROWS),
        is_met(ratio <= TARGET_RATIO)
    );
}

/// Lets the bare loop and then the service drain the same backlog.
async fn beside_bare(server: &Postgres, messages: u64) -> anyhow::Result<(Measured, Measured)> {
    let subscriptions = [
        Subscription::new(DEAD_LETTER_REPORT, DEAD_LETTERS),
        Subscription::new(POSTGRES, ENRICHED),
        Subscription::new("bare", ENRICHED),
    ];
    let env = BenchEnv::start_with(&subscriptions, 0).await?;
    let url = env.servers.server.url();
    let load =
        Load { messages, payload_bytes: 1024, devices: 100, locations: 7, unknown_percent: 0 };
    Feed::new(&url, ENRICHED).await?.all(&load).await.context("feed the backlog")?;

    let cloud = &env.servers.cloud;
    let mut settings = env.servers.settings().postgres(cloud, server.port());
    settings.table.name = BARE_TABLE.into();
    let statements = Statements::new(&settings.table, &settings.rows().columns())?;
    server.run(&statements.create().join(";")).await.context("create the bare loop's table")?;
    let mut command = Command::new(binary("bare_postgres")?);
    let login = format!("host=127.0.0.1 port={} user={USER} dbname={DATABASE}", server.port());
    command.args(["--endpoint", &url, "--login", &login, "--insert", statements.insert()]);
    command.args(["--messages", &messages.to_string()]);
    let bare = process::loop_of(command, messages).await.context("run the bare loop")?;

    settings.table.name = TABLE.into();
    let folder = env.servers.folder.path();
    let started = std::time::Instant::now();
    let json = to_value(&settings).context("write settings as JSON")?;
    let mut process = Process::start_in(folder, POSTGRES, &json)?;
    process.ready().await?;
    let ours = process::measure(process, started.elapsed(), messages).await?;
    let rows = server.count("SELECT count(*) FROM readings").await?;
    anyhow::ensure!(rows.unsigned_abs() == messages, "there are {rows} rows of {messages}");
    env.stop().await?;
    Ok((bare, ours))
}
