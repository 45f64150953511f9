//! Tests of the whole chain over Google's own emulators of Pub/Sub and Firestore.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use e2e::fleet::{Fleet, FleetPlan, Log};
use e2e::reconcile::{self, Arrived, Destinations};
use tokio::time::{Instant, sleep};

use crate::flow_env::{
    FlowEnv, GRACE, PATIENCE, start_bigqueries, start_enrich, start_icestore, start_ingestion,
};

/// Longest time of a message from its PUBACK to the table.
const LONGEST: Duration = Duration::from_secs(10);
/// Duration of each pause, and of the sending between two pauses.
const PAUSE: Duration = Duration::from_secs(2);
/// Readings a second. Google's emulator carries about 2,000 on one stream.
const RATE: u32 = 500;

/// Returns the number of readings to send: few by default, more if `DATAFLOW_E2E_MESSAGES` says so.
fn message_count() -> u64 {
    let count = std::env::var("DATAFLOW_E2E_MESSAGES").ok();
    count.map_or(3_000, |count| count.parse().expect("DATAFLOW_E2E_MESSAGES is a number"))
}

/// Checks that services do not replace streams.
///
/// Google's emulator of Pub/Sub still sends messages to streams that were reset. Each such message
/// is late by one lease.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_late_over_googles_emulators() {
    let Some(env) = FlowEnv::start_on_googles_emulators().await else { return };
    env.put_devices(50).await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let enrich = start_enrich(env.enrich(None)).await;
    let rows = env.enriched_bigqueries();
    let bigqueries = start_bigqueries(rows).await;
    let lines = env.enriched_icestore();
    let icestore = start_icestore(lines).await;

    let port = env.broker.port();
    let messages = Some(message_count());
    let mut fleet =
        Fleet::start(FleetPlan { port, messages, rate: RATE, devices: 50, ..FleetPlan::default() });
    let longest = tokio::select! {
        longest = longest_way(&env, &fleet) => longest,
        never = pause_often(fleet.log()) => match never {},
    };
    fleet.finish().await;

    assert!(longest <= LONGEST, "a reading took {longest:?}");
    for service in [ingestion, enrich, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    let rows = env.arrived_rows().await;
    let lines = env.arrived_lines().await;
    let destinations =
        Destinations { archive: Some(&lines), ..Destinations::table(&rows).enriched() };
    let totals = reconcile::reconcile(&fleet, destinations);
    assert!(totals.is_clean(), "{totals:?}");
    assert_eq!(totals.acknowledged, message_count());
    env.teardown().await;
}

/// Repeatedly sends for some seconds, then pauses for the same time.
async fn pause_often(log: Log) -> Infallible {
    loop {
        sleep(PAUSE).await;
        log.pause().await;
        sleep(PAUSE).await;
        log.resume();
    }
}

/// Waits until all rows are there, and returns the longest time of a reading.
async fn longest_way(env: &FlowEnv, fleet: &Fleet) -> Duration {
    let log = fleet.log();
    let (mut seen, mut row_count, mut longest) = (HashSet::new(), 0, Duration::ZERO);
    let ended = Instant::now() + PATIENCE + Duration::from_secs(message_count() / 50);
    while (seen.len() as u64) < message_count() && Instant::now() < ended {
        sleep(Duration::from_millis(200)).await;
        let rows = env.rows_from(row_count).await;
        row_count += rows.len();
        seen.extend(rows.iter().filter_map(|row| Arrived::of_row(row).reading(fleet.name())));
        let now = Instant::now();
        let acknowledged = log.acknowledged();
        let waiting = acknowledged.iter().filter(|(reading, _)| !seen.contains(reading));
        let first = waiting.map(|(_, at)| *at).min();
        longest = longest.max(first.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)));
    }
    longest
}
