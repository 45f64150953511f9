//! Test of a quiet night: the cloud closes idle and old streams, and no attempt fails because of
//! it.

use e2e::account::{self, Ends};
use e2e::hardness;
use serde_json::json;
use service::Hosted;
use tokio::time::timeout;

use crate::stage::{
    GRACE, PATIENCE, Stage, counter, start_bigqueries, start_icestore, start_ingestion, until,
};
use e2e::metrics::SENT;

/// Counter of repeated attempts, by the failed action.
const RETRIED: &str = "dataflow_pipeline_retried_attempts_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_night_costs_no_failed_attempt() {
    let stage = Stage::set().await;
    let Some(emulator) = stage.faulty_cloud() else { return };
    let url = emulator.url();
    hardness::harden(&url).await.unwrap();
    // During the day streams are young, and the table is known.
    let by_day = json!({
        "append_idle_millis": null, "stream_age_millis": null, "connection_age_millis": null,
        "new_table_millis": 0, "new_column_millis": 0,
    });
    hardness::set(&url, &by_day).await.unwrap();
    let ingestion = start_ingestion(stage.ingestion()).await;
    let mut settings = stage.bigqueries();
    // Small batches need several connections, which are idle during the night.
    settings.pipeline.batch.max_messages = 50;
    let bigqueries = start_bigqueries(settings).await;
    let icestore = start_icestore(stage.icestore()).await;
    let services = [&ingestion, &bigqueries, &icestore];
    let before = day(&stage, (&bigqueries, &icestore), 2_000).await;
    assert_eq!(services.map(|service| counter(service, RETRIED)), [0, 0, 0], "before the night");

    let by_night = json!({
        "append_idle_millis": 200, "stream_age_millis": 500, "connection_age_millis": 500,
    });
    hardness::set(&url, &by_night).await.unwrap();
    // Waits until the cloud has closed the connections of the evening, and the streams of the
    // subscribers one after another.
    until(async || {
        let ended = emulator.faults().ended();
        let count = |method| ended.get(method).copied().unwrap_or(0);
        count("AppendRows") >= 2 && count("StreamingPull") >= 8
    })
    .await;
    hardness::set(&url, &by_day).await.unwrap();
    let after = day(&stage, (&bigqueries, &icestore), 4_000).await;

    assert_eq!(services.map(|service| counter(service, RETRIED)), [0, 0, 0], "after the night");
    for service in [ingestion, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    let rows = stage.arrived_rows().await;
    for fleet in [&before, &after] {
        let account = account::settle(fleet, Ends::table(&rows));
        assert!(account.is_clean(), "{account:?}");
    }
    stage.strike().await;
}

/// Sends readings until each service has written the given number of messages.
async fn day(
    stage: &Stage,
    (bigqueries, icestore): (&Hosted, &Hosted),
    written: u64,
) -> e2e::fleet::Fleet {
    let mut fleet = stage.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(bigqueries, SENT) >= written).await;
    until(async || counter(icestore, SENT) >= written).await;
    fleet
}
