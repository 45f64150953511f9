//! Tests of the view without duplicates, and of the watch over the table.

use std::sync::Arc;
use std::time::Duration;

use bigqueries::config::{self, Api, Partitions};
use bigqueries::table::Table;
use emulator::Fault;
use rows::cell::Cell;
use rows::column::{Column, Kind};
use rows::{Mapped, Rows as _};
use serde_json::{Value, json};
use service::Context;
use service::health::ConditionState;
use service::tools::preflight::State;
use tokio::time::timeout;
use tonic::Code;

use crate::{Cloud, name, settings, write};

const VIEW: &str = "projects/p/datasets/d/tables/once";

fn columns(own: &[Column]) -> Arc<[Column]> {
    Mapped::new(own, true, None).columns().into()
}

fn with_view() -> config::TableSettings {
    config::TableSettings { view: Some("once".into()), ..settings() }
}

fn row(message: &str, ingest: &str, hours: i64, n: i64) -> Vec<Cell> {
    vec![message.into(), Cell::Micros(hours * 3_600_000_000), ingest.into(), Cell::Int(n)]
}

/// Returns the number of calls of a method of tables that were carried out.
fn calls(cloud: &Cloud, method: &str) -> u64 {
    cloud.emulator.faults().calls().get(&format!("bigquery.tables.{method}")).copied().unwrap_or(0)
}

#[tokio::test]
async fn the_view_shows_each_id_once() {
    let cloud = Cloud::start().await;
    let columns = columns(&[Column::new("n", Kind::Int64)]);
    cloud.table(&columns, with_view()).await.unwrap();
    let sink = cloud.sink(Api::StorageWrite, &columns).await;

    write(&sink, vec![row("1", "a", 1, 1), row("2", "a", 2, 2), row("3", "b", 3, 3)]).await;

    let rows = cloud.rows("SELECT n FROM d.once ORDER BY n").await;
    assert_eq!(rows, [json!(["1"]), json!(["3"])]);
}

#[tokio::test]
async fn a_filter_on_the_partition_reaches_below_the_view() {
    let cloud = Cloud::start().await;
    let columns = columns(&[Column::new("n", Kind::Int64)]);
    let partitions = Partitions { require_filter: Some(true), ..Partitions::default() };
    let settings = config::TableSettings { partition_by: Some(partitions), ..with_view() };
    cloud.table(&columns, settings).await.unwrap();
    let sink = cloud.sink(Api::StorageWrite, &columns).await;
    let rows =
        [row("1", "a", 1, 1), row("2", "a", 2, 2), row("3", "b", 23, 3), row("4", "a", 24, 4)];

    write(&sink, rows.to_vec()).await;

    // The copy of the second day is not hidden by that of the first day, because each partition is
    // read alone.
    for (day, expected) in [("1970-01-01", vec!["1", "3"]), ("1970-01-02", vec!["4"])] {
        let of_day = format!(
            "SELECT n, publish_time_day FROM d.once WHERE publish_time_day = '{day}' ORDER BY n"
        );
        let expected: Vec<_> = expected.iter().map(|n| json!([n, day])).collect();
        assert_eq!(cloud.rows(&of_day).await, expected);
    }
    let body = json!({ "query": "SELECT n FROM d.once", "useLegacySql": false });
    let refused = cloud.post("projects/p/queries", &body).await;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("without a filter over column(s) 'publish_time'"), "{refused}");
}

