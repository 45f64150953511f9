//! Runs the four services and postgres, two replicas each, under many kinds of fault, and checks every
//! message.
//!
//! [`run`] does this:
//!
//! 1. It starts everything as processes (`fault_env`).
//! 2. Fleets send readings over MQTT, HTTP and gRPC (`ingest_fleets`), and hostile clients
//!    (`hostile_clients`) send bad messages.
//! 3. Meanwhile it injects faults from the `fault` list at times that the `schedule` draws.
//! 4. It waits until nothing is missing, or nothing more arrives.
//! 5. The `oracle` compares all confirmed messages with the tables, the archive and the dead
//!    letters. In PostgreSQL each must be there exactly once (`exactly_once`).

mod broker;
mod counters;
mod database_server;
mod dead_letters;
mod exactly_once;
mod fault;
mod fault_env;
mod half_open;
mod hostile_clients;
mod ingest_fleets;
mod keyed;
mod name_servers;
mod observations;
mod oracle;
mod order;
mod replica;
mod replica_settings;
mod report;
mod schedule;
mod server_faults;
mod slow_links;
mod usage_limits;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::info;

pub use self::report::{Report, Row};

use self::fault::Fault;
use self::fault_env::{DEVICE_COUNT, FaultEnv};
use self::hostile_clients::HostileClients;
use self::observations::Observations;
use self::oracle::{Arrivals, Outcome};
use self::replica_settings::Timeouts;
use self::report::Injected;
use self::schedule::Event;
use crate::fleet::{self, Fleet};
use crate::strictness::Strictness;

/// Settings of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Time during which the fleets send.
    pub length: Duration,
    /// Seed from which faults are drawn.
    pub seed: u64,
    /// Names of the faults to run; empty for all faults.
    pub only: Vec<String>,
    /// True if faults are injected.
    pub has_faults: bool,
    /// Readings a second.
    pub rate: u32,
    /// Behaviour of the embedded cloud apart from the faults.
    pub strictness: Strictness,
}

/// Everything that a fault may act on.
struct FaultContext {
    env: Arc<FaultEnv>,
    hostile_clients: HostileClients,
    /// Log of the fleet whose readings the replicas of ingestion share.
    shared: fleet::Log,
    /// Guarantees of each replica of ingestion before the first fault.
    promised: Vec<Value>,
    /// True if the run has a single fault, so that everything observed is caused by it.
    is_alone: bool,
    notes: Mutex<Notes>,
}

/// Results that the faults report themselves.
#[derive(Debug, Default)]
struct Notes {
    failures: Vec<String>,
    measures: Vec<String>,
}

impl FaultContext {
    /// Reports a failure.
    fn fail(&self, what: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).failures.push(what);
    }

    /// Reports a measurement.
    fn measure(&self, what: String) {
        info!(what, "measured");
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).measures.push(what);
    }
}

/// Longest time without a new arrival before the rest counts as missing.
const QUIET: Duration = Duration::from_secs(180);
/// Shortest run with long faults. A shorter run has them only if they are named.
const LONG_RUN: Duration = Duration::from_secs(300);
/// One in this many readings is sent by the fleet whose order must hold.
const ORDERED_SHARE: u32 = 10;

/// Returns the names of all faults.
#[must_use]
pub fn names() -> Vec<String> {
    fault::catalogue().into_iter().map(|fault| fault.name).collect()
}

