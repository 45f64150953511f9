//! Tests of ingest over HTTP: what was answered with 2xx is published, or is a dead letter.

use std::io::Write as _;
use std::time::Duration;

use e2e::metrics::{RECEIVED, SENT};
use e2e::names::ROUTE;
use flate2::Compression;
use flate2::write::GzEncoder;
use ingestion::config::{HttpIngest, RouteSettings};
use message::timestamp::parse_rfc3339;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::flow_env::{FlowEnv, GRACE, counter, next_dead_letter, start_ingestion, until};
use crate::ingest_env::{ALWAYS, IngestEnv};

const ITEM: &str = r#"{"sourceId":"sensor-1","payload":{"t": 1.50}}"#;

/// Answer to a request.
struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    body: Value,
}

/// Requests over HTTP.
trait Posts {
    fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder;
    fn post_as(&self, media_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder;
    async fn send(&self, body: impl Into<reqwest::Body>) -> Answer;
}

impl Posts for IngestEnv {
    fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.post_as("application/json", body)
    }

    fn post_as(&self, media_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.client.post(format!("http://{}/ingest", self.address));
        request.header("content-type", media_type).body(body)
    }

    async fn send(&self, body: impl Into<reqwest::Body>) -> Answer {
        answer(self.post(body)).await
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
    let body = response.bytes().await.unwrap();
    Answer { status, retry_after, body: serde_json::from_slice(&body).unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_that_the_message_is_published() {
    let env = IngestEnv::start(|_, _| {}).await;
    let body = r#"{"sourceId": "sensor-123", "timestamp": "2025-04-11T12:00:00Z",
                   "payload": {"temperature":  21.50, "n": 12345678901234567890123}}"#;

    let told = env.send(body).await;

    assert_eq!(told.status, StatusCode::ACCEPTED);
    let published = &env.published(1).await[0];
    let payload = br#"{"temperature":  21.50, "n": 12345678901234567890123}"#;
    assert_eq!(published.envelope.payload, Some(payload.as_slice().into()));
    assert_eq!(published.envelope.publish_time, parse_rfc3339("2025-04-11T12:00:00Z"));
    assert_eq!(published.envelope.enrichment["DeviceID"], "sensor-123");
    assert_eq!(told.body, json!({ "id": published.ingest_id }));
    assert_eq!(published.envelope.id, published.ingest_id);
    assert_eq!(published.attributes["device_id"], "sensor-123");
    assert_eq!(published.attributes["route_name"], ROUTE);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_destination_that_is_away_and_not_longer_than_its_time() {
    let env = IngestEnv::start(|_, _| {}).await;
    let faults = env.cloud().faults().clone();
    faults.refuse("Publish", ALWAYS, Code::Unavailable);
    let begun = Instant::now();

    let recovers = async {
        sleep(Duration::from_secs(5)).await;
        faults.clear();
    };
    let (told, ()) = tokio::join!(env.send(ITEM), recovers);
    let waited = begun.elapsed();

    assert_eq!(told.status, StatusCode::ACCEPTED, "{}", told.body);
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
    assert_eq!(env.published(1).await[0].ingest_id, told.body["id"]);
    env.cloud().faults().refuse("Publish", ALWAYS, Code::Unavailable);
    let begun = Instant::now();
    let late = env.send(ITEM).await;
    let waited = begun.elapsed();
    assert_eq!(late.status, StatusCode::SERVICE_UNAVAILABLE, "{}", late.body);
    assert_eq!(late.retry_after.as_deref(), Some("5"));
    assert!((8..=11).contains(&waited.as_secs()), "{waited:?}");
    until(async || env.is_idle()).await;
    env.cloud().faults().clear();
    assert_eq!(env.send(ITEM).await.status, StatusCode::ACCEPTED);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_of_a_batch_is_accepted_or_refused_by_its_index() {
    let env = IngestEnv::start(|_, _| {}).await;
    let item = |number: usize| match number {
        500 => r#"{"sourceId":"sensor-1"}"#.to_owned(),
        _ => format!(r#"{{"sourceId":"sensor-{}","payload":{number}}}"#, number % 10),
    };
    let items: Vec<_> = (0..1000).map(item).collect();

    let array = env.send(format!("[{}]", items.join(","))).await;
    let lines = env.post_as("application/x-ndjson", items[450..550].join("\n"));
    let lines = answer(lines).await;

    assert_eq!(array.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", array.body["detail"]);
    assert_eq!(lines.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", lines.body["detail"]);
    let results = array.body["results"].as_array().unwrap();
    let of_lines = lines.body["results"].as_array().unwrap();
    for (results, index) in [(results, 500), (of_lines, 50)] {
        let refused: Vec<_> = results.iter().filter(|row| row["status"] != 202).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(
            (&refused[0]["index"], &refused[0]["field"]),
            (&json!(index), &json!("payload"))
        );
    }
    let mut ids: Vec<_> =
        env.published(999 + 99).await.into_iter().map(|one| one.ingest_id).collect();
    let mut told: Vec<_> =
        results.iter().chain(of_lines).filter_map(|row| row["id"].as_str()).collect();
    ids.sort();
    told.sort_unstable();
    assert_eq!(ids, told);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing_unaccounted() {
    let env = IngestEnv::start(|_, http| http.max_waiting = 1).await;
    let head = |length: usize| {
        format!(
            "POST /ingest HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        )
    };

    let mut half = TcpStream::connect(&env.address).await.unwrap();
    half.write_all((head(ITEM.len()) + &ITEM[..20]).as_bytes()).await.unwrap();
    until(async || env.send(ITEM).await.status == StatusCode::TOO_MANY_REQUESTS).await;
    drop(half);
    until(async || env.send(ITEM).await.status == StatusCode::ACCEPTED).await;
    let before = counter(&env.ingestion, RECEIVED);
    assert_eq!(before, counter(&env.ingestion, SENT), "half an item is none");
    env.cloud().faults().delay("Publish", 1, Duration::from_secs(2));
    let mut whole = TcpStream::connect(&env.address).await.unwrap();
    whole.write_all((head(ITEM.len()) + ITEM).as_bytes()).await.unwrap();
    until(async || counter(&env.ingestion, RECEIVED) > before).await;
    drop(whole);

    until(async || env.send(ITEM).await.status == StatusCode::ACCEPTED).await;
    until(async || env.is_idle()).await;
    let received = counter(&env.ingestion, RECEIVED);
    let nacked = counter(&env.ingestion, "dataflow_pipeline_nacked_messages_total");
    assert_eq!(received, counter(&env.ingestion, SENT) + nacked);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_and_the_field_is_named() {
    let env = IngestEnv::start(|_, http| http.max_body_bytes = 10_000).await;
    let large = format!(r#"{{"sourceId":"a","payload":"{}"}}"#, "x".repeat(10_000));

    for (request, status, field) in [
        (env.post(r#"{"payload":1}"#), 400, json!("sourceId")),
        (env.post(r#"{"sourceId":"a/b","payload":1}"#), 404, json!(null)),
        (env.post(large), 413, json!(null)),
        (
            env.client.post(format!("http://{}/ingest", env.address)).body(ITEM),
            415,
            json!("Content-Type"),
        ),
        (env.client.get(format!("http://{}/ingest", env.address)), 405, json!(null)),
    ] {
        let told = answer(request).await;

        assert_eq!((told.status.as_u16(), &told.body["field"]), (status, &field), "{}", told.body);
        assert_eq!(told.body["status"], status, "errors are problems in JSON");
    }
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_before_bodies_are_read_and_nothing_is_lost() {
    let env = IngestEnv::start(|_, http| http.max_waiting = 4).await;
    env.cloud().faults().delay("Publish", ALWAYS, Duration::from_millis(300));
    let mut requests = JoinSet::new();
    for number in 0..200 {
        let item = format!(r#"{{"sourceId":"sensor-{number}","payload":{number}}}"#);
        requests.spawn(answer(env.post(item)));
    }

    let (mut accepted, mut refused, mut most) = (Vec::new(), 0, 0);
    while let Some(told) = requests.join_next().await {
        let told = told.unwrap();
        most = most.max(counter(&env.ingestion, "dataflow_pipeline_in_flight_messages"));
        match told.status {
            StatusCode::ACCEPTED => accepted.push(told.body["id"].as_str().unwrap().to_owned()),
            StatusCode::TOO_MANY_REQUESTS => {
                assert_eq!(told.retry_after.as_deref(), Some("1"));
                refused += 1;
            }
            other => panic!("{other}: {}", told.body),
        }
    }

    assert!(most <= 4, "{most} messages in memory");
    assert!(accepted.len() >= 4 && refused > 100, "{} and {refused}", accepted.len());
    let busy = "dataflow_ingestion_http_refused_requests_total{reason=\"busy\"}";
    assert_eq!(counter(&env.ingestion, busy), refused);
    let mut ids: Vec<_> = env.published(accepted.len()).await;
    let mut ids: Vec<_> = ids.drain(..).map(|one| one.ingest_id).collect();
    ids.sort();
    accepted.sort();
    assert_eq!(ids, accepted);
    env.cloud().faults().clear();
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_need_a_key_with_the_scope_if_the_settings_say_so() {
    let files = tempfile::tempdir().unwrap();
    let keys = files.path().join("keys.yaml");
    let (writer, reader) = ("w".repeat(32), "r".repeat(32));
    let entries = json!([
        { "name": "writer", "key": writer, "scopes": ["ingest"] },
        { "name": "reader", "key": reader, "scopes": ["read"] },
    ]);
    std::fs::write(&keys, entries.to_string()).unwrap();
    let env = IngestEnv::start(|_, http| {
        http.host = "0.0.0.0".into();
        http.auth.api_keys_file = Some(keys);
    })
    .await;
    let port = env.address.rsplit_once(':').unwrap().1;
    let send = |key: Option<&str>| {
        let request = env.client.post(format!("http://127.0.0.1:{port}/ingest"));
        let request = request.header("content-type", "application/json").body(ITEM);
        answer(match key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        })
    };

    assert_eq!(send(None).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(send(Some(&"x".repeat(32))).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(send(Some(&reader)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(send(Some(&writer)).await.status, StatusCode::ACCEPTED);
    assert_eq!(env.published(1).await.len(), 1);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sent_twice_is_one_id() {
    let env = IngestEnv::start(|_, _| {}).await;
    let keyed = || env.post(format!("[{ITEM},{ITEM}]")).header("idempotency-key", "batch-7");

    let first = answer(keyed()).await;
    let again = answer(keyed()).await;

    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(first.body, again.body);
    let ids: std::collections::BTreeSet<_> =
        env.published(4).await.into_iter().map(|one| one.ingest_id).collect();
    assert_eq!(ids.len(), 2, "two items, sent twice");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_items_of_a_batch_with_one_id_are_not_both_accepted() {
    let env = IngestEnv::start(|_, _| {}).await;
    let item = |id: &str| json!({ "sourceId": "sensor-1", "id": id, "payload": 1 });

    let answer = env.send(json!([item("7"), item("8"), item("7")]).to_string()).await;

    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let statuses: Vec<_> =
        answer.body["results"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, [202, 202, 400]);
    assert_eq!(env.published(2).await.len(), 2);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_requests_under_way_and_refuses_new_ones() {
    let IngestEnv { flow, ingestion, address, client } = IngestEnv::start(|_, _| {}).await;
    let faults = flow.server.as_ref().unwrap().faults().clone();
    faults.delay("Publish", 1, Duration::from_secs(3));
    let url = format!("http://{address}/ingest");
    let post = client.post(&url).header("content-type", "application/json").body(ITEM);
    let under_way = tokio::spawn(answer(post));
    until(async || counter(&ingestion, RECEIVED) == 1).await;

    let begun = Instant::now();
    let ending = tokio::spawn(ingestion.shutdown(GRACE));
    until(async || TcpStream::connect(&address).await.is_err()).await;
    let refused_after = begun.elapsed();
    let told = under_way.await.unwrap();

    assert!(refused_after < Duration::from_secs(2), "{refused_after:?}");
    assert_eq!(told.status, StatusCode::ACCEPTED, "{}", told.body);
    ending.await.unwrap().unwrap();
    assert!(begun.elapsed() < GRACE);
    flow.teardown().await;
}

/// Returns an item that is too large for Pub/Sub in its envelope.
fn hopeless() -> String {
    format!(r#"{{"sourceId":"sensor-1","payload":"{}"}}"#, "x".repeat(8_000_000))
}

fn room_for_hopeless(http: &mut HttpIngest) {
    http.max_body_bytes = 16 * 1024 * 1024;
    http.max_waiting_bytes = 64 * 1024 * 1024;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_that_its_message_is_a_dead_letter() {
    let env = IngestEnv::start(|_, http| room_for_hopeless(http)).await;

    let told = env.send(hopeless()).await;

    assert_eq!(told.status, StatusCode::ACCEPTED, "{}", told.body);
    assert_eq!(told.body["dead_letter"], "message_too_large");
    let dead_letter = next_dead_letter(&env.flow).await;
    assert_eq!(dead_letter.attributes["ingest_id"], told.body["id"]);
    assert_eq!(dead_letter.attributes["http_source"], "sensor-1");
    assert_eq!(dead_letter.attributes["device_id"], "sensor-1");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_that_its_message_was_dropped() {
    let env = IngestEnv::start(|settings, http| {
        settings.dead_letters = serde_json::from_value(json!("drop")).unwrap();
        room_for_hopeless(http);
    })
    .await;

    let told = env.send(hopeless()).await;

    assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", told.body);
    let detail = told.body["detail"].as_str().unwrap();
    assert!(detail.contains("message_too_large"), "{detail}");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_carried_as_they_are_or_refused() {
    let env = IngestEnv::start(|_, _| {}).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let payloads = [
        deep,
        r#"{"a":1,"a":2}"#.to_owned(),
        format!("1e{}", "9".repeat(1000)),
        format!("-{}.5", "1".repeat(10_000)),
        r#""\ud800""#.to_owned(),
    ];
    for payload in &payloads {
        let told = env.send(format!(r#"{{"sourceId":"a","payload":{payload}}}"#)).await;
        assert_eq!(told.status, StatusCode::ACCEPTED, "{}", told.body);
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&vec![b' '; 100_000_000]).unwrap();
    let bomb = env.post(gzip.finish().unwrap()).header("content-encoding", "gzip");
    for (request, status) in [
        (bomb, 413),
        (env.post(b"{\"sourceId\":\"a\",\"payload\":\"\xff\"}".to_vec()), 400),
        (env.post("[".repeat(100_000)), 400),
        (env.post(format!("[{}]", "0,".repeat(400_000) + "0")), 413),
        (env.post(r#"{"sourceId":"a","sourceId":"b","payload":1}"#), 400),
        (env.post(Vec::new()), 400),
    ] {
        let told = answer(request).await;
        assert_eq!(told.status.as_u16(), status, "{}", told.body);
    }

    let published = env.published(payloads.len()).await;
    for payload in &payloads {
        let expected = Some(payload.clone().into_bytes().into());
        let is_there = published.iter().any(|one| one.envelope.payload == expected);
        assert!(is_there, "{}", &payload[..payload.len().min(20)]);
    }
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_and_clients_over_http_are_read_side_by_side() {
    let flow = FlowEnv::start().await;
    let mut settings = flow.ingestion();
    let mut route = RouteSettings::default();
    route.source.http_source = Some("{device_id}".into());
    route.destination.route_name = ROUTE.into();
    settings.routes.insert("over_http".into(), route);
    settings.http_ingest = Some(HttpIngest { port: 0, ..HttpIngest::default() });
    let ingestion = start_ingestion(settings).await;
    until(async || ingestion.health().report()["http_ingest"].is_string()).await;
    let address = ingestion.health().report()["http_ingest"].as_str().unwrap().to_owned();

    let mut fleet = flow.fleet(200);
    let client = Client::new();
    for _ in 0..20 {
        let post = client.post(format!("http://{address}/ingest"));
        let post = post.header("content-type", "application/json").body(ITEM);
        assert_eq!(answer(post).await.status, StatusCode::ACCEPTED);
    }
    fleet.finish().await;

    until(async || counter(&ingestion, SENT) >= 220).await;
    ingestion.shutdown(GRACE).await.unwrap();
    flow.teardown().await;
}