#[tokio::test]
async fn the_view_follows_the_columns_and_is_left_alone_otherwise() {
    let cloud = Cloud::start().await;
    let first = columns(&[Column::new("n", Kind::Int64)]);
    cloud.table(&first, with_view()).await.unwrap();
    // From here on, nothing can be created.
    cloud.emulator.faults().refuse("bigquery.tables.insert", u64::MAX, Code::PermissionDenied);

    cloud.table(&first, with_view()).await.unwrap();
    assert_eq!(calls(&cloud, "patch"), 0, "nothing differs");
    let more = columns(&[Column::new("n", Kind::Int64), Column::new("m", Kind::Int64)]);
    cloud.table(&more, with_view()).await.unwrap();

    assert_eq!(calls(&cloud, "patch"), 2, "the table and the view");
    assert_eq!(cloud.rows("SELECT m FROM d.once").await, Vec::<Value>::new());
    let view = cloud.get(VIEW).await;
    assert!(view["view"]["query"].as_str().is_some_and(|query| query.contains("`m`")), "{view}");
}

/// Changes the query of the view, as a person would.
async fn put_view(cloud: &Cloud, query: &str) {
    let query = json!({ "query": query, "useLegacySql": false });
    let view = json!({ "tableReference": { "tableId": "once" }, "view": query });
    cloud.post("projects/p/datasets/d/tables", &view).await;
}

/// Returns the state of the view, as `check --online` reports it.
async fn state(cloud: &Cloud, columns: &[Column]) -> State {
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let dependency =
        Table::new(client, name(), columns.into(), with_view()).view_dependency().await.unwrap();
    assert_eq!((dependency.kind, dependency.name.as_str()), ("view", "p.d.once"));
    assert_eq!(dependency.roles, ["roles/bigquery.dataEditor"]);
    dependency.state
}

#[tokio::test]
async fn a_view_of_somebody_else_is_left_alone_and_told() {
    let ours = {
        let cloud = Cloud::start().await;
        let columns = columns(&[Column::new("n", Kind::Int64)]);
        cloud.table(&columns, with_view()).await.unwrap();
        cloud.get(VIEW).await["view"]["query"].as_str().unwrap().to_owned()
    };
    for theirs in ["SELECT n FROM d.t", &ours.replace("copy = 1", "copy = 1 AND n > 0")] {
        let cloud = Cloud::start().await;
        let columns = columns(&[Column::new("n", Kind::Int64)]);
        cloud.table(&columns, settings()).await.unwrap();
        put_view(&cloud, theirs).await;

        cloud.table(&columns, with_view()).await.unwrap();

        assert_eq!(cloud.get(VIEW).await["view"]["query"], theirs);
        let told = state(&cloud, &columns).await;
        let State::Unchecked(why) = &told else { panic!("{told:?}") };
        assert!(why.contains("not one that this service wrote, so it is left alone"), "{why}");
    }
}

#[tokio::test]
async fn the_view_of_an_earlier_version_is_brought_up_to_date() {
    let cloud = Cloud::start().await;
    let columns = columns(&[Column::new("n", Kind::Int64)]);
    cloud.table(&columns, settings()).await.unwrap();
    assert!(matches!(state(&cloud, &columns).await, State::WillCreate(_)));
    let first = "SELECT `message_id` FROM (SELECT `message_id`, ROW_NUMBER() OVER (PARTITION BY \
                 COALESCE(ingest_id, message_id) ORDER BY publish_time, message_id) AS copy FROM \
                 `p.d.t`) WHERE copy = 1";
    put_view(&cloud, first).await;
    assert!(matches!(state(&cloud, &columns).await, State::WillCreate(_)));

    cloud.table(&columns, with_view()).await.unwrap();

    assert_eq!(cloud.rows("SELECT n FROM d.once").await, Vec::<Value>::new());
    assert_eq!(state(&cloud, &columns).await, State::Ready);
}

#[tokio::test]
async fn a_view_that_cannot_be_ends_the_wait() {
    let cloud = Cloud::start().await;
    let columns = columns(&[Column::new("n", Kind::Int64)]);
    cloud.table(&columns, settings()).await.unwrap();
    let of_table = config::TableSettings { view: Some("t".into()), ..settings() };
    let refused = cloud.table(&columns, of_table).await.unwrap_err();
    assert!(refused.contains("must be the name of a view, is that of a TABLE"), "{refused}");

    let (reason, message) = (Some("invalidQuery".into()), Some("Syntax error".into()));
    let kind = emulator::Kind::Refuse { code: 3, retry_after: None, reason, message };
    let method = "bigquery.tables.insert".into();
    cloud.emulator.faults().add(Fault { method, topic: None, count: 1, for_millis: None, kind });
    let refused = cloud.table(&columns, with_view()).await.unwrap_err();
    assert!(refused.contains("view once: BigQuery does not take its query: Syntax"), "{refused}");
}

