//! Tests of requests that BigQuery refuses as a whole.

use bigqueries::config::Api;
use bigqueries::reasons;
use bigqueries::sink::{EncodedBatch, Sink};
use emulator::{Fault, Kind as FaultKind, Profile};
use pipeline::{Recovery, Sink as _};
use rows::cell::Cell;
use rows::column::{Column, Kind};
use serde_json::json;
use tokio::time::timeout;
use tonic::Code;

use crate::{BOTH, Cloud, TIME_LIMIT, encode, settings};

/// Number of requests that are refused.
const REFUSALS: u64 = 20;

#[tokio::test]
async fn a_request_that_is_refused_without_row_errors_waits_as_a_whole() {
    for api in BOTH {
        let cloud = Cloud::start().await;
        let columns = [Column::new("n", Kind::Int64)];
        cloud.table(&columns, settings()).await.unwrap();
        let sink = cloud.sink(api, &columns).await;
        // This connection has written rows, so it knows the columns.
        let first = encode(&sink, vec![vec![Cell::Int(0)]]);
        assert_eq!(sink.write(&first, TIME_LIMIT).await.unwrap(), []);
        let rows = encode(&sink, (0..3).map(|n| vec![Cell::Int(n)]).collect());
        let method = match api {
            Api::StorageWrite => "AppendRows",
            Api::InsertAll => "bigquery.tabledata.insertAll",
        };
        cloud.emulator.faults().refuse(method, REFUSALS, Code::InvalidArgument);

        for _ in 0..REFUSALS {
            let error = sink.write(&rows, TIME_LIMIT).await.unwrap_err();
            assert_eq!(error.recovery(), Recovery::Retry, "{api:?}: {error:#}");
        }

        assert_eq!(cloud.emulator.faults().planned(), [], "one request for each attempt");
        assert_eq!(sink.write(&rows, TIME_LIMIT).await.unwrap(), []);
        assert_eq!(cloud.rows("SELECT COUNT(DISTINCT n) FROM d.t").await, [json!(["3"])]);
    }
}

/// Plans an error of the next append.
fn fail_append(cloud: &Cloud, code: Code, storage_error: Option<&str>, ends_stream: bool) {
    let (storage_error, message) = (storage_error.map(str::to_owned), Some("too large".into()));
    let kind = FaultKind::AppendError { code: code.into(), storage_error, message, ends_stream };
    cloud.emulator.faults().add(Fault {
        method: "AppendRows".into(),
        topic: None,
        count: 1,
        for_millis: None,
        kind,
    });
}

#[tokio::test]
async fn an_error_in_an_answer_keeps_the_connection() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    cloud.table(&columns, settings()).await.unwrap();
    let sink = cloud.sink(Api::StorageWrite, &columns).await;
    let rows = encode(&sink, vec![vec![Cell::Int(1)]]);

    fail_append(&cloud, Code::ResourceExhausted, None, false);
    let error = sink.write(&rows, TIME_LIMIT).await.unwrap_err();
    assert_eq!(error.recovery(), Recovery::Retry);
    // Only streams that are still open are ended.
    let profile = Profile { append_idle_millis: Some(1), ..Profile::default() };
    cloud.emulator.set_profile(profile);

    let ended = async {
        while cloud.emulator.faults().ended().get("AppendRows") != Some(&1) {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIME_LIMIT, ended).await.expect("the connection was closed");
    cloud.emulator.set_profile(Profile::default());
    assert_eq!(sink.write(&rows, TIME_LIMIT).await.unwrap(), []);
}

#[tokio::test]
async fn a_storage_error_decides_against_the_text_of_a_refusal() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("s", Kind::String)];
    cloud.table(&columns, settings()).await.unwrap();
    let sink = cloud.sink(Api::StorageWrite, &columns).await;
    let large = || vec![Cell::Text("x".repeat(600_000))];
    let rows = encode(&sink, vec![large(), large()]);

    for (storage_error, expected) in [
        (Some("SCHEMA_MISMATCH_EXTRA_FIELDS"), Recovery::Retry),
        (None, Recovery::Reject(reasons::REQUEST_TOO_LARGE)),
    ] {
        fail_append(&cloud, Code::InvalidArgument, storage_error, true);
        let error = sink.write(&rows, TIME_LIMIT).await.unwrap_err();
        assert_eq!(error.recovery(), expected, "{storage_error:?}: {error:#}");
    }

    assert_eq!(sink.write(&rows, TIME_LIMIT).await.unwrap(), []);
}

#[tokio::test]
async fn a_required_column_that_came_later_refuses_no_row() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    let fields = json!([{ "name": "n", "type": "INTEGER" },
        { "name": "later", "type": "STRING", "mode": "REQUIRED" }]);
    let table = json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": fields } });
    cloud.post("projects/p/datasets/d/tables", &table).await;
    let sink = cloud.sink(Api::InsertAll, &columns).await;

    let error = sink.write(&encode(&sink, vec![vec![Cell::Int(1)]]), TIME_LIMIT).await.unwrap_err();

    assert_eq!(error.recovery(), Recovery::Retry);
    assert!(error.detail().contains("Missing required field: later."), "{}", error.detail());
}

/// Creates a table, and a request of a good row and a bad one. Only BigQuery notices that the time
/// of the second row is after the year 9999.
async fn with_a_bad_row(api: Api) -> (Cloud, Sink, EncodedBatch) {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64), Column::new("at", Kind::Timestamp)];
    cloud.table(&columns, settings()).await.unwrap();
    let sink = cloud.sink(api, &columns).await;
    let rows = [0, i64::MAX].map(|at| vec![Cell::Int(1), Cell::Micros(at)]);
    let rows = encode(&sink, rows.to_vec());
    (cloud, sink, rows)
}

#[tokio::test]
async fn a_table_that_was_replaced_refuses_no_row() {
    for api in BOTH {
        let (cloud, sink, rows) = with_a_bad_row(api).await;
        let fields = |of_n: &str| json!([{ "name": "n", "type": of_n }, { "name": "at", "type": "TIMESTAMP" }]);
        cloud.replace(&fields("BOOLEAN")).await;

        let error = sink.write(&rows, TIME_LIMIT).await.unwrap_err();

        assert_eq!(error.recovery(), Recovery::Retry, "{api:?}: {error:#}");
        cloud.replace(&fields("INTEGER")).await;
        let refusals = sink.write(&rows, TIME_LIMIT).await.unwrap();
        assert_eq!(refusals.iter().map(|refusal| refusal.index).collect::<Vec<_>>(), [1]);
    }
}

#[tokio::test]
async fn no_row_is_refused_while_the_table_cannot_be_looked_at() {
    for api in BOTH {
        let (cloud, sink, rows) = with_a_bad_row(api).await;
        cloud.emulator.faults().refuse("bigquery.tables.get", 2, Code::Unavailable);

        for _ in 0..2 {
            let error = sink.write(&rows, TIME_LIMIT).await.unwrap_err();

            assert_eq!(error.recovery(), Recovery::Retry, "{api:?}: {error:#}");
            assert!(error.detail().contains("it is not known if it fits its rows"), "{error:#}");
        }

        assert_eq!(cloud.emulator.faults().planned(), []);
        let refusals = sink.write(&rows, TIME_LIMIT).await.unwrap();
        assert_eq!(refusals.iter().map(|refusal| refusal.index).collect::<Vec<_>>(), [1]);
        assert_eq!(cloud.rows("SELECT COUNT(*) FROM d.t").await, [json!(["1"])]);
    }
}
