//! The faults there are, by name, and how each is done and undone.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Scene;
use super::guests::{Habit, has_audience};
use super::platform::{LINKS, Platform, SERVICES};
use crate::proxy::Link;

/// Above the time that a subscription gives a message without an extension.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(13);
/// Grace of a process that is replaced, too short for some drains.
const SHORT_GRACE: Duration = Duration::from_secs(2);
/// Above the time-out of an attempt.
const BEYOND_THE_TIMEOUT_MILLIS: u64 = 7_000;

/// A fault that can be done at any time, any number of times.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) name: String,
    injury: Injury,
}

#[derive(Debug, Clone)]
enum Injury {
    /// SIGKILL.
    Kill(&'static str),
    /// SIGSTOP for longer than the ack deadline.
    Freeze(&'static str),
    /// SIGTERM with a short grace, and at once a new process.
    Replace(&'static str),
    /// One replica more for a while, which then goes for good.
    Scale(&'static str),
    RestartBroker,
    /// Killed and emptied.
    KillRedis,
    Link(&'static str, Link),
    /// Planned in the embedded cloud, each for as long as the event lasts.
    Cloud(Vec<Value>),
    /// All streams end, again and again.
    CutStreams,
    /// The table gets a column that nobody knows of.
    AddColumn,
    Visit(Habit),
}

const UPLOAD: &str = "storage.objects.insert";
const ROW_ERRORS: &str = "row-errors";

/// What services call, over and over.
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

/// All faults.
pub(super) fn catalogue() -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |name: String, injury| faults.push(Fault { name, injury });
    for service in SERVICES {
        add(format!("kill-{service}"), Injury::Kill(service));
        add(format!("freeze-{service}"), Injury::Freeze(service));
        add(format!("replace-{service}"), Injury::Replace(service));
        add(format!("scale-{service}"), Injury::Scale(service));
    }
    for link in LINKS {
        add(format!("cut-{link}"), Injury::Link(link, Link::Cut));
        add(format!("half-open-{link}"), Injury::Link(link, Link::Silent));
        add(format!("slow-{link}"), Injury::Link(link, Link::Slow));
    }
    add("restart-broker".into(), Injury::RestartBroker);
    add("kill-redis".into(), Injury::KillRedis);
    let codes = [("deadline-exceeded", 4), ("exhausted", 8), ("internal", 13), ("unavailable", 14)];
    for (name, code) in codes {
        let faults = METHODS.map(|method| cloud_fault(method, 5, refuse(code)));
        add(name.into(), Injury::Cloud(faults.into()));
    }
    let late = BEYOND_THE_TIMEOUT_MILLIS;
    for (what, method) in [("publish", "Publish"), ("append", "AppendRows"), ("upload", UPLOAD)] {
        let three = |kind| Injury::Cloud(vec![cloud_fault(method, 3, kind)]);
        add(format!("lose-{what}-reply"), three(json!({ "kind": "lose_reply" })));
        add(format!("late-{what}-reply"), three(json!({ "kind": "delay_reply", "millis": late })));
        add(format!("late-{what}"), three(json!({ "kind": "delay", "millis": late })));
    }
    for (name, code) in [("upload-503", 14), ("upload-429", 8)] {
        let mut kind = refuse(code);
        kind["retry_after"] = 2.into();
        add(name.into(), Injury::Cloud(vec![cloud_fault(UPLOAD, 10, kind)]));
    }
    let row = cloud_fault("AppendRows", 2, json!({ "kind": "refuse_row" }));
    add(ROW_ERRORS.into(), Injury::Cloud(vec![row]));
    let all_the_time = |method, code| cloud_fault(method, u64::MAX, refuse(code));
    let missing = ["AppendRows", "GetWriteStream", "bigquery.tables.get"];
    let missing = missing.map(|method| all_the_time(method, 5));
    add("table-missing".into(), Injury::Cloud(missing.into()));
    let lapse = all_the_time("ModifyAckDeadline", 14);
    add("leases-expire".into(), Injury::Cloud(vec![lapse]));
    add("cut-streams".into(), Injury::CutStreams);
    add("add-column".into(), Injury::AddColumn);
    for (name, habit) in Habit::ALL {
        add(format!("client-{name}"), Injury::Visit(habit));
    }
    faults
}

fn refuse(code: i32) -> Value {
    json!({ "kind": "refuse", "code": code })
}

/// A fault as the embedded cloud wants it: what happens to this many calls.
fn cloud_fault(method: &str, count: u64, mut kind: Value) -> Value {
    kind["method"] = method.into();
    kind["count"] = count.into();
    kind
}

impl Fault {
    /// Whether it makes BigQuery refuse rows that are fine.
    pub(super) fn refuses_rows(&self) -> bool {
        self.name == ROW_ERRORS
    }

    /// Does it, and undoes it after a while.
    pub(super) async fn befall(
        &self,
        scene: &Scene,
        (lasts, choice): (Duration, u32),
    ) -> anyhow::Result<()> {
        let Scene { platform, guests, .. } = scene;
        let done = async {
            match &self.injury {
                Injury::Kill(service) => platform.replica(service, choice)?.kill().await,
                Injury::Freeze(service) => {
                    platform.replica(service, choice)?.freeze(BEYOND_THE_LEASE).await
                }
                Injury::Replace(service) => {
                    platform.replica(service, choice)?.replace(SHORT_GRACE).await
                }
                Injury::Scale(service) => scale(platform, service, lasts).await,
                Injury::RestartBroker => restart_broker(scene, lasts / 2).await,
                Injury::KillRedis => {
                    let mut redis = platform.redis.lock().await;
                    redis.kill().await?;
                    sleep(lasts).await;
                    redis.start_again().await
                }
                Injury::Link(name, link) => {
                    platform.link(name).set(*link);
                    sleep(lasts).await;
                    platform.link(name).set(Link::Up);
                    Ok(())
                }
                Injury::Cloud(faults) => plan(platform, faults, lasts).await,
                Injury::CutStreams => {
                    let until = Instant::now() + lasts;
                    while Instant::now() < until {
                        platform.embedded.cut_streams().await?;
                        sleep(Duration::from_secs(1)).await;
                    }
                    Ok(())
                }
                Injury::AddColumn => {
                    let name = format!("added_{choice}");
                    // Another fault may have it that there is no table.
                    while platform.cloud.add_column("dataflow", "readings", &name).await.is_err() {
                        sleep(Duration::from_millis(200)).await;
                    }
                    Ok(())
                }
                Injury::Visit(habit) => guests.visit(*habit).await,
            }
        };
        done.await.with_context(|| self.name.clone())
    }
}

/// mosquitto 2.0.11 forgets shared groups at a restart. What it acknowledges before a member has come
/// back is lost before it is ours, so the fleet that is shared waits for that.
async fn restart_broker(scene: &Scene, pause: Duration) -> anyhow::Result<()> {
    let mut broker = scene.platform.broker.lock().await;
    scene.shared.hold().await;
    broker.stop().await?;
    sleep(pause).await;
    broker.start_again().await?;
    while !has_audience(broker.port(), "devices/nobody/up").await {
        sleep(Duration::from_millis(50)).await;
    }
    scene.shared.go_on();
    Ok(())
}

async fn scale(platform: &Platform, service: &'static str, lasts: Duration) -> anyhow::Result<()> {
    /// Above those that are there all the time.
    const EXTRA_ORDINAL: u32 = 2;
    let replica = platform.add(service, EXTRA_ORDINAL).await?;
    sleep(lasts).await;
    platform.remove(&replica);
    replica.retire().await
}

async fn plan(platform: &Platform, faults: &[Value], lasts: Duration) -> anyhow::Result<()> {
    for fault in faults {
        let mut fault = fault.clone();
        fault["for_millis"] = u64::try_from(lasts.as_millis())?.into();
        platform.embedded.plan(&fault).await?;
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