/// Returns the query of the view, or null if there is no view.
async fn query(cloud: &Cloud) -> Value {
    cloud.get(VIEW).await["view"]["query"].clone()
}

/// Watches the table until `is_done`.
async fn watch_until(
    cloud: &Cloud,
    columns: &[Column],
    settings: config::TableSettings,
    is_done: impl AsyncFn(&ConditionState) -> bool,
) {
    let table = cloud.open(columns, settings).await;
    let health = Context::default().health;
    let condition = health.condition("table");
    let state = || health.conditions()["table"].clone();
    let done = timeout(Duration::from_secs(20), async {
        while !is_done(&state()).await {
            tokio::task::yield_now().await;
        }
    });
    tokio::select! {
        () = table.watch(condition) => {}
        done = done => done.unwrap_or_else(|_| panic!("{:?}", state())),
    }
}

#[tokio::test]
async fn rows_do_not_wait_for_a_view_that_cannot_be_created() {
    let cloud = Cloud::start().await;
    let columns = columns(&[Column::new("n", Kind::Int64)]);
    cloud.table(&columns, settings()).await.unwrap();
    let faults = cloud.emulator.faults();
    for code in [Code::PermissionDenied, Code::ResourceExhausted] {
        faults.refuse("bigquery.tables.insert", 1, code);

        cloud.table(&columns, with_view()).await.unwrap();

        assert_eq!((faults.planned(), query(&cloud).await), (vec![], Value::Null), "{code:?}");
    }

    faults.refuse("bigquery.tables.insert", 1, Code::PermissionDenied);
    watch_until(&cloud, &columns, with_view(), async |state| {
        state.ready && faults.planned().is_empty()
    })
    .await;

    assert_eq!(query(&cloud).await, Value::Null);
    watch_until(&cloud, &columns, with_view(), async |_| query(&cloud).await.is_string()).await;
}

#[tokio::test]
async fn a_view_that_was_deleted_comes_back() {
    let cloud = Cloud::start().await;
    let columns = columns(&[Column::new("n", Kind::Int64)]);
    cloud.table(&columns, with_view()).await.unwrap();
    let url = format!("{}/bigquery/v2/{VIEW}", cloud.emulator.url());
    cloud.http.delete(url).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(query(&cloud).await, Value::Null);

    watch_until(&cloud, &columns, with_view(), async |_| query(&cloud).await.is_string()).await;
}

#[tokio::test]
async fn a_view_with_further_columns_of_the_table_stays_as_it_is() {
    let cloud = Cloud::start().await;
    let (n, m) = (Column::new("n", Kind::Int64), Column::new("m", Kind::Int64));
    let (older, newer) = (columns(std::slice::from_ref(&n)), columns(&[m, n]));
    cloud.table(&newer, with_view()).await.unwrap();
    let wide = query(&cloud).await;

    cloud.table(&older, with_view()).await.unwrap();

    assert_eq!(query(&cloud).await, wide);
    assert_eq!(state(&cloud, &older).await, State::Ready);
}

#[tokio::test]
async fn a_table_that_changed_is_seen_while_rows_are_written() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    cloud.table(&columns, settings()).await.unwrap();
    cloud.replace(&json!([{ "name": "n", "type": "STRING" }])).await;

    let difference = "column n: INT64 NULLABLE in the settings, STRING";
    watch_until(&cloud, &columns, settings(), async |state| state.reason.contains(difference))
        .await;
}
