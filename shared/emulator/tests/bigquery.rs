//! Tests of BigQuery over REST and with Google's own Storage Write client.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::{
    ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field};
use emulator::{Emulator, Fault, Kind, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_bigquery::client::Write;
use google_cloud_bigquery::error::AppendError;
use google_cloud_bigquery::model::{ArrowRecordBatch, ArrowSchema};
use google_cloud_bigquery::write::DefaultWriter;
use google_cloud_bigquery::write::format::Arrow;
use google_cloud_bigquery::write::retry_policy::RetryableErrors;
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tonic::Code;

const TABLE: &str = "projects/p/datasets/d/tables/t";

/// A BigQuery with one dataset.
struct Cloud {
    emulator: Emulator,
    client: reqwest::Client,
}

impl Cloud {
    async fn start() -> Self {
        Self::open(Options::default()).await
    }

    async fn open(options: Options) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let emulator = Emulator::start(options).await.unwrap();
        let cloud = Self { emulator, client: reqwest::Client::new() };
        let reference = json!({ "datasetReference": { "datasetId": "d" } });
        cloud.call(Method::POST, "projects/p/datasets", reference).await;
        cloud
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}/bigquery/v2/{path}", self.emulator.url());
        let answer = self.client.request(method, url).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    async fn create(&self, fields: Value) {
        let body = json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": fields } });
        let (status, answer) = self.call(Method::POST, "projects/p/datasets/d/tables", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    async fn insert(&self, rows: Value) -> Value {
        let body = json!({ "rows": rows });
        self.call(Method::POST, &format!("{TABLE}/insertAll"), body).await.1
    }

    /// Reads the values of all rows, in the form of cells.
    async fn rows(&self) -> Vec<Value> {
        let (_, listed) = self.call(Method::GET, &format!("{TABLE}/data"), json!({})).await;
        values(&listed)
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = self.call(Method::POST, "projects/p/queries", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        values(&answer)
    }

    async fn writer(&self, batch: &RecordBatch) -> DefaultWriter<Arrow> {
        let client = Write::builder()
            .with_endpoint(self.emulator.url())
            .with_credentials(anonymous::Builder::new().build())
            .build()
            .await
            .unwrap();
        let schema = ArrowSchema::new().set_serialized_schema(encode(batch).0);
        let once = RetryableErrors.with_attempt_limit(1);
        let writer = client.open_default_stream(TABLE).with_retry_policy(once);
        writer.build_arrow(schema).await.unwrap()
    }
}

/// Returns the values of the rows of an answer, each as a list.
fn values(answer: &Value) -> Vec<Value> {
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.map(|row| row["f"].as_array().unwrap().iter().map(|cell| cell["v"].clone()).collect())
        .collect()
}

/// Encodes schema and batch as messages of Arrow's stream format.
fn encode(batch: &RecordBatch) -> (Vec<u8>, Vec<u8>) {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    let schema = writer.get_ref().clone();
    writer.write(batch).unwrap();
    let rows = writer.get_ref()[schema.len()..].to_vec();
    (schema, rows)
}

fn rows_of(batch: &RecordBatch) -> ArrowRecordBatch {
    ArrowRecordBatch::new().set_serialized_record_batch(encode(batch).1)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )
    .unwrap()
}

#[tokio::test]
async fn tables_live_from_creation_to_deletion() {
    let cloud = Cloud::start().await;
    let (status, missing) = cloud.call(Method::GET, TABLE, json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(missing["error"]["errors"][0]["reason"], "notFound");

    cloud.create(json!([{ "name": "a", "type": "INT64" }])).await;

    let (_, table) = cloud.call(Method::GET, TABLE, json!({})).await;
    assert_eq!(table["schema"]["fields"][0]["type"], "INTEGER");
    let body = json!({ "tableReference": { "tableId": "t" } });
    let (again, _) = cloud.call(Method::POST, "projects/p/datasets/d/tables", body).await;
    assert_eq!(again, StatusCode::CONFLICT);
    let (_, listed) = cloud.call(Method::GET, "projects/p/datasets/d/tables", json!({})).await;
    assert_eq!(listed["totalItems"], 1);
    assert_eq!(cloud.call(Method::DELETE, TABLE, json!({})).await.0, StatusCode::NO_CONTENT);
    assert_eq!(cloud.call(Method::GET, TABLE, json!({})).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_column_can_be_added_and_none_changed() {
    let cloud = Cloud::start().await;
    cloud.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    cloud.insert(json!([{ "json": { "a": 1 } }])).await;

    let added = json!({ "schema": { "fields": [
        { "name": "a", "type": "INTEGER" }, { "name": "b", "type": "STRING" }] } });
    assert_eq!(cloud.call(Method::PATCH, TABLE, added).await.0, StatusCode::OK);
    let changed = json!({ "schema": { "fields": [
        { "name": "a", "type": "STRING" }, { "name": "b", "type": "STRING" }] } });
    assert_eq!(cloud.call(Method::PATCH, TABLE, changed).await.0, StatusCode::BAD_REQUEST);

    cloud.insert(json!([{ "json": { "a": 2, "b": "two" } }])).await;
    assert_eq!(cloud.rows().await, [json!(["1", null]), json!(["2", "two"])]);
}

#[tokio::test]
async fn values_come_back_in_their_normal_form() {
    let cloud = Cloud::start().await;
    let kinds = [
        ("INTEGER", json!("42"), json!("42")),
        ("FLOAT", json!(1.5), json!("1.5")),
        ("BOOLEAN", json!("true"), json!("true")),
        ("STRING", json!("123"), json!("123")),
        ("NUMERIC", json!("1.50"), json!("1.5")),
        ("BYTES", json!("aGk="), json!("aGk=")),
        ("BYTES", json!("aG k\n"), json!("aGk=")),
        ("DATE", json!("2025-06-15"), json!("2025-06-15")),
        ("TIME", json!("10:00:00"), json!("10:00:00.000000")),
        ("DATETIME", json!("2025-06-15 10:00:00"), json!("2025-06-15T10:00:00.000000")),
        ("TIMESTAMP", json!("2025-06-15T12:00:00.5+02:00"), json!("1749981600.500000")),
        ("JSON", json!("{\"a\": [1]}"), json!("{\"a\":[1]}")),
    ];
    let fields = kinds.iter().enumerate();
    let fields = fields.map(|(at, (kind, ..))| json!({ "name": format!("c{at}"), "type": kind }));
    cloud.create(fields.collect()).await;
    let row = kinds.iter().enumerate().map(|(at, (_, given, _))| (format!("c{at}"), given.clone()));

    let answer = cloud.insert(json!([{ "json": row.collect::<serde_json::Map<_, _>>() }])).await;

    assert_eq!(answer.get("insertErrors"), None, "{answer}");
    let expected: Vec<_> = kinds.iter().map(|(.., expected)| expected.clone()).collect();
    assert_eq!(cloud.rows().await, [Value::from(expected)]);
}

#[tokio::test]
async fn a_bad_row_stops_its_neighbours_in_googles_words() {
    let cloud = Cloud::start().await;
    cloud
        .create(json!([{ "name": "a", "type": "INTEGER" },
                       { "name": "b", "type": "STRING", "mode": "REQUIRED" }]))
        .await;

    let answer = cloud
        .insert(json!([
            { "json": { "a": "x", "b": "" } },
            { "json": { "a": 1, "b": "" } },
            { "json": { "b": "", "c": 1 } },
            { "json": { "a": 1 } },
        ]))
        .await;

    let reasons: Vec<_> = answer["insertErrors"].as_array().unwrap().iter().collect();
    let error = |at: usize, key: &str| reasons[at]["errors"][0][key].as_str().unwrap().to_owned();
    assert_eq!(error(0, "message"), "Cannot convert value to integer (bad value): x");
    assert_eq!(error(0, "location"), "a");
    assert_eq!(error(1, "reason"), "stopped");
    assert_eq!(error(2, "message"), "no such field: c.");
    assert_eq!(error(3, "message"), "Missing required field: b.");
    assert_eq!(cloud.rows().await.len(), 0);
}

#[tokio::test]
async fn a_row_with_a_known_insert_id_is_taken_once() {
    let cloud = Cloud::start().await;
    cloud.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    let row = |id| json!([{ "insertId": id, "json": { "a": 1 } }]);

    for id in [json!("x"), json!("x"), json!(7), json!("7")] {
        cloud.insert(row(id)).await;
    }

    assert_eq!(cloud.rows().await.len(), 2);
}

#[tokio::test]
async fn queries_reach_into_records_lists_and_json() {
    let cloud = Cloud::start().await;
    cloud
        .create(json!([
            { "name": "id", "type": "STRING" },
            { "name": "place", "type": "RECORD", "fields": [{ "name": "city", "type": "STRING" }] },
            { "name": "tags", "type": "STRING", "mode": "REPEATED" },
            { "name": "rest", "type": "JSON" },
        ]))
        .await;
    let answer = cloud
        .insert(json!([
            { "json": { "id": "1", "place": { "city": "A" }, "tags": ["x", "y"], "rest": "{\"n\":7}" } },
            { "json": { "id": "2", "place": { "city": "B" }, "tags": [], "rest": "{}" } },
        ]))
        .await;
    assert_eq!(answer.get("insertErrors"), None, "{answer}");

    let queries = [
        ("SELECT place.city FROM `p.d.t` WHERE t.id = \"2\"", json!([["B"]])),
        ("SELECT COUNT(*) FROM d.t AS x WHERE x.place.city = 'A'", json!([["1"]])),
        (
            "SELECT id, tag FROM d.t, UNNEST(tags) AS tag ORDER BY tag",
            json!([["1", "x"], ["1", "y"]]),
        ),
        (
            "SELECT ARRAY_LENGTH(tags), JSON_VALUE(rest, '$.n') FROM d.t WHERE id = '1'",
            json!([["2", "7"]]),
        ),
        (
            "SELECT CAST(id AS INT64) + 1 FROM `p`.`d`.`t` -- all of them\n ORDER BY 1",
            json!([["2"], ["3"]]),
        ),
        (
            "SELECT tags, place FROM d.t WHERE id = '1'",
            json!([[[{ "v": "x" }, { "v": "y" }], { "f": [{ "v": "A" }] }]]),
        ),
    ];
    for (query, expected) in queries {
        assert_eq!(json!(cloud.query(query).await), expected, "{query}");
    }
    let body = json!({ "query": "SELECT * FROM d.none" });
    let (status, answer) = cloud.call(Method::POST, "projects/p/queries", body).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    let body = json!({ "query": "SELECT 1; SELECT 2" });
    let (status, _) = cloud.call(Method::POST, "projects/p/queries", body).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn appended_rows_equal_inserted_ones() {
    let cloud = Cloud::start().await;
    cloud
        .create(json!([
            { "name": "n", "type": "INTEGER" },
            { "name": "at", "type": "TIMESTAMP" },
            { "name": "price", "type": "NUMERIC" },
            { "name": "tags", "type": "INTEGER", "mode": "REPEATED" },
            { "name": "place", "type": "RECORD", "fields": [{ "name": "city", "type": "STRING" }] },
        ]))
        .await;
    let mut tags = ListBuilder::new(Int64Builder::new());
    tags.append_value([Some(1), Some(2)]);
    let city: ArrayRef = Arc::new(StringArray::from(vec!["A"]));
    let place = StructArray::from(vec![(Arc::new(Field::new("city", DataType::Utf8, true)), city)]);
    let at = TimestampMicrosecondArray::from(vec![1_749_981_600_500_000]).with_timezone("UTC");
    let price = Decimal128Array::from(vec![1_500_000_000]).with_precision_and_scale(38, 9).unwrap();
    let rows = batch(vec![
        ("n", Arc::new(Int64Array::from(vec![7])) as ArrayRef),
        ("at", Arc::new(at)),
        ("price", Arc::new(price)),
        ("tags", Arc::new(tags.finish())),
        ("place", Arc::new(place)),
    ]);
    let row = json!({ "n": 7, "at": "2025-06-15T10:00:00.5Z", "price": "1.5", "tags": [1, 2],
                      "place": { "city": "A" } });
    cloud.insert(json!([{ "json": row }])).await;

    cloud.writer(&rows).await.append(rows_of(&rows)).send().await.unwrap();

    let rows = cloud.rows().await;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], rows[1]);
}

#[tokio::test]
async fn row_errors_name_the_rows_and_nothing_is_written() {
    let cloud = Cloud::start().await;
    cloud.create(json!([{ "name": "doc", "type": "JSON" }])).await;
    let rows = batch(vec![("doc", Arc::new(StringArray::from(vec!["{}", "{", "1"])) as ArrayRef)]);

    let refused = cloud.writer(&rows).await.append(rows_of(&rows)).send().await.unwrap_err();

    let AppendError::RowErrors { row_errors, .. } = refused else { panic!("{refused}") };
    assert_eq!(row_errors.iter().map(|error| error.index).collect::<Vec<_>>(), [1]);
    assert_eq!(cloud.rows().await.len(), 0);
}

#[tokio::test]
async fn a_schema_that_has_more_columns_is_refused_until_the_table_has_them() {
    let cloud = Cloud::start().await;
    cloud.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    let old = batch(vec![("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let new = batch(vec![
        ("a", Arc::new(Int64Array::from(vec![2])) as ArrayRef),
        ("b", Arc::new(StringArray::from(vec!["x"]))),
    ]);
    let writer = cloud.writer(&old).await;
    assert_eq!(writer.append(rows_of(&old)).send().await.unwrap().updated_schema, None);

    let refused = cloud.writer(&new).await.append(rows_of(&new)).send().await.unwrap_err();
    assert!(refused.to_string().contains("more fields than BigQuery schema"), "{refused}");
    let added = json!({ "schema": { "fields": [
        { "name": "a", "type": "INTEGER" }, { "name": "b", "type": "STRING" }] } });
    cloud.call(Method::PATCH, TABLE, added).await;
    cloud.writer(&new).await.append(rows_of(&new)).send().await.unwrap();

    let told = writer.append(rows_of(&old)).send().await.unwrap().updated_schema.unwrap();
    assert_eq!(told.fields.len(), 2);
    let expected = [json!(["1", null]), json!(["2", "x"]), json!(["1", null])];
    assert_eq!(cloud.rows().await, expected);
}

#[tokio::test]
async fn a_request_without_a_required_column_is_refused_as_a_whole() {
    let cloud = Cloud::start().await;
    cloud
        .create(json!([{ "name": "a", "type": "INTEGER" },
                       { "name": "b", "type": "STRING", "mode": "REQUIRED" }]))
        .await;
    let rows = batch(vec![("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);

    let refused = cloud.writer(&rows).await.append(rows_of(&rows)).send().await.unwrap_err();

    assert!(matches!(refused, AppendError::Rpc { .. }), "{refused:?}");
    assert!(refused.to_string().contains("required field b is missing"), "{refused}");
}

#[tokio::test]
async fn a_request_of_more_than_20_mib_is_refused_in_googles_words() {
    let cloud = Cloud::start().await;
    cloud.create(json!([{ "name": "a", "type": "STRING" }])).await;
    let text = "x".repeat(21 * 1024 * 1024);
    let rows = batch(vec![("a", Arc::new(StringArray::from(vec![text])) as ArrayRef)]);

    let refused = cloud.writer(&rows).await.append(rows_of(&rows)).send().await.unwrap_err();

    let AppendError::Rpc { source, .. } = &refused else { panic!("{refused:?}") };
    let status = source.status().unwrap();
    assert_eq!(status.code as i32, Code::InvalidArgument as i32);
    assert!(status.message.starts_with("AppendRows request too large"), "{}", status.message);
}

#[tokio::test]
async fn fields_that_are_not_given_have_their_defaults() {
    let cloud = Cloud::start().await;
    let default = json!("'x'");
    cloud
        .create(json!([{ "name": "a", "type": "INTEGER" },
            { "name": "b", "type": "STRING", "mode": "REQUIRED", "defaultValueExpression": default },
            { "name": "c", "type": "STRING", "defaultValueExpression": default }]))
        .await;

    let answer = cloud.insert(json!([{ "json": { "a": 1, "c": null } }])).await;

    assert_eq!(answer.get("insertErrors"), None, "{answer}");
    assert_eq!(cloud.rows().await, [json!(["1", "x", null])]);
}

#[tokio::test]
async fn a_default_that_does_not_fit_its_field_is_refused() {
    let cloud = Cloud::start().await;
    let fields = |default: &str| json!({ "fields": [{ "name": "a", "type": "INTEGER", "defaultValueExpression": default }] });
    cloud.create(json!([{ "name": "a", "type": "INTEGER" }])).await;

    let (status, answer) =
        cloud.call(Method::PATCH, TABLE, json!({ "schema": fields("'x'") })).await;

    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(answer.to_string().contains("default value expression 'x' of field a"), "{answer}");
    for fits in ["7", "NULL", "ABS(7)"] {
        let taken = cloud.call(Method::PATCH, TABLE, json!({ "schema": fields(fits) })).await;
        assert_eq!(taken.0, StatusCode::OK, "{taken:?}");
    }
}

#[tokio::test]
async fn a_view_has_a_query_and_no_schema() {
    let cloud = Cloud::start().await;
    cloud
        .create(json!([{ "name": "a", "type": "INTEGER" }, { "name": "b", "type": "INTEGER" }]))
        .await;
    cloud.insert(json!([{ "json": { "a": 1, "b": 2 } }])).await;
    let (tables, of) = ("projects/p/datasets/d/tables", json!({ "tableId": "v" }));
    let query = |column| json!({ "query": format!("SELECT {column} FROM `p.d.t`") });
    let schema = json!({ "fields": [{ "name": "a", "type": "INTEGER" }] });

    let with_schema = json!({ "tableReference": of, "view": query("a"), "schema": schema });
    let (status, answer) = cloud.call(Method::POST, tables, with_schema).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let view = json!({ "tableReference": of, "view": query("a") });
    let (status, answer) = cloud.call(Method::POST, tables, view).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let path = format!("{tables}/v");
    let (status, answer) = cloud.call(Method::PATCH, &path, json!({ "view": query("none") })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert_eq!(cloud.query("SELECT * FROM d.v").await, [json!(["1"])], "it is as it was");
    cloud.call(Method::PATCH, &path, json!({ "view": query("b") })).await;

    assert_eq!(cloud.query("SELECT * FROM d.v").await, [json!(["2"])]);
}

#[tokio::test]
async fn a_table_that_requires_a_filter_is_not_queried_without() {
    let cloud = Cloud::start().await;
    let fields = json!([{ "name": "day", "type": "DATE" }, { "name": "n", "type": "INTEGER" }]);
    let table = json!({ "tableReference": { "tableId": "t" }, "requirePartitionFilter": true,
        "timePartitioning": { "type": "DAY", "field": "day" }, "schema": { "fields": fields } });
    cloud.call(Method::POST, "projects/p/datasets/d/tables", table).await;

    for (query, expected) in [
        ("SELECT n FROM d.t", StatusCode::BAD_REQUEST),
        ("SELECT n FROM d.t WHERE n = 1", StatusCode::BAD_REQUEST),
        ("SELECT n FROM d.t WHERE day = '2025-01-01'", StatusCode::OK),
    ] {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = cloud.call(Method::POST, "projects/p/queries", body).await;
        assert_eq!(status, expected, "{query}: {answer}");
    }
}

#[tokio::test]
async fn a_missing_table_and_faults_end_the_stream() {
    let cloud = Cloud::start().await;
    let rows = batch(vec![("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let missing = cloud.writer(&rows).await.append(rows_of(&rows)).send().await.unwrap_err();
    assert!(missing.to_string().contains("not found"), "{missing}");
    cloud.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    let writer = cloud.writer(&rows).await;

    cloud.emulator.faults().refuse("AppendRows", 1, Code::PermissionDenied);
    assert!(writer.append(rows_of(&rows)).send().await.is_err());
    cloud.emulator.faults().lose_reply("AppendRows", 1);
    assert!(writer.append(rows_of(&rows)).send().await.is_err());
    let kind = Kind::RefuseRow;
    let fault =
        Fault { method: "AppendRows".into(), topic: None, count: 1, for_millis: None, kind };
    cloud.emulator.faults().add(fault);
    let refused = writer.append(rows_of(&rows)).send().await;
    assert!(format!("{refused:?}").contains("refused on demand"), "{refused:?}");
    writer.append(rows_of(&rows)).send().await.unwrap();

    assert_eq!(cloud.rows().await.len(), 2, "the lost reply's row, and the last one");
}

#[tokio::test]
async fn rows_and_views_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    // A missing folder is created.
    let data_dir = folder.path().join("cloud");
    let options = || Options { data_dir: Some(data_dir.clone()), ..Options::default() };
    let cloud = Cloud::open(options()).await;
    cloud.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    cloud.insert(json!([{ "json": { "a": 1 } }, { "json": { "a": 1 } }])).await;
    let view = json!({ "tableReference": { "tableId": "once" }, "view": {
        "query": "SELECT a FROM (SELECT a, ROW_NUMBER() OVER (PARTITION BY a) AS n FROM `p.d.t`) WHERE n = 1",
        "useLegacySql": false } });
    let (status, answer) = cloud.call(Method::POST, "projects/p/datasets/d/tables", view).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    cloud.emulator.shutdown().await;

    let again = Cloud::open(options()).await;

    assert_eq!(again.rows().await.len(), 2);
    assert_eq!(json!(again.query("SELECT * FROM d.once").await), json!([["1"]]));
}
