//! Tests of lists of tables, datasets, jobs and rows.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::{Tables, values};

#[tokio::test]
async fn lists_of_tables_tell_their_types_and_filters_are_not_ignored() {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    let view =
        json!({ "tableReference": { "tableId": "v" }, "view": { "query": "SELECT a FROM d.t" } });
    tables.call(Method::POST, "datasets/d/tables", view).await;
    let get = async |path: &str| tables.call(Method::GET, path, json!({})).await;

    let (_, listed) = get("datasets/d/tables").await;
    let shown = |at: usize| {
        (listed["tables"][at]["type"].clone(), listed["tables"][at].get("creationTime").is_some())
    };
    assert_eq!([shown(0), shown(1)], [(json!("TABLE"), true), (json!("VIEW"), true)]);
    let (status, answer) = get("datasets?filter=labels.x:y").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{answer}");

    tables.query("SELECT 1").await;
    let count =
        async |times: &str| get(&format!("jobs?{times}")).await.1["jobs"].as_array().unwrap().len();
    assert_eq!(count("minCreationTime=1000").await, 1);
    assert_eq!(count("maxCreationTime=1000").await, 0);
    assert_eq!(count("minCreationTime=99999999999999").await, 0);
    assert_eq!(get("jobs?minCreationTime=x").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn rows_of_a_result_have_the_selected_fields_alone() {
    let tables = Tables::start().await;
    let body = json!({ "configuration": { "query": { "query": "SELECT 1 AS a, 'x' AS b", "useLegacySql": false } } });
    let (_, job) = tables.call(Method::POST, "jobs", body).await;
    let table = &job["configuration"]["query"]["destinationTable"];
    let text = |key: &str| table[key].as_str().unwrap().to_owned();
    let path = format!("datasets/{}/tables/{}/data", text("datasetId"), text("tableId"));

    let (_, all) = tables.call(Method::GET, &path, json!({})).await;
    let (_, one) = tables.call(Method::GET, &format!("{path}?selectedFields=b"), json!({})).await;
    let (status, _) =
        tables.call(Method::GET, &format!("{path}?selectedFields=c"), json!({})).await;

    assert_eq!((values(&all), values(&one)), (json!([["1", "x"]]), json!([["x"]])));
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
