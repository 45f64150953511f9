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
    settings.table.partition_by_day = Some(DayPartitions { days_ahead: 2, keep_days: Some(10) });
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
