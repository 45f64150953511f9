use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, header};
use tokio::time::timeout;

use super::*;

/// Maximum wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Levels of a subscriber that nobody logs to.
struct Log {
    levels: Levels,
    _subscriber: Box<dyn std::any::Any + Send>,
}

fn log() -> Log {
    let (levels, subscriber) = Levels::for_tests("info");
    Log { levels, _subscriber: subscriber }
}

/// Request to `/loglevel`.
struct Ask<'a> {
    method: Method,
    peer: &'a str,
    host: &'a str,
    key: Option<&'a str>,
    body: String,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        let (peer, host) = ("127.0.0.1:1", "localhost:8080");
        Self { method: Method::GET, peer, host, key: None, body: String::new() }
    }
}

fn put(body: &str) -> Ask<'static> {
    Ask { method: Method::PUT, body: body.into(), ..Ask::default() }
}

/// Returns status and body of the answer of a service without a key.
async fn answer(levels: Option<&Levels>, ask: Ask<'_>) -> (u16, String) {
    answer_with_key(levels, None, ask).await
}

async fn answer_with_key(
    levels: Option<&Levels>,
    key_file: Option<PathBuf>,
    ask: Ask<'_>,
) -> (u16, String) {
    let request = Request::builder().method(ask.method).uri("/loglevel");
    let mut request = request.header(header::HOST, ask.host);
    if let Some(key) = ask.key {
        request = request.header("x-api-key", key);
    }
    let mut request = request.body(Body::from(ask.body)).unwrap();
    request.extensions_mut().insert(ConnectInfo(Peer(ask.peer.parse().unwrap())));
    let mut router = routes(levels.cloned(), key_file);
    let call = tower::Service::call(&mut router, request);
    let response = timeout(PATIENCE, call).await.unwrap().unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_levels_are_shown_and_changed() {
    let log = log();
    let ask = async |ask| answer(Some(&log.levels), ask).await;

    assert_eq!(ask(Ask::default()).await, (200, "info\n".into()));
    let changed = ask(put("info,pubsub=debug\n")).await;

    assert_eq!(changed, (200, "info,pubsub=debug\n".into()));
    assert_eq!(ask(Ask::default()).await, changed);
}

#[tokio::test]
async fn a_wrong_directive_is_400_with_its_name() {
    let log = log();

    let (status, body) = answer(Some(&log.levels), put("info,pubsub=loud")).await;

    assert_eq!(status, 400);
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(problem["detail"].as_str().unwrap().starts_with("`pubsub=loud` is wrong: "), "{body}");
    assert_eq!(log.levels.current(), "info");
}

#[tokio::test]
async fn only_callers_on_the_same_machine_with_its_name_are_answered() {
    let log = log();
    let others = [("10.0.0.1:1", "localhost"), ("127.0.0.1:1", "evil.example.org")];

    for (peer, host) in others {
        for method in [Method::GET, Method::PUT] {
            let ask = Ask { method, peer, host, body: "debug".into(), ..Ask::default() };
            let (status, body) = answer(Some(&log.levels), ask).await;
            assert_eq!(status, 403, "{peer} {host}: {body}");
        }
    }
    assert_eq!(log.levels.current(), "info");
}

#[tokio::test]
async fn with_a_key_file_callers_on_the_same_machine_need_the_key_too() {
    let log = log();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let key = "0123456789abcdef0123456789abcdef";
    std::fs::write(&file, key).unwrap();
    let status = async |key| {
        let ask = Ask { key, ..put("debug") };
        answer_with_key(Some(&log.levels), Some(file.clone()), ask).await.0
    };

    assert_eq!(status(None).await, 403);
    assert_eq!(status(Some("0123456789abcdef0123456789abcde0")).await, 403);
    assert_eq!(log.levels.current(), "info");
    assert_eq!(status(Some(key)).await, 200);
    assert_eq!(log.levels.current(), "debug");
}

#[tokio::test]
async fn a_body_is_small_and_a_log_of_another_program_is_left_alone() {
    let log = log();

    let (too_large, _) = answer(Some(&log.levels), put(&"a".repeat(MAX_BODY_BYTES + 1))).await;
    let (of_another, body) = answer(None, put("debug")).await;

    assert_eq!((too_large, of_another), (413, 409));
    assert!(body.contains(OF_ANOTHER), "{body}");
}
