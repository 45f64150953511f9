//! Rows into the table of an embedded BigQuery, over both APIs, with Google's clients.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;
use std::time::Duration;

use bigqueries::cell::Cell;
use bigqueries::client::Endpoint;
use bigqueries::column::{Column, Kind, Mode};
use bigqueries::config::{self, Partitions, Unit};
use bigqueries::convert::convert;
use bigqueries::sink::{Sealed, Sink};
use bigqueries::table::{Table, TableName};
use bigqueries::transform::Record;
use emulator::{Emulator, Fault, Options};
use pipeline::{Recovery, Refusal, Sink as _};
use serde_json::{Value, json};
use service::{Context, WrongSettings, install_crypto};
use tokio::time::timeout;
use tonic::Code;

const TIME_LIMIT: Duration = Duration::from_secs(30);
const BOTH: [config::Api; 2] = [config::Api::StorageWrite, config::Api::InsertAll];

struct Cloud {
    emulator: Emulator,
    http: reqwest::Client,
    endpoint: Endpoint,
}

impl Cloud {
    async fn start() -> Self {
        install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let endpoint = Endpoint { endpoint: Some(emulator.url()), ..<_>::default() };
        let cloud = Self { emulator, http: reqwest::Client::new(), endpoint };
        let dataset = json!({ "datasetReference": { "datasetId": "d" } });
        cloud.post("projects/p/datasets", &dataset).await;
        cloud
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/bigquery/v2/{path}", self.emulator.url());
        self.http.post(url).json(body).send().await.unwrap().json().await.unwrap()
    }

    /// Waits for the table; what is wrong with it comes back as text.
    async fn table(&self, columns: &[Column], settings: config::Table) -> Result<(), String> {
        let client = bigqueries::client::rest(&self.endpoint).await.unwrap();
        let table = Table::new(client, name(), columns.into(), settings);
        let condition = Context::default().health.condition("table");
        let waited = timeout(Duration::from_secs(20), table.wait(&condition)).await;
        waited.unwrap().map_err(|error| error.to_string())
    }

    async fn sink(&self, api: config::Api, columns: &[Column]) -> Sink {
        match api {
            config::Api::StorageWrite => {
                Sink::storage_write(&self.endpoint, name(), columns.into()).await.unwrap()
            }
            config::Api::InsertAll => {
                let client = bigqueries::client::rest(&self.endpoint).await.unwrap();
                Sink::insert_all(client, name(), columns.into())
            }
        }
    }

    /// All rows of the table, each with its values.
    async fn rows(&self, query: &str) -> Vec<Value> {
        let body = json!({ "query": query, "useLegacySql": false });
        let answer = self.post("projects/p/queries", &body).await;
        let rows = answer["rows"].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
        rows.map(|row| row["f"].as_array().unwrap().iter().map(|cell| cell["v"].clone()).collect())
            .collect()
    }
}

fn name() -> TableName {
    TableName { project: "p".into(), dataset: "d".into(), table: "t".into() }
}

fn settings() -> config::Table {
    config::Table { dataset: "d".into(), id: "t".into(), ..config::Table::default() }
}

/// Rows of one request.
fn seal(sink: &Sink, rows: Vec<Vec<Cell>>) -> Sealed {
    let mut batch = sink.open(&());
    for (index, cells) in rows.into_iter().enumerate() {
        let record = Record { cells, insert_id: format!("{index}") };
        sink.join(&mut batch, record, &mut ()).unwrap();
    }
    sink.seal(batch, &mut ())
}

/// Writes rows as the pipeline would, until BigQuery takes them.
async fn write(sink: &Sink, rows: Vec<Vec<Cell>>) -> Vec<Refusal> {
    let sealed = seal(sink, rows);
    for _ in 0..10 {
        match sink.write(&sealed, TIME_LIMIT).await {
            Ok(refusals) => return refusals,
            Err(error) => assert_eq!(error.recovery(), Recovery::Retry, "{error:#}"),
        }
    }
    panic!("ten attempts failed");
}

