//! Tests of denied permissions, and of repeated requests.

use emulator::{Fault, Kind, Profile};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::Tables;

fn without(permission: &str) -> Profile {
    Profile { denied: [permission.to_owned()].into(), ..Profile::default() }
}

#[tokio::test]
async fn statements_need_the_permissions_of_what_they_do() {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "a", "type": "INTEGER" }])).await;

    for (permission, query) in [
        ("bigquery.jobs.create", "SELECT 1"),
        ("bigquery.tables.getData", "SELECT a FROM d.t"),
        ("bigquery.tables.updateData", "INSERT d.t VALUES (1)"),
        ("bigquery.tables.updateData", "TRUNCATE TABLE d.t"),
        ("bigquery.tables.create", "CREATE TABLE d.u (a INT64)"),
        ("bigquery.tables.delete", "DROP TABLE d.t"),
        ("bigquery.datasets.create", "CREATE SCHEMA x"),
    ] {
        tables.emulator.set_profile(without(permission));
        let (status, answer) = tables.refused(query).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{query}: {answer}");
        let job =
            json!({ "configuration": { "query": { "query": query, "useLegacySql": false } } });
        let (_, job) = tables.call(Method::POST, "jobs", job).await;
        assert!(job.to_string().contains("accessDenied"), "{query}: {job}");
    }

    tables.emulator.set_profile(Profile::default());
    assert_eq!(tables.query("SELECT a FROM d.t").await, json!([]));
}

/// Google refuses the tags even if they are those that the table has
/// (<https://github.com/googleapis/python-bigquery/issues/981>).
#[tokio::test]
async fn policy_tags_need_a_permission_of_their_own() {
    let tables = Tables::start().await;
    let plain = json!({ "name": "a", "type": "STRING" });
    let tagged = json!({ "name": "a", "type": "STRING", "policyTags": { "names": ["t"] } });
    let schema = |field| json!({ "schema": { "fields": [field] } });
    tables.create(json!([tagged])).await;
    tables.emulator.set_profile(without("bigquery.tables.setCategory"));

    let (status, answer) = tables.patch(schema(&tagged)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert!(answer.to_string().contains("bigquery.tables.setCategory"), "{answer}");
    let nested = json!({ "name": "r", "type": "RECORD", "fields": [tagged] });
    let table = json!({ "tableReference": { "tableId": "u" }, "schema": { "fields": [nested] } });
    let (status, answer) = tables.call(Method::POST, "datasets/d/tables", table).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");

    let (status, answer) = tables.patch(schema(&plain)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let kept = &answer["schema"]["fields"][0]["policyTags"];
    assert_eq!(kept, &tagged["policyTags"], "the table keeps them");
}

#[tokio::test]
async fn a_request_that_comes_twice_is_carried_out_once() {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    let insert = |id: &str| json!({ "query": "INSERT d.t VALUES (1)", "useLegacySql": false, "requestId": id });

    let (_, first) = tables.call(Method::POST, "queries", insert("x")).await;
    let (_, again) = tables.call(Method::POST, "queries", insert("x")).await;
    tables.call(Method::POST, "queries", insert("y")).await;

    assert_eq!(first, again);
    assert_eq!(tables.query("SELECT COUNT(*) FROM d.t").await, json!([["2"]]));
}

#[tokio::test]
async fn a_fault_says_when_to_come_again() {
    let tables = Tables::start().await;
    let kind = Kind::Refuse { code: 14, retry_after: Some(2), reason: None, message: None };
    let method = "bigquery.datasets.list".to_owned();
    tables.emulator.faults().add(Fault { method, topic: None, count: 1, for_millis: None, kind });

    let url = format!("{}/bigquery/v2/projects/p/datasets", tables.emulator.url());
    let refused = tables.client.get(url).send().await.unwrap();

    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "2");
}

#[tokio::test]
async fn errors_of_credentials_and_of_time_have_googles_reasons() {
    let tables = Tables::start().await;

    for (code, http, reason, location) in
        [(16, 401, "authError", json!("Authorization")), (4, 504, "backendError", json!(null))]
    {
        let kind = Kind::Refuse { code, retry_after: None, reason: None, message: None };
        let method = "bigquery.datasets.list".to_owned();
        let fault = Fault { method, topic: None, count: 1, for_millis: None, kind };
        tables.emulator.faults().add(fault);

        let (status, answer) = tables.call(Method::GET, "datasets", json!({})).await;

        let error = &answer["error"]["errors"][0];
        assert_eq!((status.as_u16(), &error["reason"]), (http, &json!(reason)));
        assert_eq!(error["location"], location, "{answer}");
    }
}
