//! Tests of the options of load jobs.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::tables::{Tables, types};

/// Loads a CSV file into the table `d.made`, and returns the answer.
async fn load(tables: &Tables, csv: &str, options: Value) -> (StatusCode, Value) {
    let mut job = json!({ "configuration": { "load": {
        "sourceFormat": "CSV", "autodetect": true, "writeDisposition": "WRITE_TRUNCATE",
        "destinationTable": { "datasetId": "d", "tableId": "made" },
    }}});
    let options = options.as_object().unwrap().clone();
    job["configuration"]["load"].as_object_mut().unwrap().extend(options);
    let url = tables.emulator.url();
    let url = format!("{url}/upload/bigquery/v2/projects/p/jobs?uploadType=multipart");
    let body = format!(
        "--x\r\ncontent-type: application/json\r\n\r\n{job}\r\n--x\r\n\
         content-type: text/csv\r\n\r\n{csv}\r\n--x--"
    );
    let sent = tables.client.post(url).header("content-type", "multipart/related; boundary=x");
    let answer = sent.body(body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test]
async fn autodetect_finds_names_in_the_last_skipped_line() {
    let tables = Tables::start().await;
    let (named, made_up) = (
        json!([["name", "STRING"], ["age", "INTEGER"]]),
        json!([["string_field_0", "STRING"], ["int64_field_1", "INTEGER"]]),
    );

    for (csv, options, columns, count) in [
        ("name,age\nx,1\n", json!({}), &named, "1"),
        ("name,age\nx,1\n", json!({ "skipLeadingRows": 1 }), &named, "1"),
        ("made today\nname,age\nx,1\n", json!({ "skipLeadingRows": "2" }), &named, "1"),
        ("x,1\ny,2\n", json!({ "skipLeadingRows": 0 }), &made_up, "2"),
        ("x,1\ny,2\n", json!({ "skipLeadingRows": 1 }), &made_up, "1"),
    ] {
        let (status, answer) = load(&tables, csv, options.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["status"].get("errorResult"), None, "{options}: {answer}");
        let rows = tables.answer("SELECT * FROM d.made").await;
        assert_eq!(types(&rows), *columns, "{csv} {options}");
        assert_eq!(rows["totalRows"], count, "{csv} {options}");
    }
    let columns = "name,age\nx,1\n";
    load(&tables, columns, json!({ "skipLeadingRows": 0 })).await;
    let text = json!([["string_field_0", "STRING"], ["string_field_1", "STRING"]]);
    assert_eq!(types(&tables.answer("SELECT * FROM d.made").await), text);
}

#[tokio::test]
async fn options_of_load_jobs_that_would_be_ignored_are_refused_by_name() {
    let tables = Tables::start().await;

    for (name, value) in [
        ("nullMarkers", json!(["-"])),
        ("timeZone", json!("Asia/Tokyo")),
        ("dateFormat", json!("DD.MM.YYYY")),
        ("fileSetSpecType", json!("FILE_SET_SPEC_TYPE_NEW_LINE_DELIMITED_MANIFEST")),
        ("referenceFileSchemaUri", json!("gs://b/o")),
        ("destinationTableProperties", json!({ "description": "x" })),
    ] {
        let (status, answer) = load(&tables, "x,1\n", json!({ name: value })).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{name}: {answer}");
        assert!(answer.to_string().contains(name), "{answer}");
    }
    let (status, answer) = load(&tables, "x,1\n", json!({ "nullMarkers": [] })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