/// Runs the test and reports the outcome of every message.
///
/// If the run did not pass, the settings and logs of the services stay in the folder that the
/// report names.
///
/// # Errors
/// Fails when the test itself fails: a program is missing, or a fault cannot be injected.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let faults = chosen(plan)?;
    let timeouts = match faults.as_slice() {
        [fault] => fault.timeouts(),
        _ => Timeouts::Short,
    };
    let env = Arc::new(FaultEnv::start(timeouts, plan.strictness).await?);
    info!(folder = %env.folder().display(), faults = faults.len(), "all services are ready");
    let (stop, stopped) = signal::channel(false);
    let mut watcher = JoinSet::new();
    watcher.spawn(observations::observe(Arc::clone(&env), stopped.clone()));
    let mut fleets = Vec::from(start_fleets(load(plan, &faults), &env));
    // A slow link is measured with the fleets that fit it.
    if !matches!(faults.as_slice(), [fault] if fault.slow_link().is_some()) {
        fleets.extend(ingest_fleets::start(&env, (plan.rate / ORDERED_SHARE).max(1)));
    }
    let mut reader = JoinSet::new();
    let ordered = fleets[1].name().to_owned();
    reader.spawn(order::read(Arc::clone(&env), ordered, stopped.clone()));
    let context = Arc::new(FaultContext {
        env: Arc::clone(&env),
        hostile_clients: HostileClients::new(env.broker_port, env.cloud.clone()),
        shared: fleets[0].log(),
        promised: broker::promises(&env).await,
        is_alone: faults.len() == 1,
        notes: Mutex::default(),
    });

    let injected = inject(plan, &faults, &context).await?;
    for fleet in &mut fleets {
        fleet.stop();
        fleet.finish().await;
    }
    info!("all is sent; waiting for it to arrive");
    let refuses_rows = faults.iter().any(Fault::refuses_rows);
    let (outcome, arrivals) = await_arrivals(&context, &fleets, refuses_rows).await?;
    let not_ready = unready(&env).await;
    stop.send_replace(true);
    let observations = watcher.join_next().await.context("the watcher is gone")???;
    let order = reader.join_next().await.context("the reader is gone")???;

    let mut report = Report::new(&outcome, &observations, &injected);
    report.failures.extend(not_ready.into_iter().map(|name| format!("{name} is not ready")));
    report_order(&mut report, &order);
    usage_limits::check(&mut report, &observations);
    check_long(&mut report, &faults, &injected, &outcome, &observations);
    if !plan.has_faults {
        report.measures.extend(slopes(&observations, &arrivals));
    }
    let notes = std::mem::take(&mut *context.notes.lock().unwrap_or_else(PoisonError::into_inner));
    report.failures.extend(notes.failures);
    report.measures.extend(notes.measures);
    if !report.is_clean() {
        drop(context);
        let env = Arc::into_inner(env).context("the environment is in use")?;
        report.measures.push(format!("logs: {}", env.keep().display()));
    }
    Ok(report)
}

/// Load of the fleets.
struct Load {
    /// Readings a second.
    rate: u32,
    payload_bytes: usize,
}

/// Returns the load of a run. A run of one slow link gets a load that fits it; other runs follow
/// the plan.
fn load(plan: &Plan, faults: &[Fault]) -> Load {
    let usual = Load { rate: plan.rate, payload_bytes: 300 };
    match faults {
        [fault] => fault.slow_link().map_or(usual, |link| Load {
            rate: link.load().min(plan.rate),
            payload_bytes: slow_links::PAYLOAD_BYTES,
        }),
        _ => usual,
    }
}

fn report_order(report: &mut Report, order: &order::Order) {
    report.order = (order.count(), order.violations.len());
    let violations = order.violations.iter();
    report.failures.extend(violations.map(|reading| format!("{reading:?} came out of order")));
    if order.count() == 0 {
        report.failures.push("no reading with an ordering key was seen".into());
    }
}

/// Checks long faults that overlapped with no other fault, from the counters of the services.
fn check_long(
    report: &mut Report,
    faults: &[Fault],
    injected: &[Injected],
    outcome: &Outcome,
    observations: &Observations,
) {
    for (index, event) in injected.iter().enumerate() {
        let overlaps = |other: &Injected| other.from < event.to && event.from < other.to;
        let mut others = injected.iter().enumerate().filter(|(other, _)| *other != index);
        let Some(fault) = faults.iter().find(|fault| fault.name == event.name) else { continue };
        if faults.len() > 1 || others.any(|(_, other)| overlaps(other)) {
            continue;
        }
        if let Some(link) = fault.slow_link() {
            link.check(report, event, outcome, observations);
        }
        if fault.timeouts() == Timeouts::LongBatches {
            half_open::check(report, event, observations);
        }
    }
}

fn chosen(plan: &Plan) -> anyhow::Result<Vec<Fault>> {
    let mut faults = fault::catalogue();
    for name in &plan.only {
        if !faults.iter().any(|fault| fault.name == *name) {
            bail!("there is no fault {name}; there are {}", names().join(", "));
        }
    }
    faults.retain(|fault| {
        plan.has_faults && (plan.only.is_empty() || plan.only.contains(&fault.name))
    });
    Ok(faults)
}

/// Starts one fleet for throughput, over a shared group, and one whose order must hold. The second
/// one uses one connection for all its devices.
fn start_fleets(load: Load, env: &FaultEnv) -> [Fleet; 2] {
    let Load { rate, payload_bytes } = load;
    let common = fleet::FleetPlan {
        port: env.broker_port,
        devices: DEVICE_COUNT,
        payload_bytes,
        ..fleet::FleetPlan::default()
    };
    let ordered_rate = (rate / ORDERED_SHARE).max(1);
    let shared = fleet::FleetPlan { rate: (rate - ordered_rate).max(1), ..common.clone() };
    let ordered =
        fleet::FleetPlan { rate: ordered_rate, branch: "ordered", connections: 1, ..common };
    [Fleet::start(shared), Fleet::start(ordered)]
}

