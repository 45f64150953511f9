//! Tests of the flows through enrich and bigqueries: rows, enriched messages, and the whole
//! fan-out.

use std::collections::HashSet;
use std::time::Duration;

use bigqueries::config::Api;
use e2e::fleet::{Fleet, FleetPlan};
use e2e::reconcile::{self, Arrived, Destinations};
use message::FieldPath;
use rows::column::{Column, Kind};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::flow_env::{
    FlowEnv, GRACE, PATIENCE, counter, next_dead_letter, start_bigqueries, start_enrich,
    start_icestore, start_ingestion, until,
};
use e2e::metrics::SENT;
use e2e::names::{ARCHIVE, DEAD_LETTERS, RAW};

fn assert_clean(fleet: &Fleet, destinations: Destinations<'_>, messages: u64) {
    let totals = reconcile::reconcile(fleet, destinations);
    assert_eq!((totals.sent, totals.acknowledged), (messages, messages));
    assert!(totals.is_clean(), "{totals:?}");
    let expected =
        [destinations.archive, destinations.table].iter().flatten().count() as u64 * messages;
    assert_eq!(totals.archived + totals.rows, expected + totals.duplicates);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mqtt_to_bigquery() {
    for api in [Api::StorageWrite, Api::InsertAll] {
        let env = FlowEnv::start().await;
        let ingestion = start_ingestion(env.ingestion()).await;
        let settings = bigqueries::config::Settings { write: api, ..env.bigqueries() };
        let bigqueries = start_bigqueries(settings).await;

        let mut fleet = env.fleet(2_000);
        timeout(PATIENCE, fleet.finish()).await.unwrap();
        until(async || counter(&bigqueries, SENT) >= 2_000).await;
        ingestion.shutdown(GRACE).await.unwrap();
        bigqueries.shutdown(GRACE).await.unwrap();

        let rows = env.arrived_rows().await;
        assert_clean(&fleet, Destinations::table(&rows), 2_000);
        let row = &env.rows().await[0];
        for metadata in ["message_id", "publish_time", "ingest_id"] {
            assert!(row[metadata].is_string(), "{row:?}");
        }
        env.teardown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mqtt_to_enriched_messages() {
    let env = FlowEnv::start().await;
    env.put_devices(50).await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let enrich = start_enrich(env.enrich(None)).await;

    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    let mut arrived = Vec::new();
    until(async || {
        for one in &env.cloud.pull(&env.cloud.name(ARCHIVE)).await.unwrap() {
            assert_eq!(one.attributes["route_name"], "uplinks", "attributes are kept");
            arrived.push(Arrived::of_message(one).unwrap());
        }
        arrived.len() >= 2_000
    })
    .await;

    assert_clean(&fleet, Destinations::archive(&arrived).enriched(), 2_000);
    assert_eq!(counter(&enrich, "dataflow_enrich_source_reads_total"), 50, "one for each device");
    ingestion.shutdown(GRACE).await.unwrap();
    enrich.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mqtt_through_enrich_to_bigquery() {
    let env = FlowEnv::start().await;
    env.put_devices(50).await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let enrich = start_enrich(env.enrich(None)).await;
    let settings = env.enriched_bigqueries();
    let bigqueries = start_bigqueries(settings).await;

    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&bigqueries, SENT) >= 2_000).await;
    for service in [ingestion, enrich, bigqueries] {
        service.shutdown(GRACE).await.unwrap();
    }

    let rows = env.arrived_rows().await;
    assert_clean(&fleet, Destinations::table(&rows).enriched(), 2_000);
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_fan_out() {
    let env = FlowEnv::start().await;
    env.put_devices(50).await;
    let redis = e2e::redis::Redis::start().await.unwrap();
    let ingestion = start_ingestion(env.ingestion()).await;
    let enrich = start_enrich(env.enrich(Some(redis.url()))).await;
    let rows = env.enriched_bigqueries();
    let bigqueries = start_bigqueries(rows).await;
    let lines = env.enriched_icestore();
    let icestore = start_icestore(lines).await;

    let mut fleet = env.fleet(5_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&bigqueries, SENT) >= 5_000).await;
    until(async || counter(&icestore, SENT) >= 5_000).await;
    for service in [ingestion, enrich, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }

    let (rows, lines) = (env.arrived_rows().await, env.arrived_lines().await);
    let destinations = Destinations {
        archive: Some(&lines),
        table: Some(&rows),
        is_enriched: true,
        ..Destinations::default()
    };
    assert_clean(&fleet, destinations, 5_000);
    let bucket = env.bucket();
    let names = env.cloud.list(&bucket, "archive/").await.unwrap();
    assert!(names.iter().all(|name| name.contains("/site-")), "objects lie by location");
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_is_a_dead_letter_and_its_neighbours_are_rows_once() {
    let env = FlowEnv::start().await;
    let raw = env.cloud.name(RAW);
    for number in 0..500 {
        let temperature = if number == 250 { json!("hot") } else { json!(20.5) };
        let payload = json!({ "number": number, "temperature": temperature }).to_string();
        let attributes = json!({ "ingest_id": number.to_string() });
        env.cloud.publish(&raw, payload.as_bytes(), attributes).await.unwrap();
    }

    let bigqueries = start_bigqueries(env.bigqueries()).await;
    until(async || counter(&bigqueries, SENT) >= 499).await;
    let dead_letter = next_dead_letter(&env).await;
    bigqueries.shutdown(GRACE).await.unwrap();

    assert_eq!(dead_letter.attributes["dl_reason"], "row_type_mismatch");
    let detail = &dead_letter.attributes["dl_detail"];
    let table = format!("table {}.{}.readings: ", env.cloud.project, env.cloud.dataset());
    assert!(detail.starts_with(&table), "{detail}");
    assert!(detail.contains("column temperature"), "{detail}");
    assert!(
        detail.ends_with(&format!("message {}", dead_letter.attributes["dl_message_id"])),
        "{detail}"
    );
    assert!(detail.contains("expected FLOAT64, is text \"hot\""), "{detail}");
    assert_eq!(dead_letter.data, json!({ "number": 250, "temperature": "hot" }).to_string());
    let rows = env.rows().await;
    let ids: HashSet<_> = rows.iter().map(|row| row["ingest_id"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), ids.len()), (499, 499));
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_added_under_load() {
    let env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let old = start_bigqueries(env.bigqueries()).await;
    let mut fleet = Fleet::start(FleetPlan {
        port: env.broker.port(),
        devices: 50,
        rate: 2_000,
        ..FleetPlan::default()
    });
    until(async || counter(&old, SENT) > 500).await;

    // A second replica adds a column, and the first one continues.
    let mut settings = env.bigqueries();
    let route = FieldPath::Attribute("route_name".into());
    let column = Column { from: Some(route), ..Column::new("route", Kind::String) };
    settings.table.columns.push(column);
    let new = start_bigqueries(settings).await;
    until(async || counter(&new, SENT) > 500).await;
    fleet.stop();
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    let messages = fleet.log().acknowledged_count();
    until(async || counter(&old, SENT) + counter(&new, SENT) >= messages).await;
    for service in [ingestion, old, new] {
        service.shutdown(GRACE).await.unwrap();
    }

    let rows = env.arrived_rows().await;
    let totals = reconcile::reconcile(&fleet, Destinations::table(&rows));
    assert!(totals.is_clean(), "{totals:?}");
    let routes = env.rows().await;
    assert!(routes.iter().any(|row| row["route"] == Value::Null));
    assert!(routes.iter().any(|row| row["route"] == "uplinks"));
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_kind_is_refused_with_both_sides() {
    let env = FlowEnv::start().await;
    start_bigqueries(env.bigqueries()).await.shutdown(GRACE).await.unwrap();
    let mut settings = env.bigqueries();
    settings.table.columns[2].data_type = Kind::Int64.into();

    let service = bigqueries::Bigqueries::new(settings);
    let mut hosted = service::Hosted::start(service).await.unwrap();
    let why = timeout(PATIENCE, hosted.ended()).await.unwrap();

    let why = format!("{why:#}");
    assert!(why.contains("temperature: INT64 NULLABLE in the settings, FLOAT64 NULLABLE"), "{why}");
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_big_for_pubsub_lies_in_the_dead_letters_bucket() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    let bucket = env.bucket();
    settings.dead_letters = Some(pubsub::DeadLetterConfig::Topic {
        topic_id: env.cloud.name(DEAD_LETTERS).into(),
        bucket: Some(bucket.as_str().into()),
    });
    settings.storage.endpoint = env.endpoint();
    let ingestion = start_ingestion(settings).await;
    let payload = vec![b'z'; 12_000_000];
    if let Some(emulator) = &env.server {
        emulator.faults().lose_reply("storage.objects.insert", 1);
    }

    crate::flows::Device::new(env.broker.port())
        .publish("devices/d/up", false, payload.clone())
        .await;

    let dead_letter = next_dead_letter(&env).await;
    assert_eq!(dead_letter.attributes["dl_size"], "12000000");
    assert_eq!(dead_letter.data.len(), 0);
    let object =
        dead_letter.attributes["dl_object"].strip_prefix(&format!("gs://{bucket}/")).unwrap();
    assert_eq!(env.cloud.read(&bucket, object).await.unwrap(), payload);
    ingestion.shutdown(Duration::from_secs(30)).await.unwrap();
    env.teardown().await;
}
