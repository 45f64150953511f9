//! Tests of changes that fail half-way: the tables must stay as they were.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::tables::Tables;

/// Creates a table `d.t` with three rows.
async fn three_rows() -> Tables {
    let tables = Tables::start().await;
    tables
        .create(json!([{ "name": "name", "type": "STRING" }, { "name": "age", "type": "INTEGER" }]))
        .await;
    tables.query("INSERT d.t VALUES ('a', 1), ('b', 2), ('c', 3)").await;
    tables
}

async fn has_three_rows(tables: &Tables, after: &str) {
    let rows = tables.query("SELECT name, age FROM d.t ORDER BY name").await;
    assert_eq!(rows, json!([["a", "1"], ["b", "2"], ["c", "3"]]), "{after}");
}

#[tokio::test]
async fn a_replacement_that_is_refused_leaves_the_table_as_it_was() {
    let tables = three_rows().await;

    for query in [
        "CREATE OR REPLACE TABLE d.t AS SELECT 1 AS a, 2 AS a",
        "CREATE OR REPLACE TABLE d.t (a INT64, A INT64)",
        "CREATE OR REPLACE TABLE d.t (a INT64) AS SELECT 'x' AS a",
        "CREATE TABLE d.made (a INT64) AS SELECT 'x' AS a",
    ] {
        let (status, answer) = tables.refused(query).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        has_three_rows(&tables, query).await;
    }

    tables.query("CREATE TABLE d.made (a INT64)").await;
    tables.query("CREATE OR REPLACE TABLE d.t AS SELECT 7 AS n").await;
    assert_eq!(tables.query("SELECT * FROM d.t").await, json!([["7"]]));
}

#[tokio::test]
async fn a_job_whose_rows_do_not_fit_leaves_the_table_as_it_was() {
    let tables = three_rows().await;
    let table = json!({ "projectId": "p", "datasetId": "d", "tableId": "t" });

    for disposition in ["WRITE_TRUNCATE_DATA", "WRITE_APPEND"] {
        let query = "SELECT 'x' AS name, '1' AS age UNION ALL SELECT 'y', 'none'";
        let job = json!({ "configuration": { "query": { "query": query, "useLegacySql": false,
            "destinationTable": table, "writeDisposition": disposition } } });
        let (_, answer) = tables.call(reqwest::Method::POST, "jobs", job).await;
        assert!(answer.to_string().contains("Cannot convert value to integer"), "{answer}");
        has_three_rows(&tables, disposition).await;
    }
    let job = json!({ "configuration": { "load": {
        "sourceFormat": "NEWLINE_DELIMITED_JSON",
        "destinationTable": table,
        "writeDisposition": "WRITE_TRUNCATE_DATA",
        "schema": { "fields": [{ "name": "name", "type": "STRING" }, { "name": "more", "type": "STRING" }] },
    }}});
    let answer = load(&tables, &job, "{\"name\":\"x\",\"more\":\"y\"}").await;
    assert!(answer["status"]["errorResult"].is_object(), "{answer}");
    has_three_rows(&tables, "a load").await;
}

async fn load(tables: &Tables, job: &Value, data: &str) -> Value {
    let url = format!(
        "{}/upload/bigquery/v2/projects/p/jobs?uploadType=multipart",
        tables.emulator.url()
    );
    let body = format!(
        "--b\r\ncontent-type: application/json\r\n\r\n{job}\r\n--b\r\n\
         content-type: */*\r\n\r\n{data}\r\n--b--"
    );
    let sent = tables.client.post(url).header("content-type", "multipart/related; boundary=b");
    sent.body(body).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn values_find_their_columns_whatever_the_order_of_a_schema_is() {
    let tables = Tables::start().await;
    let field = |name: &str| json!({ "name": name, "type": "STRING" });
    tables.create(json!([field("a"), field("b")])).await;
    tables.insert(&[json!({ "a": "1", "b": "2" })]).await;

    let fields = json!({ "fields": [field("b"), field("c"), field("a")] });
    let (status, answer) = tables.patch(json!({ "schema": fields })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    tables.insert(&[json!({ "a": "3", "b": "4", "c": "5" })]).await;
    tables.query("INSERT d.t VALUES ('7', '8', '6')").await;
    tables.query("DELETE d.t WHERE a = '1'").await;

    let rows = tables.query("SELECT a, b, c FROM d.t ORDER BY a").await;
    assert_eq!(rows, json!([["3", "4", "5"], ["6", "7", "8"]]));
}

#[tokio::test]
async fn a_table_that_gets_its_first_columns_later_takes_rows() {
    let tables = Tables::start().await;
    tables.create(json!([])).await;
    tables.insert(&[json!({})]).await;

    let fields = json!({ "fields": [{ "name": "a", "type": "INTEGER" }] });
    assert_eq!(tables.patch(json!({ "schema": fields })).await.0, StatusCode::OK);
    tables.insert(&[json!({ "a": 1 })]).await;

    assert_eq!(tables.query("SELECT * FROM d.t ORDER BY a").await, json!([[null], ["1"]]));
}

#[tokio::test]
async fn a_change_that_is_refused_leaves_a_table_that_takes_rows() {
    let tables = Tables::start().await;
    let field = |name: &str| json!({ "name": name, "type": "INTEGER" });
    tables.create(json!([field("a")])).await;

    for changes in [
        json!({ "schema": { "fields": [field("a"), field("Temp"), field("temp")] } }),
        json!({ "view": { "query": "SELECT 1 AS a" } }),
    ] {
        let (status, answer) = tables.patch(changes).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        tables.insert(&[json!({ "a": 1 })]).await;
    }
    let view = json!({ "tableReference": { "tableId": "v" }, "view": { "query": "SELECT a FROM `p.d.t`" } });
    tables.call(reqwest::Method::POST, "datasets/d/tables", view).await;
    let none = json!({ "view": null });
    let (status, answer) = tables.call(reqwest::Method::PATCH, "datasets/d/tables/v", none).await;

    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert_eq!(tables.query("SELECT * FROM d.v").await, json!([["1"], ["1"]]));
}