/// A column of each type, and a value for it.
fn all_types() -> Vec<(Column, Value)> {
    let place = Column::record(
        "place",
        vec![
            Column::new("city", Kind::String),
            Column::new("floors", Kind::Int64).with_mode(Mode::Repeated),
        ],
    );
    vec![
        (Column::new("text", Kind::String).with_mode(Mode::Required), json!("ä\"\n")),
        (Column::new("bytes", Kind::Bytes), json!("aGk=")),
        (Column::new("int", Kind::Int64), json!(i64::MAX)),
        (Column::new("float", Kind::Float64), json!(-0.1)),
        (Column::new("bool", Kind::Bool), json!(true)),
        (Column::new("at", Kind::Timestamp), json!("2025-06-15T10:00:00.123456Z")),
        (Column::new("day", Kind::Date), json!("1969-12-31")),
        (Column::new("time", Kind::Time), json!("23:59:59.999999")),
        (Column::new("local", Kind::Datetime), json!("2025-06-15 10:00:00")),
        (Column::new("price", Kind::Numeric), json!("-1.000000001")),
        (Column::new("exact", Kind::Bignumeric), json!("0.00000000000000000000000000000000000001")),
        (Column::new("doc", Kind::Json), json!({ "a": [1, null, "x"] })),
        (place.clone(), json!({ "city": "A", "floors": [1, 2] })),
        (
            Column { name: "places".into(), mode: Mode::Repeated, ..place },
            json!([{ "city": "B" }, {}]),
        ),
        (Column::new("tags", Kind::String).with_mode(Mode::Repeated), json!(["x", "y"])),
    ]
}

#[tokio::test]
async fn both_apis_give_the_same_rows() {
    let cloud = Cloud::start().await;
    let (columns, values): (Vec<_>, Vec<_>) = all_types().into_iter().unzip();
    cloud.table(&columns, settings()).await.unwrap();
    let full: Vec<Cell> = columns
        .iter()
        .zip(&values)
        .map(|(column, value)| convert(column, Some(value)).unwrap())
        .collect();
    let empty: Vec<Cell> = columns
        .iter()
        .map(|column| match column.mode {
            Mode::Required => Cell::from(""),
            _ => convert(column, None).unwrap(),
        })
        .collect();

    for api in BOTH {
        let sink = cloud.sink(api, &columns).await;
        assert_eq!(write(&sink, vec![full.clone(), empty.clone()]).await, []);
    }

    let rows = cloud.rows("SELECT * FROM d.t").await;
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0], rows[2]);
    assert_eq!(rows[1], rows[3]);
    assert_eq!(rows[0][2], json!("9223372036854775807"));
    assert_eq!(rows[0][9], json!("-1.000000001"));
    assert_eq!(rows[0][5], json!("1749981600.123456"));
}

#[tokio::test]
async fn a_row_that_bigquery_refuses_leaves_its_neighbours_in_the_table_once() {
    for api in BOTH {
        let cloud = Cloud::start().await;
        let columns = [Column::new("n", Kind::Int64), Column::new("at", Kind::Timestamp)];
        cloud.table(&columns, settings()).await.unwrap();
        // A moment beyond the year 9999 is one that only BigQuery knows to be wrong.
        let moment = |n: i64| Cell::Micros(if n == 250 { i64::MAX } else { n });
        let rows = (0..500).map(|n| vec![Cell::Int(n), moment(n)]).collect();
        let sink = cloud.sink(api, &columns).await;

        let refusals = write(&sink, rows).await;

        assert_eq!(refusals.iter().map(|refusal| refusal.index).collect::<Vec<_>>(), [250]);
        assert!(refusals[0].detail.contains("p.d.t"), "{refusals:?}");
        let count = "SELECT COUNT(*), COUNT(DISTINCT n) FROM d.t";
        assert_eq!(cloud.rows(count).await, [json!(["499", "499"])]);
    }
}

