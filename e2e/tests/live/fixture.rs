//! A server of the page whose state is a script of the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path as Parameter, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{self, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Policy of the page, as the real server sends it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Time after which a state is sent again. The page takes a longer silence for a loss.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The server. Dropping it ends it.
pub(crate) struct Fixture {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// Answer of a request, other than a stream.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

struct Shared {
    state: watch::Sender<Value>,
    events: broadcast::Sender<Sent>,
    answers: Mutex<BTreeMap<&'static str, Answer>>,
    requests: Mutex<Vec<String>>,
    key: Mutex<Option<&'static str>>,
}

/// An event of a stream other than that of states.
#[derive(Debug, Clone)]
struct Sent {
    stream: &'static str,
    name: &'static str,
    data: Value,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fixture {
    /// Starts the server with this state.
    pub(crate) async fn start(state: Value) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            state: watch::Sender::new(state),
            events: broadcast::Sender::new(1024),
            answers: Mutex::default(),
            requests: Mutex::default(),
            key: Mutex::default(),
        });
        let router = router(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, shared, server }
    }

    /// Returns the address of the page.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Changes the state, and sends it to all viewers.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        self.shared.state.send_modify(change);
    }

    /// Answers requests of a path in this way from now on.
    pub(crate) fn answer(&self, path: &'static str, status: u16, body: Value) {
        locked(&self.shared.answers).insert(path, Answer { status, body });
    }

    /// Answers requests of a path as usual again.
    pub(crate) fn answer_as_usual(&self, path: &'static str) {
        locked(&self.shared.answers).remove(path);
    }

    /// Asks for this key from now on.
    pub(crate) fn ask_for(&self, key: &'static str) {
        *locked(&self.shared.key) = Some(key);
    }

    /// Sends a step to all that follow a message.
    pub(crate) fn hop(&self, hop: Value) {
        self.send(Sent { stream: "follow", name: "hop", data: hop });
    }

    /// Sends an event to all viewers of samples.
    pub(crate) fn sample(&self, name: &'static str, data: Value) {
        self.send(Sent { stream: "tap", name, data });
    }

    /// Returns the method, path and body of each request that changes something, or opens a stream.
    pub(crate) fn requests(&self) -> Vec<String> {
        locked(&self.shared.requests).clone()
    }

    fn send(&self, event: Sent) {
        assert!(self.shared.events.send(event).is_ok(), "nobody reads");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(|| file("index.html".to_owned())))
        .route("/{name}", get(|Parameter(name): Parameter<String>| file(name)))
        .route("/live/state", get(states))
        .route("/live/follow", get(follow))
        .route("/live/tap", get(tap))
        .route("/live/messages", post(messages))
        .route("/live/dead-letters/{id}/replay", post(replay))
        .with_state(shared)
}

/// Sends a file of the page, read anew from the source.
async fn file(name: String) -> Response {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/live/page");
    let Ok(content) = tokio::fs::read(folder.join(&name)).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, content).into_response()
}

impl Shared {
    /// Returns the answer of the script, or a refusal because of the key.
    fn refusal(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        let expected = locked(&self.key).map(|key| format!("Bearer {key}"));
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if expected.is_some() && expected.as_deref() != sent {
            let detail = json!({ "title": "Unauthorized", "detail": "the key is unknown" });
            return Some((StatusCode::UNAUTHORIZED, Json(detail)).into_response());
        }
        let answer = locked(&self.answers).get(path).cloned()?;
        Some((StatusCode::from_u16(answer.status).unwrap(), Json(answer.body)).into_response())
    }

    fn note(&self, request: String) {
        locked(&self.requests).push(request);
    }

    /// Returns the events of one stream.
    fn events(&self, name: &'static str) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let events = self.events.subscribe();
        stream::unfold(events, move |mut events| async move {
            loop {
                let event = events.recv().await.ok()?;
                if event.stream == name {
                    return Some((Ok(written(event.name, &event.data)), events));
                }
            }
        })
    }
}

fn written(name: &str, data: &Value) -> Event {
    Event::default().event(name).json_data(data).unwrap()
}

async fn states(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = shared.refusal("/live/state", &headers) {
        return refusal;
    }
    let mut watched = shared.state.subscribe();
    watched.mark_changed();
    let states = stream::unfold(watched, async |mut watched| {
        // After the time-out, the same state is sent once more.
        if let Ok(changed) = timeout(HEARTBEAT, watched.changed()).await {
            changed.ok()?;
        }
        let event = written("state", &watched.borrow_and_update());
        Some((Ok::<_, Infallible>(event), watched))
    });
    Sse::new(states).into_response()
}

async fn follow(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = shared.refusal("/live/follow", &headers) {
        return refusal;
    }
    let hops = shared.events("follow");
    shared.note(format!("follow {query:?}"));
    let ready = stream::once(async { Ok(written("ready", &json!({}))) });
    Sse::new(ready.chain(hops)).into_response()
}

async fn tap(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = shared.refusal("/live/tap", &headers) {
        return refusal;
    }
    let samples = shared.events("tap");
    shared.note(format!("tap {query:?}"));
    Sse::new(samples).into_response()
}

async fn messages(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(message): Json<Value>,
) -> Response {
    shared.note(format!("send {message}"));
    let accepted = || (StatusCode::ACCEPTED, Json(json!({ "ingest_id": "id-1" }))).into_response();
    shared.refusal("/live/messages", &headers).unwrap_or_else(accepted)
}

async fn replay(
    State(shared): State<Arc<Shared>>,
    Parameter(id): Parameter<String>,
    headers: HeaderMap,
) -> Response {
    shared.note(format!("replay {id}"));
    let replayed = || Json(json!({ "replayed": true })).into_response();
    shared.refusal("/live/dead-letters/replay", &headers).unwrap_or_else(replayed)
}
