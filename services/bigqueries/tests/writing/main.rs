//! Tests that write rows to a table of the embedded BigQuery, over both APIs, with Google's
//! clients.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod clients;
mod dataset;
mod derived;
mod refusals;
mod silence;
mod table;
mod types;
mod view;

use std::time::Duration;

use bigqueries::client::Endpoint;
use bigqueries::config;
use bigqueries::sink::{EncodedBatch, Sink};
use bigqueries::table::{Table, TableName};
use bigqueries::transform::Record;
use emulator::{Emulator, Options};
use pipeline::{Recovery, Refusal, Sink as _};
use rows::cell::Cell;
use rows::column::{Column, Kind, Mode};
use rows::convert::convert;
use serde_json::{Value, json};
use service::{Context, install_crypto};
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
        let endpoint = Endpoint { endpoint: Some(emulator.url().into()), ..<_>::default() };
        let cloud = Self { emulator, http: reqwest::Client::new(), endpoint };
        let dataset = json!({ "datasetReference": { "datasetId": "d" } });
        cloud.post("projects/p/datasets", &dataset).await;
        cloud
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/bigquery/v2/{path}", self.emulator.url());
        self.http.post(url).json(body).send().await.unwrap().json().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}/bigquery/v2/{path}", self.emulator.url());
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Replaces the table by an empty one with these fields.
    async fn replace(&self, fields: &Value) {
        let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", self.emulator.url());
        self.http.delete(url).send().await.unwrap().error_for_status().unwrap();
        let table = json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": fields } });
        self.post("projects/p/datasets/d/tables", &table).await;
    }

    /// Waits for the table, and returns what is wrong with it.
    async fn table(
        &self,
        columns: &[Column],
        settings: config::TableSettings,
    ) -> Result<(), String> {
        let table = self.open(columns, settings).await;
        let condition = Context::default().health.condition("table");
        let waited = timeout(Duration::from_secs(20), table.wait(&condition)).await;
        waited.unwrap().map_err(|error| error.to_string())
    }

    /// Opens the table for rows with these columns. The table itself may be missing or different.
    async fn open(&self, columns: &[Column], settings: config::TableSettings) -> Table {
        let client = bigqueries::client::rest(&self.endpoint).await.unwrap();
        Table::new(client, name(), columns.into(), settings)
    }

    async fn sink(&self, api: config::Api, columns: &[Column]) -> Sink {
        let table = self.open(columns, settings()).await;
        match api {
            config::Api::StorageWrite => Sink::storage_write(&self.endpoint, table).await.unwrap(),
            config::Api::InsertAll => Sink::insert_all(table),
        }
    }

    /// Runs a query, and returns its rows with their values.
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

fn settings() -> config::TableSettings {
    config::TableSettings {
        dataset: "d".into(),
        id: "t".into(),
        ..config::TableSettings::default()
    }
}

/// Puts rows into one request.
fn encode(sink: &Sink, rows: Vec<Vec<Cell>>) -> EncodedBatch {
    let mut batch = sink.open(&());
    for (index, cells) in rows.into_iter().enumerate() {
        let record = Record { cells, insert_id: format!("{index}") };
        sink.push(&mut batch, record, &mut ()).unwrap();
    }
    sink.encode(batch, &mut ())
}

/// Writes rows as the pipeline does, until BigQuery accepts them.
async fn write(sink: &Sink, rows: Vec<Vec<Cell>>) -> Vec<Refusal> {
    let encoded = encode(sink, rows);
    for _ in 0..10 {
        match sink.write(&encoded, TIME_LIMIT).await {
            Ok(refusals) => return refusals,
            Err(error) => assert_eq!(error.recovery(), Recovery::Retry, "{error:#}"),
        }
    }
    panic!("ten attempts failed");
}

/// Returns a column of each type, with a value for it.
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
        // Only BigQuery notices that this time is after the year 9999.
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
    sink.push(&mut batch, record, &mut ()).unwrap();
    let encoded = sink.encode(batch, &mut ());

    for (code, expected) in [
        // The rows do not fit the table, so no single row is at fault.
        (Code::InvalidArgument, Recovery::Retry),
        // The request is small, so its size is not at fault either.
        (Code::OutOfRange, Recovery::Retry),
        (Code::Unimplemented, Recovery::Stop),
        // These are not retried at once, because a connection that just failed was not idle.
        (Code::Unavailable, Recovery::Retry),
        (Code::Aborted, Recovery::Retry),
        (Code::ResourceExhausted, Recovery::Retry),
    ] {
        cloud.emulator.faults().refuse("AppendRows", 1, code);
        let error = sink.write(&encoded, TIME_LIMIT).await.unwrap_err();
        assert_eq!(error.recovery(), expected, "{code:?}");
    }

    assert_eq!(sink.write(&encoded, TIME_LIMIT).await.unwrap(), []);
}

#[tokio::test]
async fn connections_that_ended_while_they_were_idle_cost_no_failed_attempt() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    cloud.table(&columns, settings()).await.unwrap();
    let sink = cloud.sink(config::Api::StorageWrite, &columns).await;
    let write_all = async || {
        let encoded: Vec<_> = (0..8).map(|n| encode(&sink, vec![vec![Cell::Int(n)]])).collect();
        let writes = encoded.iter().map(|rows| sink.write(rows, TIME_LIMIT));
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
        // Without ids, BigQuery cannot identify repeated rows.
        let record = Record { cells: vec![Cell::Int(number), value], insert_id: String::new() };
        sink.push(&mut batch, record, &mut ()).unwrap();
    }
    let encoded = sink.encode(batch, &mut ());

    for _ in 0..3 {
        let error = sink.write(&encoded, TIME_LIMIT).await.unwrap_err();
        assert_eq!(error.recovery(), Recovery::Retry, "{error:#}");
        assert_eq!(sink.written(&encoded), [0, 1]);
    }
    cloud.table(&[n, new], settings()).await.unwrap();

    assert_eq!(sink.write(&encoded, TIME_LIMIT).await.unwrap(), []);
    assert_eq!(
        cloud.rows("SELECT n FROM d.t ORDER BY n").await,
        ["0", "1", "2"].map(|n| json!([n]))
    );
}