/// Draws the times of all faults. Short faults overlap; long ones run one after another beside
/// them.
fn events(plan: &Plan, faults: &[Fault]) -> Vec<Event> {
    let is_alone = faults.len() == 1;
    let (long, brief): (Vec<_>, Vec<_>) =
        (0..faults.len()).partition(|index| faults[*index].long(is_alone).is_some());
    let whole = plan.length.saturating_sub(schedule::LONG_GAP);
    let lasts = |index: &usize| match &faults[*index] {
        fault if fault.slow_link().is_some() && is_alone => Some(whole),
        fault => fault.long(is_alone),
    };
    let lasts: Vec<_> = long.iter().filter_map(lasts).collect();
    let has_long = !plan.only.is_empty() || plan.length >= LONG_RUN;
    let long_length = if has_long { plan.length } else { Duration::ZERO };
    let of = |events: Vec<Event>, indices: Vec<usize>| {
        events.into_iter().map(move |event| Event { fault: indices[event.fault], ..event })
    };
    let mut events: Vec<_> = of(schedule::draw(plan.seed, plan.length, brief.len()), brief)
        .chain(of(schedule::draw_long(plan.seed, long_length, &lasts), long))
        .collect();
    events.sort_by_key(|event| event.at);
    events
}

/// Injects all faults at their times. Returns when the last one is over and the load time has
/// passed.
async fn inject(
    plan: &Plan,
    faults: &[Fault],
    context: &Arc<FaultContext>,
) -> anyhow::Result<Vec<Injected>> {
    let started = Instant::now();
    let mut running: JoinSet<anyhow::Result<Injected>> = JoinSet::new();
    let mut injected = Vec::new();
    for event in events(plan, faults) {
        sleep_until(started + event.at).await;
        let fault = faults[event.fault].clone();
        let context = Arc::clone(context);
        running.spawn(async move {
            let from = Instant::now();
            info!(fault = %fault.name, at = ?event.at, "begins");
            fault.inject(&context, event.lasts, event.choice).await?;
            Ok(Injected { name: fault.name, from, to: Instant::now() })
        });
        // Ends the test at once if a fault could not be injected.
        while let Some(ended) = running.try_join_next() {
            injected.push(ended.context("a fault panicked")??);
        }
    }
    sleep_until(started + plan.length).await;
    while let Some(ended) = running.join_next().await {
        injected.push(ended.context("a fault panicked")??);
    }
    Ok(injected)
}

/// Returns the outcome as soon as nothing is missing, or no more messages arrive.
async fn await_arrivals(
    context: &FaultContext,
    fleets: &[Fleet],
    refuses_rows: bool,
) -> anyhow::Result<(Outcome, Arrivals)> {
    let mut deadline = Instant::now() + QUIET;
    let mut fewest = usize::MAX;
    let mut dead_letters = Vec::new();
    loop {
        let arrivals = Arrivals::collect(&context.env, &mut dead_letters).await?;
        let fleets: Vec<_> = fleets.iter().collect();
        let outcome = arrivals.check(&fleets, &context.hostile_clients, refuses_rows);
        let open = outcome.missing.len() + outcome.unsettled;
        if open == 0 {
            return Ok((outcome, arrivals));
        }
        // Reading everything can take longer than the quiet time, so progress comes first.
        if open < fewest {
            fewest = open;
            deadline = Instant::now() + QUIET;
        } else if Instant::now() > deadline {
            return Ok((outcome, arrivals));
        }
        let (missing, unsettled) = (outcome.missing.len(), outcome.unsettled);
        info!(missing, unsettled, "not everything has arrived yet");
        sleep(Duration::from_secs(2)).await;
    }
}

/// Returns the names of replicas that do not become ready again.
async fn unready(env: &FaultEnv) -> Vec<String> {
    let mut names = Vec::new();
    for replica in env.replicas() {
        if replica.ready().await.is_err() {
            names.push(replica.name());
        }
    }
    names
}

/// Describes how memory, open files and latency rise per hour.
fn slopes(observations: &Observations, arrivals: &Arrivals) -> Vec<String> {
    let memory = observations.slopes(|point| point.1);
    let files = observations.slopes(|point| point.2);
    let mut lines: Vec<_> = memory
        .iter()
        .map(|(name, slope)| {
            let files = files[name];
            format!("{name}: {slope:+.2} MB and {files:+.2} open files an hour")
        })
        .collect();
    let points: Vec<_> =
        arrivals.latencies.iter().map(|(at, latency)| (at / 3600.0, latency * 1e3)).collect();
    let mut sorted: Vec<_> = points.iter().map(|(_, millis)| *millis).collect();
    sorted.sort_by(f64::total_cmp);
    let quantile = |part: f64| {
        let index = (sorted.len() as f64 * part) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    lines.push(format!(
        "latency from receipt to archive: p50 {:.0} ms, p99 {:.0} ms, {:+.1} ms an hour",
        quantile(0.5),
        quantile(0.99),
        observations::slope(&points)
    ));
    lines
}
