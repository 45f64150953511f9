//! Calls over a connection. The test takes the place of the pipeline.

mod streams;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use message::{Message, attribute};
use pipeline::{Delivery, Disposition, Source as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt as _;
use web::Server;

use crate::config::{HttpIngest, Identity, RouteSettings, RouteSource};
use crate::http::{HttpSource, MAX_ITEMS, MessageParts, Port};
use crate::metrics::Metrics;
use crate::proto::ingest_client::IngestClient;
use crate::proto::item_result::Outcome;
use crate::proto::{
    Accepted, Item, ItemResult, PublishRequest, PublishResponse, PublishStreamRequest,
    PublishStreamResponse, Refused,
};
use crate::reasons;
use crate::routes::Routes;

/// Maximum wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait for an event that must not come.
const SHORT: Duration = Duration::from_millis(200);

/// Port with a route for sources of one level, whose payloads have at most 100 bytes.
struct CallEnv {
    server: Server,
    source: HttpSource,
    channel: Channel,
    address: String,
    health: service::Health,
}

impl CallEnv {
    async fn start(change: impl FnOnce(&mut HttpIngest)) -> Self {
        let mut settings = HttpIngest { port: 0, ..HttpIngest::default() };
        change(&mut settings);
        let route = RouteSettings {
            source: RouteSource { http_source: Some("{device_id}".into()), ..Default::default() },
            max_payload_bytes: Some(100),
            ..Default::default()
        };
        let routes = Routes::new(&BTreeMap::from([("r".to_owned(), route)])).unwrap();
        let parts = MessageParts {
            routes: Arc::new(routes),
            identity: Identity::default(),
            metrics: Metrics::default(),
        };
        let (port, source) = Port::bind(&settings).await.unwrap();
        let address = format!("http://{}", port.address());
        let health = service::Health::default();
        let counts = web::Metrics::default();
        let server = port.serve(&settings, parts, health.clone(), &counts).unwrap();
        let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
        Self { server, source, channel, address, health }
    }

    fn client(&self) -> IngestClient<Channel> {
        IngestClient::new(self.channel.clone())
    }

    /// Settles each message with the disposition that `of` chooses by its number.
    fn settle(self, of: impl Fn(usize) -> Disposition + Send + 'static) -> Settling {
        let Self { server, mut source, channel, address, .. } = self;
        let messages = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&messages);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Ok(Some(delivery)) = source.receive().await {
                let (message, settlement) = delivery.into_parts();
                let mut seen = seen.lock().unwrap();
                settlement.settle(of(seen.len()));
                seen.push(message);
            }
        });
        let client = IngestClient::new(channel);
        Settling { client, address, messages, _server: server, _tasks: tasks }
    }

    async fn receive(&mut self) -> Delivery {
        within(self.source.receive()).await.unwrap().unwrap()
    }
}

/// Port of which each message is settled at once.
struct Settling {
    client: IngestClient<Channel>,
    address: String,
    messages: Arc<Mutex<Vec<Message>>>,
    _server: Server,
    _tasks: tokio::task::JoinSet<()>,
}

impl Settling {
    async fn publish(&mut self, items: Vec<Item>) -> Result<PublishResponse, Status> {
        publish(&mut self.client, request(items)).await
    }
}

async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(PATIENCE, event).await.expect("the event comes")
}

async fn publish(
    client: &mut IngestClient<Channel>,
    request: PublishRequest,
) -> Result<PublishResponse, Status> {
    Ok(within(client.publish(request)).await?.into_inner())
}

fn item(source_id: &str) -> Item {
    Item { source_id: source_id.into(), payload: Some(b"{}".to_vec()), ..Item::default() }
}

fn request(items: Vec<Item>) -> PublishRequest {
    PublishRequest { items, idempotency_key: None }
}

fn accepted(result: &ItemResult) -> &Accepted {
    match &result.outcome {
        Some(Outcome::Accepted(accepted)) => accepted,
        other => panic!("{other:?}"),
    }
}