#[tokio::test]
async fn a_lost_reply_costs_a_duplicate_that_insert_all_removes() {
    for (api, fault, expected) in [
        (config::Api::StorageWrite, "AppendRows", "2"),
        (config::Api::InsertAll, "bigquery.tabledata.insertAll", "1"),
    ] {
        let cloud = Cloud::start().await;
        let columns = [Column::new("n", Kind::Int64)];
        cloud.table(&columns, settings()).await.unwrap();
        let sink = cloud.sink(api, &columns).await;
        cloud.emulator.faults().lose_reply(fault, 1);

        write(&sink, vec![vec![Cell::Int(1)]]).await;

        assert_eq!(cloud.rows("SELECT COUNT(*) FROM d.t").await, [json!([expected])]);
    }
}

#[tokio::test]
async fn answers_that_pass_are_waited_for() {
    for (api, fault) in [
        (config::Api::StorageWrite, "AppendRows"),
        (config::Api::InsertAll, "bigquery.tabledata.insertAll"),
    ] {
        let cloud = Cloud::start().await;
        let columns = [Column::new("n", Kind::Int64)];
        cloud.table(&columns, settings()).await.unwrap();
        let sink = cloud.sink(api, &columns).await;
        for code in
            [Code::Unavailable, Code::NotFound, Code::PermissionDenied, Code::ResourceExhausted]
        {
            cloud.emulator.faults().refuse(fault, 1, code);
        }

        write(&sink, vec![vec![Cell::Int(1)]]).await;

        assert_eq!(cloud.rows("SELECT COUNT(*) FROM d.t").await, [json!(["1"])]);
        assert_eq!(cloud.emulator.faults().planned(), []);
    }
}

#[tokio::test]
async fn the_code_of_an_answer_says_what_to_do() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    cloud.table(&columns, settings()).await.unwrap();
    let sink = cloud.sink(config::Api::StorageWrite, &columns).await;
    let mut batch = sink.open(&());
    let record = Record { cells: vec![Cell::Int(1)], insert_id: "1".into() };
    sink.join(&mut batch, record, &mut ()).unwrap();
    let sealed = sink.seal(batch, &mut ());

    for (code, expected) in [
        // The rows do not fit the table: no row is at fault.
        (Code::InvalidArgument, Recovery::Retry),
        (Code::OutOfRange, Recovery::Reject("request_too_large")),
        (Code::Unimplemented, Recovery::Stop),
        // A connection that has just failed was not idle: these are not tried again at once.
        (Code::Unavailable, Recovery::Retry),
        (Code::Aborted, Recovery::Retry),
        (Code::ResourceExhausted, Recovery::Retry),
    ] {
        cloud.emulator.faults().refuse("AppendRows", 1, code);
        let error = sink.write(&sealed, TIME_LIMIT).await.unwrap_err();
        assert_eq!(error.recovery(), expected, "{code:?}");
    }

    assert_eq!(sink.write(&sealed, TIME_LIMIT).await.unwrap(), []);
}

#[tokio::test]
async fn a_table_is_created_as_the_settings_say() {
    let cloud = Cloud::start().await;
    let settings = config::Table {
        partition_by: Some(Partitions { column: "at".into(), ..Partitions::default() }),
        cluster_by: vec!["n".into()],
        description: Some("readings".into()),
        expires_in: Some(Duration::from_secs(86_400)),
        ..settings()
    };
    let columns = [Column::new("at", Kind::Timestamp), Column::new("n", Kind::Int64)];

    cloud.table(&columns, settings.clone()).await.unwrap();
    cloud.table(&columns, settings.clone()).await.unwrap();

    let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", cloud.emulator.url());
    let table: Value = cloud.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(table["timePartitioning"], json!({ "field": "at", "type": "DAY" }));
    assert_eq!(table["clustering"]["fields"], json!(["n"]));
    assert_eq!(table["description"], "readings");
    assert!(table["expirationTime"].is_string());
    let other = config::Table { cluster_by: vec!["at".into()], ..settings.clone() };
    let refused = cloud.table(&columns, other).await.unwrap_err();
    assert!(refused.contains("clustered by at, the table is clustered by n"), "{refused}");
    let by_hour = Partitions { column: "at".into(), unit: Unit::Hour, ..Partitions::default() };
    let other = config::Table { partition_by: Some(by_hour), ..settings.clone() };
    let refused = cloud.table(&columns, other).await.unwrap_err();
    assert!(refused.contains("by at (HOUR), the table is partitioned by at (DAY)"), "{refused}");
    let silent = config::Table { partition_by: None, cluster_by: Vec::new(), ..settings };
    cloud.table(&columns, silent).await.unwrap();
}

