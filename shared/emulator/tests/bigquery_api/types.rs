//! Tests of the types of computed columns.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::{Tables, types, values};

async fn start() -> Tables {
    let tables = Tables::start().await;
    tables
        .create(json!([{ "name": "a", "type": "INTEGER" }, { "name": "at", "type": "TIMESTAMP" }]))
        .await;
    tables.query("INSERT d.t VALUES (1, '2026-01-01'), (2, '2026-01-02')").await;
    tables
}

#[tokio::test]
async fn columns_keep_their_types_behind_a_star_an_alias_and_a_view() {
    let tables = start().await;
    let view = json!({ "tableReference": { "tableId": "v" },
                       "view": { "query": "SELECT a > 1 AS big, TIMESTAMP_TRUNC(at, DAY) AS at FROM d.t" } });
    let (status, created) = tables.call(Method::POST, "datasets/d/tables", view).await;
    assert_eq!(status, StatusCode::OK, "{created}");

    let expected = json!([["big", "BOOLEAN"], ["at", "TIMESTAMP"]]);
    let inner = "SELECT a > 1 AS big, TIMESTAMP_TRUNC(at, DAY) AS at FROM d.t";
    for query in [
        "SELECT * FROM d.v".to_owned(),
        format!("SELECT * FROM ({inner})"),
        format!("SELECT x.* FROM ({inner}) AS x"),
        format!("SELECT big, x.at FROM ({inner}) AS x"),
        format!("WITH w AS ({inner}), v AS (SELECT * FROM w) SELECT * FROM v"),
    ] {
        let answer = tables.answer(&format!("{query} ORDER BY at")).await;
        assert_eq!(types(&answer), expected, "{query}");
        let rows = json!([["false", "1767225600.000000"], ["true", "1767312000.000000"]]);
        assert_eq!(values(&answer), rows, "{query}");
    }
    let (_, shown) = tables.call(Method::GET, "datasets/d/tables/v", json!({})).await;
    assert_eq!(types(&shown), expected);
    let text = "SELECT a FROM (SELECT CAST(a AS STRING) AS a FROM d.t) WHERE a = '1'";
    assert_eq!(types(&tables.answer(text).await), json!([["a", "STRING"]]));
    let joined = "SELECT * FROM (SELECT a, TRUE AS yes FROM d.t) JOIN (SELECT a, DATE(at) AS day FROM d.t) USING (a)";
    let joined = types(&tables.answer(joined).await);
    assert_eq!(joined, json!([["a", "INTEGER"], ["yes", "BOOLEAN"], ["day", "DATE"]]));
}

#[tokio::test]
async fn metadata_and_items_of_lists_have_their_types() {
    let tables = start().await;

    let metadata = "SELECT * FROM d.INFORMATION_SCHEMA.TABLES";
    let found = types(&tables.answer(metadata).await);
    assert_eq!(found[5], json!(["creation_time", "TIMESTAMP"]));
    let items = tables.answer("SELECT x FROM UNNEST([TRUE, FALSE]) AS x").await;
    assert_eq!(
        (types(&items), values(&items)),
        (json!([["x", "BOOLEAN"]]), json!([["true"], ["false"]]))
    );
    let offsets =
        tables.answer("SELECT n FROM UNNEST([1]) AS x WITH OFFSET AS n WHERE x > 1").await;
    assert_eq!(types(&offsets), json!([["n", "INTEGER"]]));
}

#[tokio::test]
async fn a_bool_within_a_record_or_list_is_a_bool() {
    let tables = start().await;

    let query = "SELECT STRUCT(a > 1 AS big, NULL = 1 AS n) AS s, [a > 1, TRUE] AS l,
                 TO_JSON_STRING(a > 1) AS j, TO_JSON_STRING(STRUCT(a = 1 AS one)) AS r FROM d.t WHERE a = 1";
    let record = json!({ "f": [{ "v": "false" }, { "v": null }] });
    let list = json!([{ "v": "false" }, { "v": "true" }]);
    assert_eq!(tables.query(query).await, json!([[record, list, "false", "{\"one\":true}"]]));
    let list = json!([[[{ "v": "false" }, { "v": "true" }]]]);
    assert_eq!(tables.query("SELECT ARRAY_AGG(a > 1 ORDER BY a) FROM d.t").await, list);
}
