//! Test of a quiet night: the cloud closes idle and old streams, and no attempt fails because of
//! it.

use e2e::reconcile::{self, Destinations};
use e2e::strictness;
use serde_json::json;
use service::Hosted;
use tokio::time::timeout;

use crate::flow_env::{
    FlowEnv, GRACE, PATIENCE, counter, start_bigqueries, start_icestore, start_ingestion, until,
};
use e2e::metrics::SENT;

/// Counter of repeated attempts, by the failed action.
const RETRIED: &str = "dataflow_pipeline_retried_attempts_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_night_costs_no_failed_attempt() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return };
    let url = emulator.url();
    strictness::imitate_google(&url).await.unwrap();
    // During the day streams are young, and the table is known.
    let by_day = json!({
        "append_idle_millis": null, "stream_age_millis": null, "connection_age_millis": null,
        "new_table_millis": 0, "new_column_millis": 0,
    });
    strictness::set(&url, &by_day).await.unwrap();
    let ingestion = start_ingestion(env.ingestion()).await;
    let mut settings = env.bigqueries();
    // Small batches need several connections, which are idle during the night.
    settings.pipeline.batch.max_messages = 50;
    let bigqueries = start_bigqueries(settings).await;
    let icestore = start_icestore(env.icestore()).await;
    let services = [&ingestion, &bigqueries, &icestore];
    let before = day(&env, &[&bigqueries, &icestore], 2_000).await;
    assert_eq!(services.map(|service| counter(service, RETRIED)), [0, 0, 0], "before the night");

    let by_night = json!({
        "append_idle_millis": 200, "stream_age_millis": 500, "connection_age_millis": 500,
    });
    strictness::set(&url, &by_night).await.unwrap();
    // Waits until the cloud has closed the connections of the evening, and the streams of the
    // subscribers one after another.
    until(async || {
        let ended = emulator.faults().ended();
        let count = |method| ended.get(method).copied().unwrap_or(0);
        count("AppendRows") >= 2 && count("StreamingPull") >= 8
    })
    .await;
    strictness::set(&url, &by_day).await.unwrap();
    let after = day(&env, &[&bigqueries, &icestore], 4_000).await;

    assert_eq!(services.map(|service| counter(service, RETRIED)), [0, 0, 0], "after the night");
    for service in [ingestion, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    let rows = env.arrived_rows().await;
    for fleet in [&before, &after] {
        let totals = reconcile::reconcile(fleet, Destinations::table(&rows));
        assert!(totals.is_clean(), "{totals:?}");
    }
    env.teardown().await;
}

/// Sends readings until each service has written the given number of messages.
async fn day(env: &FlowEnv, services: &[&Hosted], written: u64) -> e2e::fleet::Fleet {
    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    for service in services {
        until(async || counter(service, SENT) >= written).await;
    }
    fleet
}