fn refused(result: &ItemResult) -> &Refused {
    match &result.outcome {
        Some(Outcome::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

fn has_retry(status: &Status) -> bool {
    status.get_error_details().retry_info().is_some_and(|info| info.retry_delay.is_some())
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|request| request.field_violations.clone());
    violations.unwrap_or_default().into_iter().map(|one| one.field).collect()
}

/// Opens a stream. The client's side ends with the sender.
async fn open(
    mut client: IngestClient<Channel>,
) -> (mpsc::UnboundedSender<PublishStreamRequest>, Streaming<PublishStreamResponse>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let answers = within(client.publish_stream(UnboundedReceiverStream::new(requests))).await;
    (sender, answers.unwrap().into_inner())
}

fn numbered(sequence: u64, item: Item) -> PublishStreamRequest {
    PublishStreamRequest { sequence, item: Some(item) }
}

/// Reads acknowledgements until there are so many.
async fn acks(
    answers: &mut Streaming<PublishStreamResponse>,
    count: usize,
) -> Vec<(u64, ItemResult)> {
    let mut acks = Vec::new();
    while acks.len() < count {
        let answer = within(answers.message()).await.unwrap().unwrap();
        acks.extend(answer.acks.into_iter().map(|ack| (ack.sequence, ack.result.unwrap())));
    }
    acks
}

#[tokio::test]
async fn an_id_is_that_of_http_and_the_payload_any_bytes() {
    let mut env = CallEnv::start(|_| {}).await.settle(|_| Disposition::Ack);
    let payload = b"\xff\0".to_vec();
    let by_id = Item { id: Some("7".into()), payload: Some(payload.clone()), ..item("a") };
    let body = json!({ "sourceId": "a", "id": "7", "payload": 1 });
    let keyed = PublishRequest { idempotency_key: Some("k".into()), ..request(vec![item("a")]) };
    let timestamp = Some(prost_types::Timestamp { seconds: 1_744_372_800, nanos: 0 });

    let first = env.publish(vec![Item { timestamp, ..by_id }]).await.unwrap();
    let by_key = publish(&mut env.client, keyed).await.unwrap();
    let post = |key: Option<&str>, body: &serde_json::Value| {
        let uri = format!("{}/ingest", env.address);
        let key = key.map(str::to_owned);
        let body = body.to_string();
        async move { over_http(&uri, key, body).await }
    };
    let over_http = post(None, &body).await;
    let keyed_over_http = post(Some("k"), &json!({ "sourceId": "a", "payload": 1 })).await;

    let message = env.messages.lock().unwrap()[0].clone();
    assert_eq!(message.data, payload);
    assert_eq!(message.attributes[attribute::HTTP_SOURCE], "a");
    assert_eq!(message.attributes[attribute::HTTP_TIMESTAMP], "2025-04-11T12:00:00Z");
    let id = &accepted(&first.results[0]).id;
    assert_eq!(*id, message.attributes[attribute::INGEST_ID]);
    assert_eq!(*id, over_http);
    assert_eq!(accepted(&by_key.results[0]).id, keyed_over_http);
}

/// Posts an item as a plain request over HTTP/1, and returns its id.
async fn over_http(uri: &str, key: Option<String>, body: String) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let host = uri.trim_start_matches("http://").trim_end_matches("/ingest");
    let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{key}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_of_several_items_has_its_own_result() {
    let mut env = CallEnv::start(|_| {}).await.settle(|number| match number {
        0 => Disposition::Ack,
        1 => Disposition::DeadLettered(reasons::PROPERTIES_TOO_LARGE),
        _ => Disposition::Nack,
    });
    let twin = || Item { id: Some("1".into()), ..item("a") };
    let wrong = Item { payload: None, ..item("a") };

    let told =
        env.publish(vec![twin(), wrong, item("a/b"), item("a"), twin(), item("a")]).await.unwrap();

    assert!(accepted(&told.results[0]).dead_letter.is_empty());
    assert_eq!(accepted(&told.results[3]).dead_letter, "properties_too_large");
    let rest = [1, 2, 4, 5].map(|index| refused(&told.results[index]));
    let codes = rest.map(|one| (Code::from(one.code), &one.reason[..], &one.field[..]));
    assert_eq!(
        codes,
        [
            (Code::InvalidArgument, "invalid", "payload"),
            (Code::NotFound, "no_route", ""),
            (Code::InvalidArgument, "invalid", "id"),
            (Code::Unavailable, "unavailable", ""),
        ]
    );
    assert_eq!(rest.map(|one| one.retry_after.is_some()), [false, false, false, true]);
    assert_eq!(told.refused_count, 4);
}

#[tokio::test]
async fn the_refusal_of_the_only_item_is_the_status() {
    let mut env =
        CallEnv::start(|settings| settings.max_body_bytes = 10_000).await.settle(|number| {
            match number {
                0 => Disposition::Nack,
                _ => Disposition::Dropped(reasons::PROPERTIES_TOO_LARGE),
            }
        });
    let large = |size| Item { payload: Some(vec![0; size]), ..item("a") };
    for (items, code, field) in [
        (vec![item("a")], Code::Unavailable, None),
        (vec![item("a")], Code::InvalidArgument, None),
        (vec![item("")], Code::InvalidArgument, Some("items[0].source_id")),
        (vec![item("a/b")], Code::NotFound, None),
        (vec![large(101)], Code::InvalidArgument, Some("items[0].payload")),
        (vec![large(10_001)], Code::InvalidArgument, None),
        (vec![], Code::InvalidArgument, Some("items")),
        (vec![Item::default(); MAX_ITEMS + 1], Code::InvalidArgument, None),
    ] {
        let status = env.publish(items).await.unwrap_err();

        assert_eq!(status.code(), code, "{status}");
        assert_eq!(fields(&status), Vec::from_iter(field), "{status}");
        assert_eq!(has_retry(&status), code == Code::Unavailable, "{status}");
    }
    let keyed = PublishRequest { idempotency_key: Some(String::new()), ..request(vec![item("a")]) };
    let status = publish(&mut env.client, keyed).await.unwrap_err();
    assert_eq!(fields(&status), ["idempotency_key"]);
}

#[tokio::test]
async fn more_calls_than_may_wait_are_to_be_sent_again_later() {
    let mut env = CallEnv::start(|settings| settings.max_waiting = 1).await;
    let mut first = env.client();
    let waiting = tokio::spawn(async move { publish(&mut first, request(vec![item("a")])).await });
    let held = env.receive().await;

    let status = publish(&mut env.client(), request(vec![item("a")])).await.unwrap_err();
    held.ack();

    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(has_retry(&status));
    assert_eq!(waiting.await.unwrap().unwrap().refused_count, 0);
}

/// Adds a key to a call.
fn with_key<T>(message: T, key: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn calls_need_a_key_with_the_scope_and_health_needs_none() {
    let files = tempfile::tempdir().unwrap();
    let keys = files.path().join("keys.yaml");
    let (writer, reader) = ("w".repeat(32), "r".repeat(32));
    let entries = json!([
        { "name": "writer", "key": writer, "scopes": ["ingest"] },
        { "name": "reader", "key": reader, "scopes": ["read"] },
    ]);
    std::fs::write(&keys, entries.to_string()).unwrap();
    let env = CallEnv::start(|settings| settings.auth.api_keys_file = Some(keys)).await;
    let channel = env.channel.clone();
    let mut env = env.settle(|_| Disposition::Ack);

    let mut code = async |key: Option<&str>| {
        let called = env.client.publish(with_key(request(vec![item("a")]), key)).await;
        called.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(code(None).await, Code::Unauthenticated);
    assert_eq!(code(Some(&"x".repeat(32))).await, Code::Unauthenticated);
    assert_eq!(code(Some(&reader)).await, Code::PermissionDenied);
    assert_eq!(code(Some(&writer)).await, Code::Ok);
    let items = || stream::iter([numbered(1, item("a"))]);
    let denied = env.client.publish_stream(with_key(items(), Some(&reader))).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let mut bearer = Request::new(items());
    let value: AsciiMetadataValue = format!("Bearer {writer}").parse().unwrap();
    bearer.metadata_mut().insert("authorization", value);
    let mut answers = env.client.publish_stream(bearer).await.unwrap().into_inner();
    assert_eq!(acks(&mut answers, 1).await.len(), 1);
    let mut health = HealthClient::new(channel.clone());
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());
    let refused = services(channel, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_client_that_is_too_fast_learns_when_to_come_again() {
    let mut env = CallEnv::start(|settings| {
        settings.auth.rate_limit.requests_per_second = Some(1);
        settings.auth.rate_limit.burst_requests = Some(2);
    })
    .await
    .settle(|_| Disposition::Ack);

    env.publish(vec![item("a")]).await.unwrap();
    env.publish(vec![item("a")]).await.unwrap();
    let status = env.publish(vec![item("a")]).await.unwrap_err();

    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(has_retry(&status));
}

/// Asks for the names of all services.
async fn services(channel: Channel, key: Option<&str>) -> Result<Vec<String>, Status> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    // The stream stays open: the answer must come without its end.
    let asks = stream::iter([ask]).chain(stream::pending());
    let mut client = ServerReflectionClient::new(channel);
    let called = client.server_reflection_info(with_key(asks, key)).await?;
    let answer = within(called.into_inner().message()).await?.unwrap();
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reflection_lists_the_services_and_health_is_readiness() {
    let env = CallEnv::start(|_| {}).await;
    let mut health = HealthClient::new(env.channel.clone());
    let ask = |service: &str| HealthCheckRequest { service: service.into() };

    let mut names = services(env.channel.clone(), None).await.unwrap();
    let unready = health.check(ask(crate::proto::SERVICE)).await.unwrap().into_inner();
    let unknown = health.check(ask("other")).await.unwrap_err();

    names.sort();
    let ours = ["dataflow.ingest.v1.Ingest", "grpc.health.v1.Health"];
    assert_eq!(names[..2], ours, "{names:?}");
    assert_eq!(unready.status(), ServingStatus::NotServing, "no pipeline runs");
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(!env.health.is_ready());
}

#[tokio::test]
async fn an_unknown_method_is_not_implemented() {
    let env = CallEnv::start(|_| {}).await;
    let mut client = tonic::client::Grpc::new(env.channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<PublishRequest, PublishResponse>::default();
    let path = "/dataflow.ingest.v1.Ingest/Missing".parse().unwrap();

    let status = client.unary(Request::new(request(vec![])), path, codec).await.unwrap_err();

    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}
