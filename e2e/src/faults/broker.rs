//! Faults of a broker that grants less than requested. Replicas must become not ready, or report
//! it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::FaultContext;
use super::fault_env::FaultEnv;
use super::replica::ANSWER_TIMEOUT;
use crate::proxy::{Grant, Link};

/// Longest wait for a replica to notice.
const PATIENCE: Duration = Duration::from_secs(20);

/// Faults of this kind, with their names.
pub(super) const GRANTS: [(&str, Grant); 4] = [
    ("grants-qos-0", Grant::QosZero),
    ("grants-short-session", Grant::ShortSession),
    ("grants-no-keep-alive", Grant::NoKeepAlive),
    ("grants-no-answer", Grant::NoAnswer),
];

/// Connects all replicas to a broker that grants less, and checks their readiness and guarantees.
pub(super) async fn grants_less(context: &FaultContext, grant: Grant) -> anyhow::Result<()> {
    let env = &context.env;
    let link = env.link("mqtt");
    link.set(Link::Cut);
    link.set(Link::Grants(grant));
    match grant {
        Grant::QosZero | Grant::ShortSession | Grant::NoAnswer => {
            if !is_noticed(env, &context.promised).await {
                let what = format!("{grant:?}: a replica is ready and promises what it did before");
                context.fail(what);
            }
        }
        Grant::NoKeepAlive => {
            let share = ready_share(env).await;
            let text = format!("{grant:?}: {:.0} % of looks found all ready", share * 100.0);
            // In a run of several faults, another one may be the reason.
            if context.is_alone && share < 0.5 {
                context.fail(text.clone());
            }
            context.measure(text);
        }
    }
    link.set(Link::Up);
    if grant != Grant::NoAnswer {
        // A granted value is valid for the whole connection, so the connections are cut. A replica
        // that waits for a SUBACK must recover by itself.
        link.set(Link::Cut);
        link.set(Link::Up);
    }
    Ok(())
}

/// Returns true if each replica soon stays not ready, or reports other guarantees than before.
async fn is_noticed(env: &FaultEnv, promised: &[Value]) -> bool {
    let deadline = Instant::now() + PATIENCE;
    // A reconnect alone makes a replica not ready for a moment, so the state must last.
    let mut since = None;
    while Instant::now() < deadline {
        let mut all = true;
        let now = promises(env).await;
        for (index, replica) in env.replicas_of("ingestion").iter().enumerate() {
            let says_so = now.get(index) != promised.get(index);
            all &= says_so || !replica.answers("readyz").await;
        }
        since = if all { since.or(Some(Instant::now())) } else { None };
        if since.is_some_and(|since| since.elapsed() > PATIENCE / 4) {
            return true;
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

/// Reads the guarantees that each replica of ingestion reports.
pub(super) async fn promises(env: &FaultEnv) -> Vec<Value> {
    let mut promises = Vec::new();
    for replica in env.replicas_of("ingestion") {
        let status = replica.ask("status", ANSWER_TIMEOUT).await.unwrap_or_default();
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        promises.push(status["guarantees"].clone());
    }
    promises
}

/// Returns the share of checks in which all replicas of ingestion were ready.
async fn ready_share(env: &FaultEnv) -> f64 {
    const LOOKS: u32 = 40;
    // Leaves time for the new connections.
    sleep(PATIENCE / 10).await;
    let mut ready = 0;
    for _ in 0..LOOKS {
        let mut all = true;
        for replica in env.replicas_of("ingestion") {
            all &= replica.answers("readyz").await;
        }
        ready += u32::from(all);
        sleep(Duration::from_millis(100)).await;
    }
    f64::from(ready) / f64::from(LOOKS)
}
