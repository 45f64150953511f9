//! One run: start, send, watch, drain, and account for the messages.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use e2e::archive;
use e2e::fleet::{Fleet, FleetPlan};
use e2e::hosted::HostedService;
use e2e::names::{ARCHIVE, DATASET, TABLE};
use e2e::reconcile::{self, Arrived, Destinations, Reconciliation};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval};

use crate::args::{self, Args};
use crate::description;
use crate::env::LocalEnv;
use crate::progress::Progress;
use crate::settings::PREFIX;
use crate::table::{Report, Table, print_report};

/// Pause between two prints of the table.
const REFRESH: Duration = Duration::from_secs(1);
/// Pause between two checks of whether all messages are accounted for.
const LOOK: Duration = Duration::from_millis(50);
/// Time without any progress after which messages count as missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs local mode, and returns the account of all messages.
pub(crate) async fn run(args: Args) -> anyhow::Result<Reconciliation> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let (mut env, data) = start(&args).await?;
    // Data of an earlier run in the same folder must not count.
    let known = Known {
        objects: env.servers.cloud.list(ARCHIVE, PREFIX).await?.into_iter().collect(),
        rows: env.servers.cloud.rows(DATASET, TABLE).await?.len(),
    };
    let table = Table::below(description::describe(&args, &env, &data));
    let started = Instant::now();
    let mut fleet = Fleet::start(FleetPlan {
        port: args.mqtt_port,
        devices: args.devices,
        messages: args.messages,
        rate: args.rate(),
        payload_bytes: args.payload_bytes,
        ..FleetPlan::default()
    });
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
    let totals = tokio::select! {
        totals = end(&mut env, &fleet, &known) => totals?,
        _ = terminate.recv() => bail!("terminated before the account was complete"),
        _ = interrupt.recv() => bail!("interrupted before the account was complete"),
    };
    let report = Report::of(totals, elapsed);
    print_report(&report);
    if let Some(file) = &args.report {
        let json = serde_json::to_vec_pretty(&report).context("write the report")?;
        std::fs::write(file, json).with_context(|| format!("write {}", file.display()))?;
    }
    env.stop().await?;
    Ok(report.totals)
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

/// Data in the folder from before this run.
struct Known {
    objects: HashSet<String>,
    rows: usize,
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
        // Ingestion, then enrich, then the table and the archive in parallel.
        let [ingestion, enrich, table, archive] = [0, 1, 2, 3];
        let has_ended = done(ingestion) >= acknowledged
            && done(enrich) >= sent(ingestion)
            && done(table) >= sent(enrich)
            && done(archive) >= sent(enrich)
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

/// Drains the services, and accounts for every message.
async fn end(env: &mut LocalEnv, fleet: &Fleet, known: &Known) -> anyhow::Result<Reconciliation> {
    env.drain().await?;
    reconcile_all(env, fleet, known).await
}

/// Compares the sent messages with those in the table, the archive and the dead letters, by their
/// content.
async fn reconcile_all(
    env: &LocalEnv,
    fleet: &Fleet,
    known: &Known,
) -> anyhow::Result<Reconciliation> {
    let names = env.servers.cloud.list(ARCHIVE, PREFIX).await?;
    let names: Vec<_> = names.into_iter().filter(|name| !known.objects.contains(name)).collect();
    let mut progress = Progress::begin(&format!("reading {} objects of the archive", names.len()));
    let mut arrived = Vec::new();
    for (index, name) in names.iter().enumerate() {
        progress.tell(|| format!("{index} objects, {} messages", arrived.len()));
        let object = env.servers.cloud.read(ARCHIVE, name).await?;
        let lines = archive::lines(name, &object).with_context(|| format!("read {name}"))?;
        for line in &lines {
            arrived.push(Arrived::of_line(line)?);
        }
    }
    Progress::begin("reading the table and the dead letters");
    let rows = env.servers.cloud.rows(DATASET, TABLE).await?;
    let rows: Vec<_> = rows.iter().skip(known.rows).map(Arrived::of_row).collect();
    let destinations = Destinations {
        archive: Some(&arrived),
        table: Some(&rows),
        dead_letters: &env.dead_letters().await?,
        is_enriched: true,
    };
    Ok(reconcile::reconcile(fleet, destinations))
}
