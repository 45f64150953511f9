//! One run: start, send, watch, drain, and account for the messages.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use e2e::fleet::{Fleet, FleetPlan, Transport};
use e2e::hosted::HostedService;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval};

use crate::account::{self, Known};
use crate::args::{self, Args, Profile};
use crate::description;
use crate::env::LocalEnv;
use crate::report::{Report, print_report};
use crate::table::Table;

/// Connections of the devices over HTTP. Each waits for one answer at a time.
const HTTP_CONNECTIONS: u32 = 32;
/// Pause between two prints of the table.
const REFRESH: Duration = Duration::from_secs(1);
/// Pause between two checks of whether all messages are accounted for.
const LOOK: Duration = Duration::from_millis(50);
/// Time without any progress after which messages count as missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs local mode, and returns the account of all messages.
pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let (mut env, data) = start(&args).await?;
    // Data of an earlier run in the same folder must not count.
    let known = Known::of(&env).await?;
    let table = Table::below(description::describe(&args, &env, &data));
    let started = Instant::now();
    let mut fleet = Fleet::start(plan(&args, &env)?);
    let mut watch = Watch::new(table);
    let is_interrupted = tokio::select! {
        error = service_failed(&mut env, &mut watch, &mut fleet, args.once) => {
            if let Some(error) = error {
                return Err(error);
            }
            false
        }
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    if is_interrupted {
        watch.table.note(
            "stopping the devices, and waiting for messages in flight; Ctrl-C again ends the wait",
        );
    }
    fleet.stop();
    let is_interrupted = tokio::select! {
        () = wait_for_messages(&env, &mut watch, &mut fleet) => false,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    if is_interrupted {
        watch.table.note("not waiting any longer");
    }
    let elapsed = started.elapsed();
    watch.table.print(&env.services, &fleet.log(), watch.last_print.elapsed());
    let account = tokio::select! {
        account = account::complete(&mut env, &fleet, &known) => account?,
        _ = terminate.recv() => bail!("terminated before the account was complete"),
        _ = interrupt.recv() => bail!("interrupted before the account was complete"),
    };
    let report = Report::of(account, elapsed);
    print_report(&report);
    if let Some(file) = &args.report {
        let json = serde_json::to_vec_pretty(&report).context("write the report")?;
        std::fs::write(file, json).with_context(|| format!("write {}", file.display()))?;
    }
    env.stop().await?;
    Ok(report)
}

/// Returns the behaviour of the devices.
fn plan(args: &Args, env: &LocalEnv) -> anyhow::Result<FleetPlan> {
    let plan = FleetPlan {
        port: args.mqtt_port,
        devices: args.devices,
        messages: args.messages,
        rate: args.rate(),
        payload_bytes: args.payload_bytes,
        ..FleetPlan::default()
    };
    let (_, port) = env.ingest.rsplit_once(':').context("find the port of ingest over HTTP")?;
    Ok(match args.profile {
        Profile::Google => plan,
        Profile::Engine => FleetPlan {
            transport: Transport::Http,
            port: port.parse().context("read the port of ingest over HTTP")?,
            connections: HTTP_CONNECTIONS,
            ..plan
        },
    })
}

/// Starts the platform. Also returns a path of its data folder, which is short if possible.
async fn start(args: &Args) -> anyhow::Result<(LocalEnv, PathBuf)> {
    if let Some(file) = &args.report {
        // The file is opened before any work, so that the report cannot be lost at the end.
        let opened = std::fs::File::options().append(true).create(true).open(file);
        opened.with_context(|| format!("--report: write {}", file.display()))?;
    }
    let folder = args.data_dir();
    let is_new = !folder.exists();
    let started = LocalEnv::start(args, &folder).await;
    if started.is_err() && is_new {
        args::remove_empty(&folder);
    }
    let data = |folder| if args.data_dir.is_some() { folder } else { args::link_latest(folder) };
    started.map(|env| (env, data(folder)))
}

/// Table, and the progress that was seen last.
struct Watch {
    table: Table,
    last_print: Instant,
    progress: (Vec<u64>, Instant),
}

impl Watch {
    fn new(table: Table) -> Self {
        let now = Instant::now();
        Self { table, last_print: now, progress: (Vec::new(), now) }
    }

    /// Checks the progress once. Returns true if everything that the broker acknowledged has
    /// reached its end, by the counters of the services. Also returns true if nothing has moved for
    /// a long time.
    fn look(&mut self, env: &LocalEnv, fleet: &Fleet) -> bool {
        if self.last_print.elapsed() >= REFRESH {
            self.table.print(&env.services, &fleet.log(), self.last_print.elapsed());
            self.last_print = Instant::now();
        }
        let metrics: Vec<_> = env.services.iter().map(HostedService::metrics).collect();
        let done = |index: usize| {
            let names =
                ["sent_messages_total", "dead_lettered_messages_total", "skipped_messages_total"];
            let service = metrics.get(index);
            service
                .map_or(0, |service| names.iter().map(|name| service.pipeline(name)).sum::<u64>())
        };
        let sent = |index: usize| {
            metrics.get(index).map_or(0, |service| service.pipeline("sent_messages_total"))
        };
        let acknowledged = fleet.log().acknowledged_count();
        let counts: Vec<_> =
            std::iter::once(acknowledged).chain((0..metrics.len()).map(done)).collect();
        if self.progress.0 != counts {
            self.progress = (counts, Instant::now());
        }
        let is_still = metrics.iter().all(|service| service.pipeline("in_flight_messages") == 0);
        // Ingestion, then enrich, then the sinks in parallel.
        let [ingestion, enrich, first_sink] = [0, 1, 2];
        let has_ended = done(ingestion) >= acknowledged
            && done(enrich) >= sent(ingestion)
            && (first_sink..metrics.len()).all(|sink| done(sink) >= sent(enrich))
            && is_still;
        has_ended || self.progress.1.elapsed() > PATIENCE
    }
}

/// Watches until a service fails. With `once`, it also ends when all messages are accounted for.
async fn service_failed(
    env: &mut LocalEnv,
    watch: &mut Watch,
    fleet: &mut Fleet,
    once: bool,
) -> Option<anyhow::Error> {
    let mut looks = interval(LOOK);
    let mut is_sent = false;
    loop {
        tokio::select! {
            error = env.failed() => return Some(error),
            () = fleet.finish(), if !is_sent => is_sent = true,
            _ = looks.tick() => {}
        }
        if watch.look(env, fleet) && once && is_sent {
            return None;
        }
    }
}

/// Waits until the messages in flight have reached their end.
async fn wait_for_messages(env: &LocalEnv, watch: &mut Watch, fleet: &mut Fleet) {
    let mut looks = interval(LOOK);
    let mut is_sent = false;
    loop {
        tokio::select! {
            () = fleet.finish(), if !is_sent => is_sent = true,
            _ = looks.tick() => {}
        }
        if watch.look(env, fleet) && is_sent {
            return;
        }
    }
}
