use std::sync::Mutex;

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use bigquery::Refused;

use super::*;

/// Server that gives the planned answers, and notes the calls.
#[derive(Clone, Default)]
struct PlannedServer {
    answers: Arc<Mutex<Vec<Value>>>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl PlannedServer {
    /// Returns the next answer. The last one is given again and again.
    fn answer(&self, call: String) -> Json<Value> {
        self.calls.lock().unwrap().push(call);
        let mut answers = self.answers.lock().unwrap();
        Json(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }

    async fn table(answers: Vec<Value>, timeout: Duration) -> (Self, BigQueryTable) {
        let server = Self { answers: Arc::new(Mutex::new(answers)), ..<_>::default() };
        let results = async |State(server): State<Self>,
                             Path(id): Path<String>,
                             Query(query): Query<Vec<(String, String)>>| {
            let token = query.iter().find(|(name, _)| name == "pageToken");
            server.answer(format!("{id} {}", token.map_or("", |(_, token)| token)))
        };
        let router = Router::new()
            .route(
                "/bigquery/v2/projects/p/queries",
                post(async |State(server): State<Self>, Json(asked): Json<Value>| {
                    server.answer(format!("query of at most {}", asked["maximumBytesBilled"]))
                }),
            )
            .route("/bigquery/v2/projects/p/queries/{id}", get(results))
            .route(
                "/bigquery/v2/projects/p/jobs/{id}/cancel",
                post(async |State(server): State<Self>, Path(id): Path<String>| {
                    server.calls.lock().unwrap().push(format!("cancel {id}"));
                    Json(json!({}))
                }),
            )
            .with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        let settings = BigQuerySettings {
            dataset: "d".into(),
            endpoint: Some(endpoint.into()),
            ..BigQuerySettings::default()
        };
        let table = TableSettings {
            name: "t".into(),
            source_column: "s".into(),
            ..TableSettings::default()
        };
        let api = bigquery::rest(settings.endpoint.as_ref(), None, &<_>::default()).await.unwrap();
        (server, BigQueryTable::new(api, "p", &settings, &table, timeout))
    }
}

fn rows(numbers: std::ops::Range<i64>, page_token: Option<&str>) -> Value {
    let row = |number: i64| json!({ "f": [{ "v": number.to_string() }, { "v": "i" }] });
    let fields = [
        json!({ "name": "publish_time", "type": "TIMESTAMP" }),
        json!({ "name": "ingest_id", "type": "STRING" }),
    ];
    json!({
        "jobComplete": true,
        "jobReference": { "jobId": "j", "location": "EU" },
        "schema": { "fields": fields },
        "rows": numbers.map(row).collect::<Vec<_>>(),
        "pageToken": page_token,
    })
}

#[tokio::test]
async fn a_query_beyond_its_time_is_cancelled() {
    let waiting = json!({ "jobComplete": false, "jobReference": { "jobId": "j" } });
    let (server, table) = PlannedServer::table(vec![waiting], Duration::from_millis(50)).await;

    let page = table.page(&Parameters::default()).await;

    assert_eq!(page.map(drop), Err(Failure::Slow));
    assert_eq!(server.calls.lock().unwrap().last().map(String::as_str), Some("cancel j"));
}

#[tokio::test]
async fn a_query_is_waited_for_and_read_page_by_page() {
    let waiting = json!({ "jobComplete": false, "jobReference": { "jobId": "j" } });
    let answers = vec![waiting, rows(0..2, Some("a")), rows(2..3, Some("b/c")), rows(3..5, None)];
    let (server, table) = PlannedServer::table(answers, Duration::from_secs(60)).await;

    let page = table.page(&Parameters { limit: 4, ..Parameters::default() }).await.unwrap();

    assert_eq!(page.rows.len(), 4);
    assert!(page.rows[3].contains("1970-01-01T00:00:00.000003+00:00"), "{:?}", page.rows);
    assert_eq!(page.next.map(|place| place.micros), Some(3));
    let most = r#"query of at most "10737418240""#;
    assert_eq!(*server.calls.lock().unwrap(), [most, "j ", "j a", "j b/c"]);
}

#[tokio::test]
async fn a_check_has_no_limit_of_bytes() {
    let (server, table) =
        PlannedServer::table(vec![rows(0..0, None)], Duration::from_secs(9)).await;

    table.check().await.unwrap();

    assert_eq!(*server.calls.lock().unwrap(), ["query of at most null"]);
}

#[test]
fn answers_of_bigquery_say_what_is_wrong() {
    let of = |status, reason: &str| {
        let refused = Refused { status, reason: reason.into(), message: "m".into() };
        failure(&bigquery::Failure::Refused(refused))
    };

    assert_eq!(of(400, "stopped"), Failure::Slow);
    assert_eq!(of(400, "bytesBilledLimitExceeded"), Failure::Costly);
    assert_eq!(of(404, "notFound"), Failure::Missing("m".into()));
    assert_eq!(of(403, "accessDenied"), Failure::Denied("m".into()));
    assert_eq!(of(400, "invalidQuery"), Failure::Differs("m".into()));
    assert_eq!(of(503, ""), Failure::Away("m".into()));
    for (status, reason) in
        [(403, "rateLimitExceeded"), (403, "quotaExceeded"), (400, "resourcesExceeded")]
    {
        let busy = of(status, reason);
        assert_eq!(busy, Failure::Busy("m".into()), "{reason}");
        assert!(!busy.is_outage(), "other queries may be answered");
    }
}
