//! Tests that are certain only on Google's own cloud, where `deploy/try-on-gcp.sh` runs them. On
//! the embedded cloud, made as strict as Google's, they take seconds.

use std::io::Write as _;
use std::time::Duration;

use bigqueries::column::{Column, Kind};
use e2e::account::{self, Arrived, Ends};
use e2e::fleet::Fleet;
use pipeline::FieldPath;
use pipeline::field_path::Pointer;
use service::Hosted;
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{
    GRACE, PATIENCE, SENT, Stage, counter, start_bigqueries, start_icestore, start_ingestion, until,
};

/// Counter of repeated attempts, by the failed action.
const RETRIED: &str = "dataflow_pipeline_retried_attempts_total";
/// Number of readings of each fleet.
const MESSAGES: u64 = 500;

/// Returns the duration of the quiet time. Google ends idle streams after ten minutes.
fn quiet_spell() -> Duration {
    let seconds = std::env::var("DATAFLOW_E2E_QUIET_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("DATAFLOW_E2E_QUIET_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(3))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_spell_costs_no_failed_attempt() {
    let stage = Stage::set().await;
    let ingestion = start_ingestion(stage.ingestion()).await;
    let bigqueries = start_bigqueries(stage.bigqueries()).await;
    let icestore = start_icestore(stage.icestore()).await;
    let services = [&ingestion, &bigqueries, &icestore];
    let before = pass(&stage, &bigqueries, &icestore).await;
    // At first the Storage Write API does not know a new table, which costs attempts.
    let retried = services.map(|service| counter(service, RETRIED));

    sleep(quiet_spell()).await;
    let after = pass(&stage, &bigqueries, &icestore).await;

    assert_eq!(services.map(|service| counter(service, RETRIED)), retried);
    for service in [ingestion, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    assert_in_table(&stage, &[before, after]).await;
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_for_a_new_column() {
    let stage = Stage::set().await;
    let ingestion = start_ingestion(stage.ingestion()).await;
    let settings = stage.bigqueries();
    let bigqueries = start_bigqueries(settings.clone()).await;
    fleet(&stage, &bigqueries).await;
    bigqueries.shutdown(GRACE).await.unwrap();

    let mut wider = settings;
    let number = FieldPath::Payload(Pointer::to("number"));
    wider.table.columns.push(Column { from: Some(number), ..Column::new("number", Kind::Int64) });
    let added = Instant::now();
    let bigqueries = start_bigqueries(wider).await;
    fleet(&stage, &bigqueries).await;

    report(&format!("a new column took rows after at most {:?}", added.elapsed()));
    for service in [ingestion, bigqueries] {
        service.shutdown(GRACE).await.unwrap();
    }
    let letters = stage.cloud.pull(&stage.cloud.name("buried")).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
    let numbered = stage.rows().await.iter().filter(|row| !row["number"].is_null()).count() as u64;
    assert!(numbered >= MESSAGES, "{numbered} rows have the new column");
    stage.strike().await;
}

/// Prints a result directly to stderr, because the test runner captures printed output.
fn report(finding: &str) {
    std::io::stderr().write_all(format!("FOUND: {finding}\n").as_bytes()).unwrap();
}

/// Sends some readings, and waits until they are in the table and in the archive.
async fn pass(stage: &Stage, bigqueries: &Hosted, icestore: &Hosted) -> Fleet {
    let archived = counter(icestore, SENT);
    let fleet = fleet(stage, bigqueries).await;
    until(async || counter(icestore, SENT) >= archived + MESSAGES).await;
    fleet
}

/// Sends some readings, and waits until they are rows.
async fn fleet(stage: &Stage, bigqueries: &Hosted) -> Fleet {
    let written = counter(bigqueries, SENT);
    let mut fleet = stage.fleet(MESSAGES);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    // BigQuery may not know a new table or column for minutes.
    let longest = 10 * PATIENCE;
    timeout(longest, async {
        while counter(bigqueries, SENT) < written + MESSAGES {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("rows are written");
    fleet
}

async fn assert_in_table(stage: &Stage, fleets: &[Fleet]) {
    let rows: Vec<_> = stage.rows().await.iter().map(Arrived::of_row).collect();
    for fleet in fleets {
        let account = account::settle(fleet, Ends::table(&rows));
        assert!(account.is_clean(), "{account:?}");
    }
}
