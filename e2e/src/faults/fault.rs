//! List of all faults by name, with the code that injects and removes each.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::fault_env::{FaultEnv, LINKS, REPLICATED};
use super::hostile_clients::{Behaviour, has_audience};
use super::replica_settings::Timeouts;
use super::server_faults::{self, ServerFault};
use super::slow_links::{self, SlowLink};
use super::{FaultContext, broker, dead_letters, half_open, name_servers};
use crate::names::{DATASET, ENRICHED, TABLE};
use crate::proxy::{Grant, Link, Thin};

/// Longer than the ack deadline that a subscription gives without an extension.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(13);
/// Grace period of a process that is replaced. It is too short for some drains.
const SHORT_GRACE: Duration = Duration::from_secs(2);
/// Longer than the time-out of an attempt.
const BEYOND_THE_TIMEOUT_MILLIS: u64 = 7_000;

/// Duration of a long outage of a destination: longer than the shortest lease.
const OUTAGE: Duration = Duration::from_secs(90);
/// Duration of a slow link in a run with other faults.
const SLOW_FOR: Duration = Duration::from_secs(60);
/// Time during which dead letters are refused.
const DEAD_LETTERS_REFUSED: Duration = Duration::from_secs(20);
/// Duration of a fault that determines its own length.
const SOME_TIME: Duration = Duration::from_secs(30);

/// A fault that can be injected at any time, any number of times.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) name: String,
    kind: FaultKind,
    /// Duration of a fault that only long runs have, because it is long or costly.
    long: Option<Duration>,
}

