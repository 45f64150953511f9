//! Partitions by day are made ahead of time, and dropped when they are old.

use postgres::config::DayPartitions;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::env::{Env, GRACE, TABLE, sent, start, until};

fn suffix(days: i64) -> String {
    let day = OffsetDateTime::now_utc() + Duration::days(days);
    format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

#[tokio::test(flavor = "multi_thread")]
async fn days_have_partitions_and_old_ones_are_dropped() {
    let env = Env::start().await;
    let mut settings = env.settings();
    // The first pass may still run while rows come, so that only the second one may drop any.
    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 2, keep_days: None });
    let is_there = async |suffix: &str| {
        let query = format!("SELECT count(*) FROM pg_class WHERE relname = 'readings_{suffix}'");
        env.server.count(&query).await.unwrap() == 1
    };
    let hosted = start(settings.clone()).await;
    until(async || is_there(&suffix(2)).await).await;

    // An old day, the past, the future, and a wrong clock: all are rows.
    for (number, days) in [-20, -5, 0, 3, 30_000].into_iter().enumerate() {
        let at = OffsetDateTime::now_utc() + Duration::days(days);
        let envelope = json!({
            "id": number.to_string(),
            "payload": "",
            "publishTime": at.format(&Rfc3339).unwrap(),
        });
        env.publish(number, std::slice::from_ref(&envelope)).await;
        env.publish(number, std::slice::from_ref(&envelope)).await;
    }
    until(async || sent(&hosted) >= 10).await;
    assert_eq!(env.rows().await, 5, "copies are found within a partition");
    hosted.shutdown(GRACE).await.unwrap();

    // The next start makes a pass at once.
    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 2, keep_days: Some(10) });
    let hosted = start(settings).await;
    until(async || is_there(&suffix(-5)).await && env.rows().await == 4).await;
    hosted.shutdown(GRACE).await.unwrap();

    let of_day = format!("SELECT count(*) FROM {TABLE}_{}", suffix(-5));
    assert_eq!(env.server.count(&of_day).await.unwrap(), 1, "rows of the past are moved");
    assert!(!is_there(&suffix(3)).await, "further days have rows in the default partition");
    let left = format!("SELECT count(*) FROM {TABLE}_default");
    assert_eq!(env.server.count(&left).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_partition_goes_with_its_rows() {
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 1, keep_days: None });
    let old = OffsetDateTime::now_utc() - Duration::days(40);
    let envelope =
        json!({ "id": "0", "payload": "", "publishTime": old.format(&Rfc3339).unwrap() });
    let hosted = start(settings.clone()).await;
    env.publish(0, &[envelope]).await;
    until(async || sent(&hosted) >= 1).await;
    hosted.shutdown(GRACE).await.unwrap();
    let is_there = async || {
        let suffix = suffix(-40);
        let query = format!("SELECT count(*) FROM pg_class WHERE relname = 'readings_{suffix}'");
        env.server.count(&query).await.unwrap() == 1
    };
    let hosted = start(settings.clone()).await;
    until(is_there).await;
    hosted.shutdown(GRACE).await.unwrap();

    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 1, keep_days: Some(30) });
    let hosted = start(settings).await;
    until(async || !is_there().await).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_others_are_left_alone() {
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 1, keep_days: None });
    start(settings.clone()).await.shutdown(GRACE).await.unwrap();
    let midnight = |days: i64| {
        let day = suffix(days);
        format!("'{}-{}-{} 00:00:00+00'", &day[..4], &day[4..6], &day[6..])
    };
    // One has the name of a day and more than that day. The other is ours.
    for (name, from, to) in [(-60, -60, -55), (-50, -50, -49)] {
        let (name, from, to) = (suffix(name), midnight(from), midnight(to));
        let make = format!(
            "CREATE TABLE {TABLE}_{name} PARTITION OF {TABLE} FOR VALUES FROM ({from}) TO ({to})"
        );
        env.server.run(&make).await.unwrap();
    }
    let is_there = async |days: i64| {
        let name = suffix(days);
        let query = format!("SELECT count(*) FROM pg_class WHERE relname = 'readings_{name}'");
        env.server.count(&query).await.unwrap() == 1
    };

    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 1, keep_days: Some(30) });
    let hosted = start(settings).await;
    // Older partitions come first.
    until(async || !is_there(-50).await).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert!(is_there(-60).await);
}