#[tokio::test]
async fn a_table_that_others_laid_out_is_taken_as_it_is() {
    let cloud = Cloud::start().await;
    let fields = json!([{ "name": "n", "type": "INTEGER" }]);
    let table = json!({ "tableReference": { "tableId": "t" }, "timePartitioning": { "type": "DAY" },
        "schema": { "fields": fields } });
    cloud.post("projects/p/datasets/d/tables", &table).await;
    let columns = [Column::new("n", Kind::Int64)];

    cloud.table(&columns, settings()).await.unwrap();

    let by_column = Partitions { column: "at".into(), ..Partitions::default() };
    let other = config::Table { partition_by: Some(by_column), ..settings() };
    let refused = cloud.table(&columns, other).await.unwrap_err();
    assert!(
        refused.contains("the table is partitioned by the time of ingestion (DAY)"),
        "{refused}"
    );
}

/// Fields with what these services know nothing of.
fn foreign_fields() -> Value {
    json!([
        { "name": "n", "type": "INTEGER", "mode": "NULLABLE" },
        { "name": "code", "type": "STRING", "mode": "NULLABLE", "maxLength": "10",
          "collation": "und:ci", "dataPolicies": [{ "name": "mask" }] },
        { "name": "price", "type": "NUMERIC", "mode": "NULLABLE", "precision": "10", "scale": "2",
          "roundingMode": "ROUND_HALF_EVEN" },
        { "name": "at", "type": "TIMESTAMP", "mode": "NULLABLE",
          "defaultValueExpression": "CURRENT_TIMESTAMP()" },
        { "name": "r", "type": "RECORD", "mode": "NULLABLE", "fields": [
            { "name": "secret", "type": "STRING", "mode": "NULLABLE", "maxLength": "7",
              "policyTags": { "names": ["tag"] } }] },
    ])
}

#[tokio::test]
async fn added_columns_leave_all_others_as_they_are() {
    let cloud = Cloud::start().await;
    let table =
        json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": foreign_fields() } });
    cloud.post("projects/p/datasets/d/tables", &table).await;
    let new = || Column::new("new", Kind::String);
    let columns = [Column::new("n", Kind::Int64), Column::record("r", vec![new()]), new()];

    cloud.table(&columns, settings()).await.unwrap();

    let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", cloud.emulator.url());
    let table: Value = cloud.http.get(url).send().await.unwrap().json().await.unwrap();
    let mut expected = foreign_fields();
    let added = json!({ "name": "new", "type": "STRING", "mode": "NULLABLE" });
    expected.as_array_mut().unwrap().push(added.clone());
    expected[4]["fields"].as_array_mut().unwrap().push(added);
    assert_eq!(table["schema"]["fields"], expected);
}

