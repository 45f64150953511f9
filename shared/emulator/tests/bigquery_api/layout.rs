//! Tests of tables that Google refuses, and of metadata of large tables.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::Tables;

#[tokio::test]
async fn tables_that_google_cannot_have_are_refused() {
    let tables = Tables::start().await;
    let fields = json!([{ "name": "day", "type": "DATE" }, { "name": "f", "type": "FLOAT" }]);
    let by_day = json!({ "type": "DAY", "field": "day" });

    for (member, value) in [
        ("clustering", json!({ "fields": ["nope"] })),
        ("clustering", json!({ "fields": ["f"] })),
        ("timePartitioning", json!({ "type": "DAY", "field": "f" })),
        ("schema", json!({ "fields": [{ "name": "a.b", "type": "STRING" }] })),
    ] {
        let mut table =
            json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": fields } });
        table[member] = value.clone();
        let (status, answer) = tables.call(Method::POST, "datasets/d/tables", table).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{value}: {answer}");
        assert_eq!(answer["error"]["errors"][0]["reason"], "invalid");
    }
    tables.create(fields).await;
    let changed = tables.patch(json!({ "timePartitioning": by_day })).await;
    assert_eq!(changed.0, StatusCode::BAD_REQUEST, "{changed:?}");
}

#[tokio::test]
async fn what_a_change_of_partitions_leaves_out_stays() {
    let tables = Tables::start().await;
    let table = json!({ "tableReference": { "tableId": "t" },
        "timePartitioning": { "type": "DAY", "field": "day" },
        "schema": { "fields": [{ "name": "day", "type": "DATE" }] } });
    tables.call(Method::POST, "datasets/d/tables", table).await;

    let expires = json!({ "timePartitioning": { "expirationMs": "1000" } });
    let (status, changed) = tables.patch(expires).await;
    let (other, _) = tables.patch(json!({ "timePartitioning": { "type": "MONTH" } })).await;

    assert_eq!((status, other), (StatusCode::OK, StatusCode::BAD_REQUEST));
    let expected = json!({ "type": "DAY", "field": "day", "expirationMs": "1000" });
    assert_eq!(changed["timePartitioning"], expected);
}

#[tokio::test]
async fn metadata_tell_of_many_columns_and_of_a_region() {
    let tables = Tables::start().await;
    let fields = (0..501).map(|at| json!({ "name": format!("c{at}"), "type": "STRING" }));
    tables.create(fields.collect()).await;

    let of_dataset = "SELECT COUNT(*) FROM d.INFORMATION_SCHEMA.COLUMNS";
    let of_region = "SELECT COUNT(*) FROM `p.region-us`.INFORMATION_SCHEMA.COLUMNS";

    assert_eq!(tables.query(of_dataset).await, json!([["501"]]));
    assert_eq!(tables.query(of_region).await, json!([["501"]]));
}