/// Settings of a table with partitions, which exists.
async fn partitioned(env: &Env) -> postgres::config::Settings {
    let mut settings = env.settings();
    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 1, keep_days: None });
    start(settings.clone()).await.shutdown(GRACE).await.unwrap();
    settings
}

/// Inserts rows of the day five days ago. Their ids are numbers from 1 on.
async fn insert_old_rows(env: &Env, rows: u32) {
    let insert = format!(
        "INSERT INTO {TABLE} (ingest_id, message_id, publish_time) SELECT n::text, repeat('x', 100), \
         date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '4 days 12 hours' \
         FROM generate_series(1, {rows}) AS n"
    );
    env.server.run(&insert).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_many_rows_moves_and_nothing_that_changes_meanwhile_is_lost() {
    const ROWS: u32 = 150_000;
    let env = Env::start().await;
    let settings = partitioned(&env).await;
    insert_old_rows(&env, ROWS).await;
    let partition = format!("{TABLE}_{}", suffix(-5));
    let count = async |of: &str| {
        env.server.count(&format!("SELECT count(*) FROM {of}")).await.unwrap_or_default()
    };
    let others = env.server.client().await.unwrap();
    // The copy may be made, and the partition not attached.
    let lock = format!("BEGIN; LOCK TABLE {TABLE}_default IN SHARE MODE");
    others.batch_execute(&lock).await.unwrap();

    let hosted = start(settings).await;
    until(async || count(&partition).await == i64::from(ROWS)).await;
    assert_eq!(count(TABLE).await, i64::from(ROWS), "readers see each row once");
    others
        .batch_execute(&format!(
            "INSERT INTO {TABLE}_default (ingest_id, publish_time)
                 SELECT 'new', publish_time FROM {TABLE}_default WHERE ingest_id = '1';
             DELETE FROM {TABLE}_default WHERE ingest_id = '1';
             UPDATE {TABLE}_default SET message_id = 'changed' WHERE ingest_id = '2';
             COMMIT"
        ))
        .await
        .unwrap();
    until(async || count(&format!("{TABLE}_default")).await == 0).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(count(TABLE).await, i64::from(ROWS));
    let told =
        "SELECT ingest_id FROM readings WHERE ingest_id IN ('1', 'new') OR message_id = 'changed'";
    let told = env.server.rows(&format!("{told} ORDER BY 1")).await.unwrap();
    assert_eq!(told, [json!({ "ingest_id": "2" }), json!({ "ingest_id": "new" })]);
    let checks = format!(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = '{partition}'::regclass AND contype = 'c'"
    );
    assert_eq!(env.server.count(&checks).await.unwrap(), 0, "it is like the other partitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_left_is_removed_and_a_table_of_somebody_else_stays() {
    let env = Env::start().await;
    let settings = partitioned(&env).await;
    insert_old_rows(&env, 1).await;
    let partition = format!("{TABLE}_{}", suffix(-5));
    env.server.run(&format!("CREATE TABLE {partition} (strange text)")).await.unwrap();

    let failed = |hosted: &service::Hosted| {
        let metrics = e2e::metrics::Metrics::parse(&hosted.metrics().unwrap());
        metrics.count("dataflow_postgres_failed_partition_changes_total")
    };
    let hosted = start(settings.clone()).await;
    until(async || failed(&hosted) > 0).await;
    hosted.shutdown(GRACE).await.unwrap();
    let strange = format!("SELECT count(strange) FROM {partition}");
    assert_eq!(env.server.count(&strange).await.unwrap(), 0, "it is there");

    let mark = format!("COMMENT ON TABLE {partition} IS 'dataflow: rows are copied here'");
    env.server.run(&mark).await.unwrap();
    let hosted = start(settings).await;
    let moved = format!("SELECT count(ingest_id) FROM {partition}");
    until(async || env.server.count(&moved).await.is_ok_and(|rows| rows == 1)).await;
    assert_eq!(failed(&hosted), 0);
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 1);
}