#[tokio::test]
async fn a_table_that_was_changed_meanwhile_is_looked_at_again() {
    let cloud = Cloud::start().await;
    cloud.table(&[Column::new("n", Kind::Int64)], settings()).await.unwrap();
    let looks = || {
        let calls = cloud.emulator.faults().calls();
        calls.get("bigquery.tables.get").copied().unwrap_or(0)
    };
    let before = looks();
    cloud.emulator.faults().delay("bigquery.tables.patch", 1, Duration::from_secs(1));
    let more = [Column::new("n", Kind::Int64), Column::new("m", Kind::Int64)];

    let other = async {
        while !cloud.emulator.faults().planned().is_empty() {
            tokio::task::yield_now().await;
        }
        let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", cloud.emulator.url());
        let change = json!({ "description": "changed" });
        let changed = cloud.http.patch(url).json(&change).send().await.unwrap();
        changed.error_for_status().unwrap();
    };
    let (added, ()) = tokio::join!(cloud.table(&more, settings()), other);

    added.unwrap();
    assert_eq!(cloud.rows("SELECT m FROM d.t").await, Vec::<Value>::new());
    assert_eq!(looks(), before + 2, "the change was for the table of before");
}

#[tokio::test]
async fn a_table_may_have_any_name() {
    let cloud = Cloud::start().await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { table: "DatasetEvents".into(), ..name() };
    let table = Table::new(client, name, [Column::new("n", Kind::Int64)].into(), settings());
    let condition = Context::default().health.condition("table");

    timeout(Duration::from_secs(20), table.wait(&condition)).await.unwrap().unwrap();

    assert_eq!(cloud.rows("SELECT n FROM d.DatasetEvents").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_table_that_bigquery_will_never_create_ends_the_wait() {
    let cloud = Cloud::start().await;
    let (reason, message) = (None, Some("Cannot partition by n".into()));
    let kind = emulator::Kind::Refuse { code: 3, retry_after: None, reason, message };
    let method = "bigquery.tables.insert".into();
    cloud.emulator.faults().add(Fault { method, topic: None, count: 1, for_millis: None, kind });

    let refused = cloud.table(&[Column::new("n", Kind::Int64)], settings()).await.unwrap_err();

    assert!(refused.contains("cannot be created: Cannot partition by n"), "{refused}");
}

#[tokio::test]
async fn a_view_takes_no_rows() {
    let cloud = Cloud::start().await;
    cloud.table(&[Column::new("n", Kind::Int64)], settings()).await.unwrap();
    let query = json!({ "query": "SELECT n FROM d.t", "useLegacySql": false });
    let view = json!({ "tableReference": { "tableId": "view" }, "view": query });
    cloud.post("projects/p/datasets/d/tables", &view).await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { table: "view".into(), ..name() };
    let table = Table::new(client, name, [Column::new("n", Kind::Int64)].into(), settings());

    let refused = table.wait(&Context::default().health.condition("table")).await.unwrap_err();

    assert!(refused.is::<WrongSettings>());
    assert!(refused.to_string().contains("but a VIEW"), "{refused}");
}

#[tokio::test]
async fn connections_that_ended_while_they_were_idle_cost_no_failed_attempt() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    cloud.table(&columns, settings()).await.unwrap();
    let sink = cloud.sink(config::Api::StorageWrite, &columns).await;
    let sealed: Vec<_> = (0..8).map(|n| seal(&sink, vec![vec![Cell::Int(n)]])).collect();
    let write_all = async || {
        let writes = sealed.iter().map(|rows| sink.write(rows, TIME_LIMIT));
        for written in futures::future::join_all(writes).await {
            assert_eq!(written.unwrap(), []);
        }
    };
    write_all().await;

    cloud.emulator.faults().cut_streams();
    write_all().await;

    assert_eq!(cloud.rows("SELECT COUNT(*) FROM d.t").await, [json!(["16"])]);
}

#[tokio::test]
async fn rows_that_were_inserted_are_not_sent_again_with_those_that_were_not() {
    let cloud = Cloud::start().await;
    let (n, new) = (Column::new("n", Kind::Int64), Column::new("new", Kind::String));
    cloud.table(std::slice::from_ref(&n), settings()).await.unwrap();
    let sink = cloud.sink(config::Api::InsertAll, &[n.clone(), new.clone()]).await;
    let mut batch = sink.open(&());
    for (number, value) in [(0, Cell::Null), (1, Cell::Null), (2, "x".into())] {
        // Without ids BigQuery cannot tell repeated rows.
        let record = Record { cells: vec![Cell::Int(number), value], insert_id: String::new() };
        sink.join(&mut batch, record, &mut ()).unwrap();
    }
    let sealed = sink.seal(batch, &mut ());

    for _ in 0..3 {
        let error = sink.write(&sealed, TIME_LIMIT).await.unwrap_err();
        assert_eq!(error.recovery(), Recovery::Retry, "{error:#}");
    }
    cloud.table(&[n, new], settings()).await.unwrap();

    assert_eq!(sink.write(&sealed, TIME_LIMIT).await.unwrap(), []);
    assert_eq!(
        cloud.rows("SELECT n FROM d.t ORDER BY n").await,
        ["0", "1", "2"].map(|n| json!([n]))
    );
}

#[tokio::test]
async fn new_columns_are_added_and_other_differences_name_both_sides() {
    let cloud = Cloud::start().await;
    let record = |fields| Column::record("r", fields);
    let n = || Column::new("n", Kind::Int64);
    cloud.table(&[n(), record(vec![n()])], settings()).await.unwrap();

    let more =
        [n(), record(vec![n(), Column::new("m", Kind::String)]), Column::new("x", Kind::Json)];
    cloud.table(&more, settings()).await.unwrap();

    let sink = cloud.sink(config::Api::StorageWrite, &more).await;
    let row = vec![Cell::Int(1), Cell::Record(vec![Cell::Int(2), "m".into()]), "{}".into()];
    write(&sink, vec![row]).await;
    assert_eq!(cloud.rows("SELECT r.m, x FROM d.t").await, [json!(["m", "{}"])]);
    let changed = [Column::new("n", Kind::String), record(vec![n().with_mode(Mode::Repeated)])];
    let refused = cloud.table(&changed, settings()).await.unwrap_err();
    assert!(
        refused.contains("column n: STRING NULLABLE in the settings, INT64 NULLABLE in the table"),
        "{refused}"
    );
    assert!(
        refused.contains("column r.n: INT64 REPEATED in the settings, INT64 NULLABLE"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_view_shows_each_id_once() {
    let cloud = Cloud::start().await;
    let settings = config::Table { view: Some("once".into()), ..settings() };
    let columns: Arc<[Column]> = bigqueries::rows::Rows::columns(&bigqueries::rows::Mapped::new(
        &[Column::new("n", Kind::Int64)],
        true,
        None,
    ))
    .into();
    cloud.table(&columns, settings).await.unwrap();
    let sink = cloud.sink(config::Api::StorageWrite, &columns).await;
    let row = |message: &str, ingest: &str, n: i64| {
        vec![message.into(), Cell::Micros(n), ingest.into(), Cell::Int(n)]
    };

    write(&sink, vec![row("1", "a", 1), row("2", "a", 2), row("3", "b", 3)]).await;

    let rows = cloud.rows("SELECT n FROM d.once ORDER BY n").await;
    assert_eq!(rows, [json!(["1"]), json!(["3"])]);
}

#[tokio::test]
async fn a_missing_dataset_is_waited_for() {
    let cloud = Cloud::start().await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { dataset: "late".into(), ..name() };
    let columns: Arc<[Column]> = [Column::new("n", Kind::Int64)].into();
    let table = Table::new(client, name, columns, settings());
    let context = Context::default();
    let condition = context.health.condition("table");

    let waiting = tokio::spawn(async move { table.wait(&condition).await });
    let reason = || context.health.conditions()["table"].reason.clone();
    while !reason().contains("Not found: Dataset p:late") {
        tokio::task::yield_now().await;
    }
    let dataset = json!({ "datasetReference": { "datasetId": "late" } });
    cloud.post("projects/p/datasets", &dataset).await;

    timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap();
    assert!(context.health.conditions()["table"].ready);
}
