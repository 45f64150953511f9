//! Tests of whole requests against a pipeline that does what the test says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use axum::{Extension, Router};
use message::{Message, attribute};
use pipeline::{Delivery, Disposition, Source as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::ingest::Ingest;
use super::request;
use super::{HttpSource, MessageParts, QUEUE};
use crate::config::{HttpIngest, Identity, RouteSettings, RouteSource};
use crate::metrics::Metrics;
use crate::reasons;
use crate::routes::Routes;

const ITEM: &str = r#"{"sourceId":"sensor-1","payload":{"t": 1.50}}"#;

struct HttpTestEnv {
    app: Router,
    metrics: Metrics,
    source: HttpSource,
}

impl HttpTestEnv {
    fn new(change: impl FnOnce(&mut RouteSettings, &mut HttpIngest)) -> Self {
        let mut settings = HttpIngest::default();
        let mut route = RouteSettings {
            source: RouteSource { http_source: Some("{device_id}".into()), ..Default::default() },
            ..Default::default()
        };
        change(&mut route, &mut settings);
        let routes = Routes::new(&BTreeMap::from([("r".to_owned(), route)])).unwrap();
        let metrics = Metrics::default();
        let parts = MessageParts {
            routes: Arc::new(routes),
            identity: Identity::default(),
            metrics: metrics.clone(),
        };
        let (outbox, inbox) = mpsc::channel(QUEUE);
        let ingest = Arc::new(Ingest::new(&settings, parts, outbox));
        let app = Router::new()
            .route("/ingest", axum::routing::post(request::ingest))
            .layer(Extension(web::Identity::unknown()))
            .with_state(ingest);
        Self { app, metrics, source: HttpSource { inbox } }
    }

    /// Sends a request. Settles each of its messages with `settle`, and returns them.
    async fn send(
        &mut self,
        request: Request<Body>,
        mut settle: impl FnMut(usize, Delivery),
    ) -> (StatusCode, Value, Vec<Message>) {
        let answer = self.app.clone().oneshot(request);
        tokio::pin!(answer);
        let mut messages = Vec::new();
        let response = loop {
            tokio::select! {
                biased;
                response = &mut answer => break response.unwrap(),
                delivery = self.source.receive() => {
                    let delivery = delivery.unwrap().unwrap();
                    messages.push(delivery.message.clone());
                    settle(messages.len() - 1, delivery);
                }
            }
        };
        let (status, body) = read(response).await;
        (status, body, messages)
    }

    async fn ack(&mut self, request: Request<Body>) -> (StatusCode, Value, Vec<Message>) {
        self.send(request, |_, delivery| delivery.ack()).await
    }

    fn refused(&self, reason: &'static str) -> (u64, u64) {
        let label = pipeline::metrics::ReasonLabel { reason };
        let count = |family: &prometheus_client::metrics::family::Family<_, _>| {
            let counter: prometheus_client::metrics::counter::Counter =
                family.get_or_create_owned(&label);
            counter.get()
        };
        (count(&self.metrics.http_refused), count(&self.metrics.http_refused_requests))
    }
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let is_to_be_repeated =
        [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
    assert_eq!(response.headers().contains_key(header::RETRY_AFTER), is_to_be_repeated);
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

fn post(media_type: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(Method::POST).uri("/ingest");
    request.header(header::CONTENT_TYPE, media_type).body(body.into()).unwrap()
}

fn json_post(body: impl Into<Body>) -> Request<Body> {
    post("application/json", body)
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn settle(delivery: Delivery, disposition: Disposition) {
    delivery.into_parts().1.settle(disposition);
}

#[tokio::test(start_paused = true)]
async fn an_item_is_answered_with_its_id_after_it_is_settled() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let body = r#"{"sourceId":"a","timestamp":"9999-01-01T00:00:00Z","payload":1}"#;

    let ahead = env.ack(json_post(body)).await;
    let (status, answer, messages) = env.ack(json_post(ITEM)).await;

    assert_eq!((ahead.0, &ahead.1["field"]), (StatusCode::BAD_REQUEST, &json!("timestamp")));
    assert_eq!(status, StatusCode::ACCEPTED);
    let message = &messages[0];
    assert_eq!(message.data, r#"{"t": 1.50}"#);
    assert_eq!(message.attributes[attribute::HTTP_SOURCE], "sensor-1");
    assert_eq!(answer, json!({ "id": message.attributes[attribute::INGEST_ID] }));
    assert_eq!(env.metrics.http_accepted.get(), 1);
    assert_eq!(env.refused("invalid"), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_learns_of_a_dead_letter_a_drop_and_a_nack() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let reason = reasons::PROPERTIES_TOO_LARGE;
    for (disposition, status, count) in [
        (Disposition::DeadLettered(reason), StatusCode::ACCEPTED, ("dropped", 0)),
        (Disposition::Dropped(reason), StatusCode::UNPROCESSABLE_ENTITY, ("dropped", 1)),
        (Disposition::Nack, StatusCode::SERVICE_UNAVAILABLE, ("unavailable", 1)),
    ] {
        let sent = env.send(json_post(ITEM), |_, delivery| settle(delivery, disposition)).await;

        assert_eq!(sent.0, status, "{disposition:?}");
        assert_eq!(env.refused(count.0), (count.1, 0), "{disposition:?}");
        if status == StatusCode::ACCEPTED {
            assert_eq!(sent.1["dead_letter"], "properties_too_large");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_unknown_in_time_is_503() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let mut kept = Vec::new();

    let (status, ..) = env.send(json_post(ITEM), |_, delivery| kept.push(delivery)).await;

    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!kept[0].is_current(), "its client has gone");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let mut env = HttpTestEnv::new(|_, settings| settings.max_waiting = 1);
    let gone =
        tokio::time::timeout(Duration::from_millis(1), env.app.clone().oneshot(json_post(ITEM)));

    assert!(gone.await.is_err(), "nobody settles the message");
    let refused = env.app.clone().oneshot(json_post(ITEM)).await.unwrap();

    let why = "the message is still in memory";
    assert_eq!(read(refused).await.0, StatusCode::TOO_MANY_REQUESTS, "{why}");
    assert_eq!(env.refused("busy"), (0, 1));
    // Its delivery is dropped, because nobody waits for it.
    let none = tokio::time::timeout(Duration::from_millis(1), env.source.receive()).await;
    assert!(none.is_err());
    assert_eq!(env.ack(json_post(ITEM)).await.0, StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_key_gives_the_id_and_an_id_of_the_item_comes_first() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let item = r#"{"sourceId":"sensor-1","payload":1,"id":"7"}"#;
    let keyed = |body: &'static str, key| with(json_post(body), "idempotency-key", key);

    let first = env.ack(keyed(ITEM, "a")).await.1;
    let again = env.ack(keyed(ITEM, "\"a\"")).await.1;
    let other = env.ack(keyed(ITEM, "b")).await.1;
    let of_item = env.ack(keyed(item, "a")).await.1;
    let of_item_again = env.ack(keyed(item, "b")).await.1;
    let random = env.ack(json_post(ITEM)).await.1;

    assert_eq!(first, again);
    assert_eq!(of_item, of_item_again);
    let ids: std::collections::BTreeSet<_> =
        [&first, &other, &of_item, &random].map(Value::to_string).into();
    assert_eq!(ids.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_200_only_if_every_item_was_accepted() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let batch = format!("[{ITEM},{ITEM}]");
    let keyed = || with(json_post(batch.clone()), "idempotency-key", "k");

    let (status, answer, _) = env.ack(keyed()).await;
    let again = env.ack(keyed()).await.1;
    let lines = env.ack(post("application/x-ndjson", format!("{ITEM}\n{ITEM}\n"))).await;

    assert_eq!((status, lines.0), (StatusCode::OK, StatusCode::OK));
    assert_eq!(answer, again);
    let results = answer["results"].as_array().unwrap();
    assert_eq!((&results[0]["index"], &results[1]["status"]), (&json!(0), &json!(202)));
    assert_ne!(results[0]["id"], results[1]["id"]);
}

#[tokio::test(start_paused = true)]
async fn every_item_of_a_batch_has_its_own_outcome() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let batch = format!(r#"[{ITEM},{{"sourceId":"a"}},{{"sourceId":"a/b","payload":1}},{ITEM}]"#);

    let permanent = env.ack(json_post(batch.clone())).await;
    let dispositions = [Disposition::Ack, Disposition::Nack];
    let nacked = |index: usize, delivery| settle(delivery, dispositions[index]);
    let (status, answer, messages) = env.send(json_post(batch), nacked).await;

    assert_eq!(permanent.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(messages.len(), 2);
    let rows = answer["results"].as_array().unwrap().iter();
    let rows: Vec<_> = rows.map(|row| (&row["status"], &row["reason"], &row["field"])).collect();
    let expected = [
        (json!(202), json!(null), json!(null)),
        (json!(400), json!("invalid"), json!("payload")),
        (json!(404), json!("no_route"), json!(null)),
        (json!(503), json!("unavailable"), json!(null)),
    ];
    let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a, b, c)).collect();
    assert_eq!(rows, expected);
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_are_told_apart_by_their_status() {
    let mut env = HttpTestEnv::new(|route, settings| {
        route.max_payload_bytes = Some(20);
        route.min_payload_bytes = Some(2);
        settings.max_body_bytes = 10_000;
    });
    let large = r#"{"sourceId":"a","payload":"xxxxxxxxxxxxxxxxxxxxxxxx"}"#;
    let too_many = format!("[{}]", ["1"; 1001].join(","));
    for (request, status, field) in [
        (json_post("{"), 400, json!("body")),
        (json_post(vec![b'"', 0xff, b'"']), 400, json!("body")),
        (json_post("[]"), 400, json!("body")),
        (with(json_post(ITEM), "idempotency-key", ""), 400, json!("Idempotency-Key")),
        (json_post(r#"{"sourceId":"a/b","payload":1}"#), 404, json!(null)),
        (json_post(r#"{"sourceId":"a","payload":1}"#), 400, json!("payload")),
        (json_post(large), 413, json!("payload")),
        (json_post(too_many), 413, json!(null)),
        (post("text/plain", ITEM), 415, json!("Content-Type")),
        (with(json_post(ITEM), "content-encoding", "br"), 415, json!("Content-Encoding")),
        (with(json_post(ITEM), "content-encoding", "gzip"), 400, json!("body")),
    ] {
        let (got, answer, messages) = env.ack(request).await;

        assert_eq!((got.as_u16(), &answer["field"]), (status, &field), "{answer}");
        assert!(messages.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_a_request_goes_on_with_each_of_its_items() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let request = with(json_post(format!("[{ITEM},{ITEM}]")), "traceparent", trace);
    let (.., messages) = env.ack(request).await;

    assert!(messages.iter().all(|message| message.attributes["traceparent"] == trace));
    assert_eq!(messages.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_the_source_is_closed_requests_are_answered_at_once() {
    let HttpTestEnv { app, source, .. } = HttpTestEnv::new(|_, _| {});
    source.close().await.unwrap();

    let response = app.oneshot(json_post(ITEM)).await.unwrap();

    assert_eq!(read(response).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

const EVENT: &str = r#"{"specversion":"1.0","id":"e-1","source":"sensor-1","type":"t.reading",
    "time":"TIME","subject":"s","traceparent":"p","data":{"t": 1.50}}"#;

fn event() -> String {
    let now = time::OffsetDateTime::now_utc();
    let format = &time::format_description::well_known::Rfc3339;
    EVENT.replace("TIME", &now.format(format).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_event_in_json_becomes_a_message() {
    let mut env = HttpTestEnv::new(|_, _| {});

    let (status, answer, messages) =
        env.ack(post("application/cloudevents+json; charset=UTF-8", event())).await;
    let batch = post("application/cloudevents-batch+json", format!("[{}]", event()));
    let (batch_status, batch, _) = env.ack(batch).await;

    assert_eq!((status, batch_status), (StatusCode::ACCEPTED, StatusCode::OK));
    let message = &messages[0];
    assert_eq!(message.data, r#"{"t": 1.50}"#);
    assert_eq!(message.attributes[attribute::HTTP_SOURCE], "sensor-1");
    assert!(message.attributes.contains_key(attribute::HTTP_TIMESTAMP));
    assert_eq!(
        (&message.attributes["ce-type"][..], &message.attributes["ce-subject"][..]),
        ("t.reading", "s")
    );
    assert_eq!(message.attributes["traceparent"], "p");
    assert_eq!(batch["results"][0]["id"], answer["id"], "id and source give the id");
}

#[tokio::test(start_paused = true)]
async fn an_event_in_headers_is_the_event_in_json() {
    let mut env = HttpTestEnv::new(|_, _| {});
    let mut request = post("text/plain", vec![0xff, 0x00]);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "e-1"),
        ("ce-source", "sensor-1"),
        ("ce-type", "t.reading"),
        ("ce-subject", "Euro%20%E2%82%AC"),
    ] {
        request = with(request, name, value);
    }

    let (status, answer, messages) = env.ack(request).await;
    let in_json = env.ack(post("application/cloudevents+json", event())).await;

    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(messages[0].data, [0xff, 0x00].as_slice());
    assert_eq!(messages[0].attributes["ce-subject"], "Euro €");
    assert_eq!(answer["id"], in_json.1["id"]);
}

#[tokio::test(start_paused = true)]
async fn the_data_of_an_event_are_the_bytes_that_it_stands_for() {
    let mut env = HttpTestEnv::new(|_, _| {});
    for (data, payload) in [
        (r#""data_base64":"/wA=""#, &[0xff, 0x00][..]),
        (r#""data":"a text""#, b"\"a text\""),
        (r#""datacontenttype":"text/plain","data":"a text""#, b"a text"),
        (r#""datacontenttype":"text/json; x=y","data":"a text""#, b"\"a text\""),
        (r#""extension":true,"other":7"#, b""),
    ] {
        let event = format!(r#"{{"specversion":"1.0","id":"1","source":"a","type":"t",{data}}}"#);

        let (status, _, messages) = env.ack(post("application/cloudevents+json", event)).await;

        assert_eq!(status, StatusCode::ACCEPTED, "{data}");
        assert_eq!(messages[0].data, payload, "{data}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_event_names_its_attribute() {
    let mut env = HttpTestEnv::new(|_, _| {});
    for (event, field) in [
        (r#"{"id":"1","source":"a","type":"t"}"#, "specversion"),
        (r#"{"specversion":"0.3","id":"1","source":"a","type":"t"}"#, "specversion"),
        (r#"{"specversion":"1.0","source":"a","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "source"),
        (r#"{"specversion":"1.0","id":"1","source":"a"}"#, "type"),
        (r#"{"specversion":"1.0","id":"1","source":"a","type":"t","time":"x"}"#, "time"),
        (r#"{"specversion":"1.0","id":"1","source":"a","type":"t","Subject":"x"}"#, "Subject"),
        (r#"{"specversion":"1.0","id":"1","source":"a","type":"t","x":{}}"#, "x"),
        (
            r#"{"specversion":"1.0","id":"1","source":"a","type":"t","data_base64":"?"}"#,
            "data_base64",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"a","type":"t","data":1,"data_base64":""}"#,
            "data_base64",
        ),
    ] {
        let (status, answer, _) = env.ack(post("application/cloudevents+json", event)).await;

        assert_eq!((status, &answer["field"]), (StatusCode::BAD_REQUEST, &json!(field)), "{event}");
    }
}
