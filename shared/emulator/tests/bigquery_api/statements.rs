//! Tests of statements that Google refuses, and of columns with names that SQLite uses itself.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::{Tables, values};

/// Creates a table `d.t`, a table `d.u` and a view `d.v`.
async fn start() -> Tables {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    tables.query("INSERT d.t VALUES (1), (2)").await;
    tables.query("CREATE TABLE d.u AS SELECT 1 AS a").await;
    let view = json!({ "tableReference": { "tableId": "v" }, "view": { "query": "SELECT a FROM `p.d.t`" } });
    tables.call(Method::POST, "datasets/d/tables", view).await;
    tables
}

#[tokio::test]
async fn statements_that_google_refuses_are_not_carried_out_in_part() {
    let tables = start().await;

    for query in [
        "TRUNCATE TABLE d.t WHERE a = 1",
        "TRUNCATE d.t",
        "DROP VIEW d.t",
        "DROP TABLE d.v",
        "DROP TABLE d.t, d.u",
        "DROP TABLE IF d.t",
        "DELETE FROM d.t, d.u WHERE TRUE",
        "UPDATE d.t, d.u SET a = 5 WHERE TRUE",
        "CREATE TABLE IF NOT d.w (a INT64)",
        "CREATE OR REPLACE TABLE d.v AS SELECT 5 AS a",
        "MERGE d.t USING d.u ON TRUE WHEN THEN AND",
        "MERGE d.t USING d.u ON TRUE WHEN MATCHED OR TRUE THEN DELETE",
        "SELECT CASE WHEN a THEN f ( ELSE )",
    ] {
        let (status, answer) = tables.refused(query).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {answer}");
    }

    assert_eq!(tables.query("SELECT a FROM d.v ORDER BY a").await, json!([["1"], ["2"]]));
    assert_eq!(tables.query("SELECT a FROM d.u").await, json!([["1"]]));
    tables.query("DROP VIEW IF EXISTS d.v").await;
    tables.query("DELETE FROM d.t AS x WHERE x.a = 1").await;
    tables.query("TRUNCATE TABLE d.u").await;
    assert_eq!(tables.query("SELECT a FROM d.t").await, json!([["2"]]));
}

#[tokio::test]
async fn a_dry_run_of_ddl_is_checked_and_changes_nothing() {
    let tables = start().await;
    let dry = async |query: &str| {
        let body = json!({ "query": query, "useLegacySql": false, "dryRun": true });
        tables.call(Method::POST, "queries", body).await.0
    };

    for (query, expected) in [
        ("CREATE SCHEMA x", StatusCode::OK),
        ("CREATE TABLE d.w AS SELECT 1 AS a", StatusCode::OK),
        ("CREATE OR REPLACE TABLE d.t AS SELECT 7 AS a", StatusCode::OK),
        ("DROP TABLE d.t", StatusCode::OK),
        ("CREATE TABLE d.t (a INT64)", StatusCode::CONFLICT),
        ("CREATE TABLE d.w (a INT64, a INT64)", StatusCode::BAD_REQUEST),
        ("DROP TABLE d.none", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(dry(query).await, expected, "{query}");
    }

    assert_eq!(tables.query("SELECT a FROM d.t ORDER BY a").await, json!([["1"], ["2"]]));
    let (status, _) = tables.call(Method::GET, "datasets/x", json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let left = "SELECT table_name FROM d.INFORMATION_SCHEMA.TABLES ORDER BY 1";
    assert_eq!(tables.query(left).await, json!([["t"], ["u"], ["v"]]));
}

#[tokio::test]
async fn columns_may_have_the_names_of_row_ids() {
    let tables = Tables::start().await;
    tables
        .create(
            json!([{ "name": "rowid", "type": "INTEGER" }, { "name": "oid", "type": "INTEGER" },
                       { "name": "x", "type": "STRING" }]),
        )
        .await;
    tables.query("INSERT d.t VALUES (5, 1, 'a'), (5, 1, 'b'), (7, 1, 'c')").await;

    tables.query("DELETE FROM d.t WHERE x = 'a'").await;
    tables.query("UPDATE d.t SET x = 'd' WHERE x = 'b'").await;

    assert_eq!(tables.query("SELECT x FROM d.t ORDER BY x").await, json!([["c"], ["d"]]));
    let (_, page) =
        tables.call(Method::GET, "datasets/d/tables/t/data?startIndex=1", json!({})).await;
    assert_eq!((values(&page), &page["totalRows"]), (json!([["7", "1", "c"]]), &json!("2")));
    let (_, refused) = tables
        .call(
            Method::POST,
            "datasets/d/tables",
            json!({ "tableReference": { "tableId": "all" }, "schema": { "fields": [
                { "name": "rowid", "type": "STRING" }, { "name": "OID", "type": "STRING" },
                { "name": "_rowid_", "type": "STRING" }] } }),
        )
        .await;
    assert!(refused.to_string().contains("tables with all of the columns"), "{refused}");
}

#[tokio::test]
async fn brackets_that_end_does_not_close_are_refused_however_many() {
    let tables = Tables::start().await;

    let (open, close) = ("COUNTIF(END ".repeat(20_000), ")".repeat(20_000));
    let (status, answer) = tables.refused(&format!("SELECT {open}1{close}")).await;

    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let (status, answer) = tables.refused(&format!("SELECT 1 {}", "END<) < ".repeat(10_000))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
}

#[tokio::test]
async fn queries_name_and_compute_columns_as_google_does() {
    let tables = start().await;
    let names = async |query: &str| {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = tables.call(Method::POST, "queries", body).await;
        assert_eq!(status, StatusCode::OK, "{query}: {answer}");
        let fields = answer["schema"]["fields"].as_array().expect("fields").clone();
        fields.iter().map(|field| json!([field["name"], field["type"]])).collect::<Vec<_>>()
    };

    let listed = "SELECT x, at FROM UNNEST([5]) AS x WITH OFFSET AS at";
    assert_eq!(names(listed).await, [json!(["x", "INTEGER"]), json!(["at", "INTEGER"])]);
    let times = "SELECT TIME(12, 30, 5) AS t, DATETIME(2025, 9, 28, 12, 30, 5) AS d,
                 DATETIME(DATE '2025-09-28', TIME '12:30:05') AS both, TIME(NULL, 1, 2) AS n";
    assert_eq!(names(times).await[0], json!(["t", "TIME"]));
    let (time, datetime) = ("12:30:05.000000", "2025-09-28T12:30:05.000000");
    let expected = json!([[time, datetime, datetime, null]]);
    assert_eq!(tables.query(times).await, expected);
    let divided = "SELECT 7 / 2 / 2, 1 / -CASE WHEN a = 1 THEN 2 ELSE 4 END FROM d.t ORDER BY a";
    assert_eq!(tables.query(divided).await, json!([["1.75", "-0.5"], ["1.75", "-0.25"]]));
    let shares = "SELECT a / SUM(a) OVER () * 3 FROM d.t ORDER BY a";
    assert_eq!(tables.query(shares).await, json!([["1.0"], ["2.0"]]));
    for (query, why) in [
        ("SELECT 1 / (a - 1) FROM d.t", "division by zero"),
        ("SELECT TIME(24, 0, 0)", "hour"),
        ("SELECT DATETIME(2025, 2, 29, 0, 0, 0)", "day"),
        ("SELECT 1 /", "Unexpected end of script"),
    ] {
        let (status, answer) = tables.refused(query).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {answer}");
        assert!(answer.to_string().contains(why), "{query}: {answer}");
    }
}
