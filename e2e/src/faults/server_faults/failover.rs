//! Fault: a failover to a server that never saw the rows. The service must refuse it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{sleep, timeout};

use super::Told;
use crate::faults::FaultContext;
use crate::faults::database_server::LINK;
use crate::faults::fault_env::FaultEnv;
use crate::faults::replica::ANSWER_TIMEOUT;
use crate::metrics::{Metrics, SENT};
use crate::names::POSTGRES;
use crate::postgres::Postgres;
use crate::proxy::Link;

/// Longest wait until the service sees that the table is gone. Without messages it looks every 30 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of tables that the service could have made.
const TABLES: &str = "SELECT count(*) FROM pg_class WHERE relname = 'readings'";

/// Leads the service to an empty server for a while, and back.
pub(super) async fn to_an_empty_server(
    context: &FaultContext,
    lasts: Duration,
) -> anyhow::Result<()> {
    let env = &context.env;
    let _reserved = env.reserve(LINK).await;
    let server = env.database.reserve().await;
    let told = Told::of(env)?;
    let mut empty = Postgres::start().await?;
    lead_to(env, empty.port());
    let refused = timeout(PATIENCE, none_is_ready(env)).await;
    if refused.is_err() {
        context.fail(format!("{POSTGRES} is ready at a server that has lost all rows"));
    }
    let sent_before = sent(env).await?;
    sleep(lasts).await;
    let sent_after = sent(env).await?;
    // Other faults replace processes, which count from 0.
    if context.is_alone && sent_after != sent_before {
        context.fail(format!(
            "{POSTGRES} acknowledged rows at an empty server: {sent_after}, before {sent_before}"
        ));
    }
    if empty.count(TABLES).await? > 0 {
        context.fail(format!("{POSTGRES} created its table at an empty server"));
    }
    lead_to(env, server.port());
    empty.kill().await?;
    told.bites(context, "does not exist").await
}

fn lead_to(env: &FaultEnv, port: u16) {
    let link = env.link(LINK);
    link.set(Link::Cut);
    link.lead_to(port);
    link.set(Link::Up);
}

async fn none_is_ready(env: &FaultEnv) {
    loop {
        let mut is_ready = false;
        for replica in env.replicas_of(POSTGRES) {
            is_ready |= replica.answers("readyz").await;
        }
        if !is_ready {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Returns the rows that the replicas have acknowledged. A replica that does not answer is asked
/// again: another fault may have replaced its process.
async fn sent(env: &FaultEnv) -> anyhow::Result<u64> {
    let mut sum = 0;
    for replica in env.replicas_of(POSTGRES) {
        let answer = timeout(PATIENCE, async {
            loop {
                if let Some(text) = replica.ask("metrics", ANSWER_TIMEOUT).await {
                    return text;
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        let text = answer.await.context("ask postgres for its metrics")?;
        sum += Metrics::parse(&text).count(SENT);
    }
    Ok(sum)
}
