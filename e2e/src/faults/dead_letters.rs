//! Fault: the topic of the dead letters refuses them as invalid for a while. Services must not
//! retry in a busy loop, and nothing may be lost.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::FaultContext;
use super::hostile_clients::Behaviour;
use crate::names::DEAD_LETTERS;

/// Most attempts a second, summed over all replicas and averaged over the fault. A pipeline makes four
/// a second, however many messages it has, and eight replicas or fewer run at a time.
const MOST_ATTEMPTS: f64 = 50.0;
/// The gRPC code `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// Makes the topic of the dead letters refuse them while hostile clients send messages that need
/// it.
pub(super) async fn refused(context: &FaultContext, lasts: Duration) -> anyhow::Result<()> {
    let env = &context.env;
    let fault = json!({
        "method": "Publish",
        "topic": DEAD_LETTERS,
        "count": u64::MAX,
        "for_millis": u64::try_from(lasts.as_millis())?,
        "kind": "refuse",
        "code": INVALID_ARGUMENT,
    });
    env.embedded.plan(&fault).await?;
    let (from, before) = (Instant::now(), env.embedded.refused("Publish").await?);
    for behaviour in [Behaviour::Misfit, Behaviour::WrongEnvelope, Behaviour::Oversized] {
        context.hostile_clients.run(behaviour).await?;
    }
    let mut not_ready = BTreeSet::new();
    while from.elapsed() < lasts {
        for replica in env.replicas() {
            if !replica.answers("readyz").await {
                not_ready.insert(replica.service);
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    let attempts = env.embedded.refused("Publish").await?.saturating_sub(before);
    let rate = attempts as f64 / from.elapsed().as_secs_f64();
    let text =
        format!("dead letters refused: {rate:.1} attempts a second, not ready: {not_ready:?}");
    context.measure(text.clone());
    if rate > MOST_ATTEMPTS {
        context.fail(format!("{text}; {MOST_ATTEMPTS} attempts a second at most"));
    }
    if attempts == 0 {
        context.fail("no dead letter was refused: the fault did nothing".into());
    }
    for service in ["ingestion", "enrich", "bigqueries", "postgres"] {
        if !not_ready.contains(service) {
            context.fail(format!("{service} is ready while its dead letters are refused"));
        }
    }
    Ok(())
}