#[derive(Debug, Clone)]
enum FaultKind {
    /// Sends SIGKILL.
    Kill(&'static str),
    /// Sends SIGSTOP for longer than the ack deadline.
    Freeze(&'static str),
    /// Sends SIGTERM with a short grace period, and starts a new process at once.
    Replace(&'static str),
    /// Adds one replica for a while, and then removes it permanently.
    Scale(&'static str),
    RestartBroker,
    /// Kills Redis, which loses its data.
    KillRedis,
    /// Acts on the server of PostgreSQL, or leads to another one.
    Server(ServerFault),
    Link(&'static str, Link),
    /// Plans faults in the embedded cloud, each for as long as the event lasts.
    Cloud(Vec<Value>),
    /// Ends all streams repeatedly.
    CutStreams,
    /// Adds a column to the table that no service knows.
    AddColumn,
    HostileClient(Behaviour),
    SlowLink(SlowLink),
    /// Silences connections to Pub/Sub while icestore has messages in open groups.
    HalfOpenStreams,
    /// Connects replicas to a broker that grants less than requested.
    Grants(Grant),
    /// Starts processes that cannot look up names.
    NoNames,
    /// Makes the topic of the dead letters refuse them.
    DeadLettersRefused,
}

const UPLOAD: &str = "storage.objects.insert";
const ROW_ERRORS: &str = "row-errors";

/// Methods that services call repeatedly.
const METHODS: [&str; 8] = [
    "Publish",
    "StreamingPull",
    "Acknowledge",
    "ModifyAckDeadline",
    "BatchGetDocuments",
    "AppendRows",
    "GetWriteStream",
    UPLOAD,
];

/// Returns all faults.
pub(super) fn catalogue() -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |name: String, kind| faults.push(Fault { name, kind, long: None });
    for service in REPLICATED {
        add(format!("kill-{service}"), FaultKind::Kill(service));
        add(format!("freeze-{service}"), FaultKind::Freeze(service));
        add(format!("replace-{service}"), FaultKind::Replace(service));
        add(format!("scale-{service}"), FaultKind::Scale(service));
    }
    for link in LINKS {
        add(format!("cut-{link}"), FaultKind::Link(link, Link::Cut));
        add(format!("half-open-{link}"), FaultKind::Link(link, Link::Silent));
        add(format!("slow-{link}"), FaultKind::Link(link, Link::Thin(Thin::SLOW)));
    }
    add("restart-broker".into(), FaultKind::RestartBroker);
    add("kill-redis".into(), FaultKind::KillRedis);
    for (name, fault) in server_faults::catalogue() {
        add(name.into(), FaultKind::Server(fault));
    }
    let codes = [("deadline-exceeded", 4), ("exhausted", 8), ("internal", 13), ("unavailable", 14)];
    for (name, code) in codes {
        let faults = METHODS.map(|method| cloud_fault(method, 5, refuse(code)));
        add(name.into(), FaultKind::Cloud(faults.into()));
    }
    let late = BEYOND_THE_TIMEOUT_MILLIS;
    for (what, method) in [("publish", "Publish"), ("append", "AppendRows"), ("upload", UPLOAD)] {
        let three = |kind| FaultKind::Cloud(vec![cloud_fault(method, 3, kind)]);
        add(format!("lose-{what}-reply"), three(json!({ "kind": "lose_reply" })));
        add(format!("late-{what}-reply"), three(json!({ "kind": "delay_reply", "millis": late })));
        add(format!("late-{what}"), three(json!({ "kind": "delay", "millis": late })));
    }
    for (name, code) in [("upload-503", 14), ("upload-429", 8)] {
        let mut kind = refuse(code);
        kind["retry_after"] = 2.into();
        add(name.into(), FaultKind::Cloud(vec![cloud_fault(UPLOAD, 10, kind)]));
    }
    for (name, method, count, kind) in googles_refusals() {
        add(name.into(), FaultKind::Cloud(vec![cloud_fault(method, count, kind)]));
    }
    let row = cloud_fault("AppendRows", 2, json!({ "kind": "refuse_row" }));
    add(ROW_ERRORS.into(), FaultKind::Cloud(vec![row]));
    let all_the_time = |method, code| cloud_fault(method, u64::MAX, refuse(code));
    let missing = ["AppendRows", "GetWriteStream", "bigquery.tables.get"];
    let missing = missing.map(|method| all_the_time(method, 5));
    add("table-missing".into(), FaultKind::Cloud(missing.into()));
    let lapse = all_the_time("ModifyAckDeadline", 14);
    add("leases-expire".into(), FaultKind::Cloud(vec![lapse]));
    add("cut-streams".into(), FaultKind::CutStreams);
    add("add-column".into(), FaultKind::AddColumn);
    for (name, behaviour) in Behaviour::ALL {
        add(format!("client-{name}"), FaultKind::HostileClient(behaviour));
    }
    for (name, grant) in broker::GRANTS {
        add(name.into(), FaultKind::Grants(grant));
    }
    add("no-name-server".into(), FaultKind::NoNames);
    faults.iter_mut().for_each(|fault| fault.long = fault.is_heavy().then_some(SOME_TIME));
    faults.extend(long());
    faults
}

/// Returns refusals with Google's own reasons. None of them is about the rows or objects themselves.
fn googles_refusals() -> [(&'static str, &'static str, u64, Value); 4] {
    let append = |code: i32, error: &str, message: &str, ends_stream: bool| {
        let mut kind = json!({ "kind": "append_error", "code": code, "ends_stream": ends_stream });
        kind["message"] = message.into();
        if !error.is_empty() {
            kind["storage_error"] = error.into();
        }
        kind
    };
    let mut policy = refuse(9);
    policy["reason"] = "orgPolicyConstraintFailed".into();
    let quota = append(8, "", "Exceeds 'AppendRows throughput' quota", false);
    let columns = append(3, "SCHEMA_MISMATCH_EXTRA_FIELDS", "extra proto fields", true);
    [
        ("append-quota", "AppendRows", 10, quota),
        ("append-unknown-column", "AppendRows", 5, columns),
        ("upload-policy", UPLOAD, 5, policy),
        ("publish-denied", "Publish", 10, refuse(7)),
    ]
}

/// Returns the faults that last a minute or more.
fn long() -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |name: String, kind, long| faults.push(Fault { name, kind, long: Some(long) });
    for (name, link) in slow_links::catalogue() {
        add(name, FaultKind::SlowLink(link), SLOW_FOR);
    }
    let mut publish = cloud_fault("Publish", u64::MAX, refuse(14));
    publish["topic"] = ENRICHED.into();
    let away = |method| cloud_fault(method, u64::MAX, refuse(14));
    let outages = [
        ("enriched", vec![publish]),
        ("firestore", vec![away("BatchGetDocuments")]),
        ("bigquery", vec![away("AppendRows"), away("GetWriteStream")]),
        ("storage", vec![away(UPLOAD)]),
    ];
    for (name, outage) in outages {
        add(format!("outage-{name}"), FaultKind::Cloud(outage), OUTAGE);
    }
    add("half-open-in-hand".into(), FaultKind::HalfOpenStreams, half_open::LASTS);
    add("dead-letters-refused".into(), FaultKind::DeadLettersRefused, DEAD_LETTERS_REFUSED);
    faults
}

fn refuse(code: i32) -> Value {
    json!({ "kind": "refuse", "code": code })
}

/// Builds a fault for the embedded cloud that happens to `count` calls.
fn cloud_fault(method: &str, count: u64, mut kind: Value) -> Value {
    kind["method"] = method.into();
    kind["count"] = count.into();
    kind
}

impl Fault {
    /// Returns true if the fault makes BigQuery refuse valid rows.
    pub(super) fn refuses_rows(&self) -> bool {
        self.name == ROW_ERRORS
    }

    /// Returns the duration of a fault that only long runs have. For a fault that is alone and
    /// determines its own length, returns that length.
    pub(super) fn long(&self, is_alone: bool) -> Option<Duration> {
        let takes_time =
            matches!(self.kind, FaultKind::Grants(_) | FaultKind::NoNames | FaultKind::Server(_));
        self.long.or((is_alone && takes_time).then_some(SOME_TIME))
    }

    /// Returns the slow link if this fault is one.
    pub(super) fn slow_link(&self) -> Option<SlowLink> {
        match self.kind {
            FaultKind::SlowLink(link) => Some(link),
            _ => None,
        }
    }

    /// Returns the time-outs that replicas need to show the effect of this fault when it is alone.
    pub(super) fn timeouts(&self) -> Timeouts {
        match self.kind {
            FaultKind::SlowLink(_) => Timeouts::Default,
            FaultKind::HalfOpenStreams => Timeouts::LongBatches,
            _ => Timeouts::Short,
        }
    }

    /// Returns true if the fault is too heavy for a run of two minutes on two cores.
    fn is_heavy(&self) -> bool {
        let heavy = [Behaviour::Bursts, Behaviour::Properties, Behaviour::ManyKeys];
        matches!(self.kind, FaultKind::HostileClient(behaviour) if heavy.contains(&behaviour))
    }

    /// Injects the fault, and removes it after a while.
    pub(super) async fn inject(
        &self,
        context: &FaultContext,
        lasts: Duration,
        choice: u32,
    ) -> anyhow::Result<()> {
        let FaultContext { env, hostile_clients, .. } = context;
        let done = async {
            match &self.kind {
                FaultKind::Kill(service) => env.replica(service, choice)?.kill().await,
                FaultKind::Freeze(service) => {
                    env.replica(service, choice)?.freeze(BEYOND_THE_LEASE).await
                }
                FaultKind::Replace(service) => {
                    env.replica(service, choice)?.replace(SHORT_GRACE).await
                }
                FaultKind::Scale(service) => scale(env, service, lasts).await,
                FaultKind::RestartBroker => restart_broker(context, lasts / 2).await,
                FaultKind::KillRedis => kill_redis(env, lasts).await,
                FaultKind::Server(fault) => fault.inject(context, lasts).await,
                FaultKind::Link(name, link) => set_for(env, name, *link, lasts).await,
                FaultKind::SlowLink(SlowLink { link, thin }) => {
                    set_for(env, link, Link::Thin(*thin), lasts).await
                }
                FaultKind::Cloud(faults) => plan(env, faults, lasts).await,
                FaultKind::CutStreams => cut_streams(env, lasts).await,
                FaultKind::AddColumn => {
                    let name = format!("added_{choice}");
                    // Another fault may hide the table for a while.
                    while env.cloud.add_column(DATASET, TABLE, &name).await.is_err() {
                        sleep(Duration::from_millis(200)).await;
                    }
                    Ok(())
                }
                FaultKind::HostileClient(behaviour) => hostile_clients.run(*behaviour).await,
                FaultKind::HalfOpenStreams => half_open::inject(context).await,
                FaultKind::Grants(grant) => {
                    let _reserved = env.reserve("mqtt").await;
                    broker::grants_less(context, *grant).await
                }
                FaultKind::NoNames => name_servers::silent(context).await,
                FaultKind::DeadLettersRefused => dead_letters::refused(context, lasts).await,
            }
        };
        done.await.with_context(|| self.name.clone())
    }
}

async fn set_for(env: &FaultEnv, name: &str, link: Link, lasts: Duration) -> anyhow::Result<()> {
    let _reserved = env.reserve(name).await;
    env.link(name).set(link);
    sleep(lasts).await;
    env.link(name).set(Link::Up);
    Ok(())
}

async fn kill_redis(env: &FaultEnv, lasts: Duration) -> anyhow::Result<()> {
    let mut redis = env.redis.lock().await;
    redis.kill().await?;
    sleep(lasts).await;
    redis.start_again().await
}

async fn cut_streams(env: &FaultEnv, lasts: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        env.embedded.cut_streams().await?;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Restarts the broker while the shared fleet pauses.
///
/// mosquitto 2.0.11 forgets shared groups at a restart. It acknowledges messages before a member of
/// the group is back, and such messages are lost. So the fleet waits until a member has subscribed
/// again.
async fn restart_broker(context: &FaultContext, pause: Duration) -> anyhow::Result<()> {
    let mut broker = context.env.broker.lock().await;
    context.shared.pause().await;
    broker.stop().await?;
    sleep(pause).await;
    broker.start_again().await?;
    while !has_audience(broker.port(), "devices/nobody/up").await {
        sleep(Duration::from_millis(50)).await;
    }
    context.shared.resume();
    Ok(())
}

async fn scale(env: &FaultEnv, service: &'static str, lasts: Duration) -> anyhow::Result<()> {
    /// Ordinal above those of the permanent replicas.
    const EXTRA_ORDINAL: u32 = 2;
    /// Two extra replicas must not run at once: with the same ordinal, one would still run while
    /// the other is retired.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let replica = env.add(service, EXTRA_ORDINAL).await?;
    sleep(lasts).await;
    env.remove(&replica);
    replica.retire().await
}

async fn plan(env: &FaultEnv, faults: &[Value], lasts: Duration) -> anyhow::Result<()> {
    for fault in faults {
        let mut fault = fault.clone();
        fault["for_millis"] = u64::try_from(lasts.as_millis())?.into();
        env.embedded.plan(&fault).await?;
    }
    sleep(lasts).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        let mut names: Vec<_> = catalogue().into_iter().map(|fault| fault.name).collect();
        let count = names.len();

        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), count);
        assert!(count > 40, "{count}");
    }
}
