//! Test of one trace, from the message of a device to both sinks.

use std::collections::BTreeSet;
use std::time::Duration;

use message::trace;
use serde_json::Value;

use crate::flow_env::{
    FlowEnv, GRACE, RAW_ROWS, counter, start_bigqueries, start_enrich, start_icestore,
    start_ingestion, until,
};
use crate::flows::Device;
use e2e::metrics::SENT;

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_the_same_after_every_hop() {
    let env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let enrich = start_enrich(env.enrich(None)).await;
    let (rows, mut objects) = (env.enriched_bigqueries(), env.enriched_icestore());
    objects.pipeline.batch.max_age = Duration::from_millis(200);
    let (bigqueries, icestore) = (start_bigqueries(rows).await, start_icestore(objects).await);

    let mut device = Device::new(env.broker.port());
    device.publish_with(&[("traceparent", GIVEN)], "devices/traced/up", false, "{}").await;
    device.publish_with(&[], "devices/untraced/up", false, "{}").await;
    until(async || counter(&bigqueries, SENT) >= 2 && counter(&icestore, SENT) >= 2).await;

    // The raw topic has two more subscriptions, which no service reads here.
    let mut raw = Vec::new();
    until(async || {
        raw.extend(env.cloud.pull(&env.cloud.name(RAW_ROWS)).await.unwrap());
        raw.len() >= 2
    })
    .await;
    let lines = env.lines().await;
    let rows = env.rows().await;
    for device in ["traced", "untraced"] {
        let of_device = |attributes: &std::collections::HashMap<String, String>| {
            (attributes["device_id"] == device)
                .then(|| attributes["googclient_traceparent"].clone())
        };
        let in_row = rows.iter().find(|row| row["device_id"] == device).map(|row| {
            let rest: Value = serde_json::from_str(row["rest"].as_str().unwrap()).unwrap();
            rest["attributes"]["googclient_traceparent"].as_str().unwrap().to_owned()
        });
        let seen: BTreeSet<_> = raw
            .iter()
            .filter_map(|message| of_device(&message.attributes))
            .chain(lines.iter().filter_map(|line| of_device(&line.attributes)))
            .chain(in_row)
            .collect();
        assert_eq!(seen.len(), 1, "one trace at every hop of {device}: {seen:?}");
        let parent = seen.first().unwrap();
        assert!(trace::is_valid(parent), "{parent}");
        assert_eq!(parent == GIVEN, device == "traced");
    }
    for service in [ingestion, enrich, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    env.teardown().await;
}
