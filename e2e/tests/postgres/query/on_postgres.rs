//! Outages of PostgreSQL.

use std::time::Duration;

use postgres::config::DayPartitions;
use reqwest::StatusCode;
use rows::column::{Column, Kind};

use super::api::{Api, StoreKind, settings, with_rows};
use crate::env::{Env, GRACE, TABLE, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended_by_the_server() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let mut settings = settings(&env, StoreKind::Postgres);
    settings.timeout = Duration::from_millis(500);
    let api = Api::start_with(settings).await;

    let mut holder = env.server.client().await.unwrap();
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {TABLE}")).await.unwrap();
    let answer = api.get(&[]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    drop(lock);
    drop(holder);
    until(async || api.get(&[]).await.status() == StatusCode::OK).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE application_name = 'dataflow-query' AND state = 'active'";
    assert_eq!(env.server.count(waiting).await.unwrap(), 0, "nothing goes on in the server");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_and_comes_back() {
    let mut env = Env::start().await;
    with_rows(&env, 1).await;
    let api = Api::start(&env, StoreKind::Postgres).await;

    env.server.kill().await.unwrap();
    let answer = api.get(&[]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.text().await.unwrap().contains("127.0.0.1"), "no address of ours");
    assert!(!api.hosted.health().is_ready(), "the request told it at once");
    env.server.start_again().await.unwrap();
    until(async || api.get(&[]).await.status() == StatusCode::OK).await;
    until(async || api.hosted.health().is_ready()).await;
    api.shutdown().await;
}

/// Sends a request. Returns the plan of its statement, which has these values.
async fn plan(env: &Env, api: &Api, query: &[(&str, &str)], values: &str) -> String {
    let client = env.server.client().await.unwrap();
    // The service's own checks have another number of parameters.
    let count = values.split(", ").count();
    let last = format!(
        "SELECT query FROM pg_stat_activity WHERE application_name = 'dataflow-query' \
         AND query LIKE 'SELECT to_jsonb%OFFSET ${count}' ORDER BY state_change DESC LIMIT 1"
    );
    let mut statement = String::new();
    until(async || {
        api.data(query).await;
        // A check may have used the connection in between.
        let found = client.query_opt(&last, &[]).await.unwrap();
        found.map(|row| statement = row.get(0)).is_some()
    })
    .await;
    client.batch_execute(&format!("PREPARE page AS {statement}")).await.unwrap();
    let explain = format!("EXPLAIN EXECUTE page({values})");
    let lines = client.simple_query(&explain).await.unwrap();
    let lines = lines.iter().filter_map(|line| match line {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_sorts_the_rows_of_a_table() {
    for partition_by_day in [None, Some(DayPartitions::default())] {
        let env = Env::start().await;
        let mut of_postgres = env.settings();
        of_postgres.table.columns = vec![Column::new("device_id", Kind::String)];
        of_postgres.table.source_column = Some("device_id".into());
        of_postgres.table.partition_by_day.clone_from(&partition_by_day);
        start(of_postgres).await.shutdown(GRACE).await.unwrap();
        // Rows of five days. Without a service, all of those with partitions are in the days ahead.
        let insert = format!(
            "INSERT INTO {TABLE} (device_id, ingest_id, publish_time) \
             SELECT 'd-' || number % 10, number::text, \
             date_trunc('day', now()) + number * interval '20 seconds' \
             FROM generate_series(1, 20000) number; ANALYZE {TABLE}"
        );
        env.server.run(&insert).await.unwrap();
        let api = Api::start(&env, StoreKind::Postgres).await;
        let first = api.data(&[("limit", "10")]).await;
        let next = first["next"].as_str().unwrap();
        let (end, place) = ("'2100-01-01Z'", "now(), '7'");
        for (query, values) in [
            (&[][..], "101, 0".to_owned()),
            (&[("next", next)], format!("{place}, 101, 0")),
            (
                &[("end_time", "2100-01-01T00:00:00Z"), ("next", next)],
                format!("{end}, {place}, 101, 0"),
            ),
            (&[("source_id", "d-7")], "'d-7', 101, 0".to_owned()),
            (&[("source_id", "d-7"), ("next", next)], format!("'d-7', {place}, 101, 0")),
        ] {
            let plan = plan(&env, &api, query, &values).await;

            let context = format!("{query:?}, {partition_by_day:?}: {plan}");
            assert!(plan.contains("Index"), "{context}");
            assert!(!plan.contains("Sort  ") && !plan.contains("Seq Scan"), "{context}");
        }
        api.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_queries_are_no_outage() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    let slow = format!("CREATE VIEW slow AS SELECT *, pg_sleep(3600)::text AS slept FROM {TABLE}");
    env.server.run(&slow).await.unwrap();
    let mut settings = settings(&env, StoreKind::Postgres);
    settings.table.name = "slow".into();
    settings.postgres.as_mut().unwrap().max_connections = Some(2);
    let api = Api::start_with(settings).await;

    // Both connections wait for rows, and then a check is answered.
    let sessions = async |condition: &str| {
        let all = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dataflow-query'";
        env.server.count(&format!("{all} AND {condition}")).await.unwrap()
    };
    let look = async {
        until(async || sessions("state = 'active' AND query LIKE '%slow%'").await == 2).await;
        let asleep = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let now = env.server.count(asleep).await.unwrap();
        let later = format!("extract(epoch FROM query_start) * 1000000 > {now}");
        until(async || sessions(&format!("state = 'idle' AND {later}")).await > 0).await;
    };
    tokio::select! {
        () = look => {}
        _ = api.get(&[]) => panic!("a slow query was answered"),
        _ = api.get(&[]) => panic!("a slow query was answered"),
    }
    assert!(api.hosted.health().is_ready());
    api.shutdown().await;
}
