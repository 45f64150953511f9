//! A BigQuery with one dataset, `p.d`, over REST.

use emulator::{Emulator, Options, Profile};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

pub(crate) struct Tables {
    pub(crate) emulator: Emulator,
    pub(crate) client: reqwest::Client,
}

impl Tables {
    pub(crate) async fn start() -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let tables = Self { emulator, client: reqwest::Client::new() };
        let reference = json!({ "datasetReference": { "datasetId": "d" } });
        tables.call(Method::POST, "datasets", reference).await;
        tables
    }

    /// Calls a path below `projects/p/`.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let url = format!("{}/bigquery/v2/projects/p/{path}", self.emulator.url());
        let request = self.client.request(method.clone(), url);
        let request = if method == Method::GET { request } else { request.json(&body) };
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    pub(crate) async fn create(&self, fields: Value) {
        let body = json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": fields } });
        let (status, answer) = self.call(Method::POST, "datasets/d/tables", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// Sends a statement that must be refused, and returns the error.
    pub(crate) async fn refused(&self, query: &str) -> (StatusCode, Value) {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = self.call(Method::POST, "queries", body).await;
        assert_ne!(status, StatusCode::OK, "{query}: {answer}");
        (status, answer)
    }

    /// Adds rows to `d.t`.
    pub(crate) async fn insert(&self, rows: &[Value]) {
        let rows: Vec<_> = rows.iter().map(|row| json!({ "json": row })).collect();
        let path = "datasets/d/tables/t/insertAll";
        let (status, answer) = self.call(Method::POST, path, json!({ "rows": rows })).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer.get("insertErrors"), None, "{answer}");
    }

    /// Changes `d.t`.
    pub(crate) async fn patch(&self, changes: Value) -> (StatusCode, Value) {
        self.call(Method::PATCH, "datasets/d/tables/t", changes).await
    }

    /// Checks the values of the rows of queries.
    pub(crate) async fn expect(&self, expected: &[(&str, Value)]) {
        for (query, rows) in expected {
            assert_eq!(self.query(query).await, *rows, "{query}");
        }
    }

    /// Checks that queries are refused with a status and a text.
    pub(crate) async fn expect_refused(&self, expected: &[(&str, StatusCode, &str)]) {
        for (query, status, why) in expected {
            let (found, answer) = self.refused(query).await;
            assert_eq!(found, *status, "{query}: {answer}");
            assert!(answer.to_string().contains(why), "{query}: {answer}");
        }
    }

    /// Runs a query, and returns its answer.
    pub(crate) async fn answer(&self, query: &str) -> Value {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = self.call(Method::POST, "queries", body).await;
        assert_eq!(status, StatusCode::OK, "{query}: {answer}");
        answer
    }

    /// Runs a query, and returns the values of its rows, each as a list.
    pub(crate) async fn query(&self, query: &str) -> Value {
        values(&self.answer(query).await)
    }
}

/// Returns the names and types of the columns of an answer.
pub(crate) fn types(answer: &Value) -> Value {
    let fields = answer["schema"]["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    fields.iter().map(|field| json!([field["name"], field["type"]])).collect::<Vec<_>>().into()
}

/// Returns the values of the rows of an answer, each as a list.
pub(crate) fn values(answer: &Value) -> Value {
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let cells =
        |row: &Value| row["f"].as_array().unwrap().iter().map(|cell| cell["v"].clone()).collect();
    rows.map(cells).collect::<Vec<Value>>().into()
}

#[tokio::test]
async fn a_table_whose_rows_are_elsewhere_answers_501_with_the_field() {
    let tables = Tables::start().await;
    let body = json!({
        "tableReference": { "tableId": "t" },
        "externalDataConfiguration": { "sourceUris": ["gs://b/o"] },
    });

    let (status, answer) = tables.call(Method::POST, "datasets/d/tables", body).await;

    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert!(answer.to_string().contains("externalDataConfiguration"), "{answer}");
}

#[tokio::test]
async fn an_insert_id_can_be_forgotten_at_once() {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    let row = json!({ "insertId": "x", "json": { "a": 1 } });
    let insert = || {
        tables.call(Method::POST, "datasets/d/tables/t/insertAll", json!({ "rows": [&row, &row] }))
    };

    insert().await;
    insert().await;
    assert_eq!(tables.query("SELECT COUNT(*) FROM d.t").await, json!([["1"]]));
    tables.emulator.set_profile(Profile { insert_id_millis: Some(0), ..Profile::default() });
    insert().await;

    assert_eq!(tables.query("SELECT COUNT(*) FROM d.t").await, json!([["2"]]));
}
