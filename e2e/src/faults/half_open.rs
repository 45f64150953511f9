//! Fault: connections to Pub/Sub die silently while messages on them are not settled.

use std::time::Duration;

use tokio::time::sleep;

use super::FaultContext;
use super::observations::Observations;
use super::report::{Injected, Report};
use crate::proxy::Link;

/// Time during which arrivals are watched.
pub(super) const LASTS: Duration = Duration::from_secs(50);
/// Longest time until an idle stream must be open again: six times its `idle_timeout`.
const MOST: Duration = Duration::from_secs(30);

/// Silences every stream of Pub/Sub at once. At that time icestore has messages in open groups,
/// which stay open for up to a minute each.
pub(super) async fn inject(context: &FaultContext) -> anyhow::Result<()> {
    let link = context.env.link("pubsub");
    {
        let _reserved = context.env.reserve("pubsub").await;
        link.set(Link::Silent);
        link.set(Link::Up);
    }
    sleep(LASTS).await;
    Ok(())
}

/// Reports a failure for a service that received nothing for too long.
pub(super) fn check(report: &mut Report, event: &Injected, observations: &Observations) {
    for service in ["enrich", "bigqueries", "icestore"] {
        let time = event.from..=event.to;
        let pause = observations.progress.stall(service, |counts| counts.received, time);
        let text = format!("{}: {service} received nothing for {pause:.1?}", event.name);
        if pause > MOST {
            report.failures.push(format!("{text}, {MOST:?} at most"));
        }
        report.measures.push(text);
    }
}
