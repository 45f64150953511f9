//! A listener with a few routes, and a client that writes bytes as the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use web::{
    Authenticate, Bound, Denied, Identity, Limits, Listener, Metrics, Open, Problem, Server,
};

/// Maximum wait for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Bound that a test wants to see passed.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// Running listener. Its bounds are long, unless a test changes them.
pub(crate) struct TestEnv {
    pub server: Server,
    pub address: SocketAddr,
    pub metrics: Metrics,
    pub wait: Wait,
}

/// Handler that waits until the test lets it answer.
#[derive(Clone)]
pub(crate) struct Wait {
    pub begun: Arc<Semaphore>,
    pub may_answer: Arc<Semaphore>,
}

impl Wait {
    fn new() -> Self {
        Self { begun: Arc::new(Semaphore::new(0)), may_answer: Arc::new(Semaphore::new(0)) }
    }

    async fn answer(self) -> &'static str {
        self.begun.add_permits(1);
        self.may_answer.acquire().await.unwrap().forget();
        "waited"
    }

    /// Returns once a request is with its handler.
    pub(crate) async fn begun(&self) {
        within(self.begun.acquire()).await.unwrap().forget();
    }
}

/// Caller `reader` with the scope `read`, if the header says so.
#[derive(Clone)]
pub(crate) struct ByName;

impl Authenticate for ByName {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Denied> {
        match headers.get("authorization").map(HeaderValue::as_bytes) {
            Some(b"reader") => Ok(Identity::new("reader", ["read"])),
            _ => Err(Denied::Unauthenticated("send who you are".into())),
        }
    }
}

/// Returns limits that no test reaches by accident.
pub(crate) fn patient() -> Limits {
    Limits {
        header_timeout: 2 * PATIENCE,
        body_timeout: 2 * PATIENCE,
        write_timeout: 2 * PATIENCE,
        ..Limits::default()
    }
}

/// Returns a listener on loopback that takes bodies of 1,000 bytes.
pub(crate) fn listener() -> Listener {
    Listener { port: 0, max_body_bytes: 1000, ..Listener::default() }
}

fn routes(wait: &Wait) -> Router {
    let wait = wait.clone();
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/json", post(async |Json(_): Json<Value>| "read"))
        .route("/ignores", post(|| async { "not read" }))
        .route(
            "/field",
            get(|| async { Problem::new(StatusCode::BAD_REQUEST, "no").in_field("limit") }),
        )
        .route(
            "/panics",
            get(async || {
                if true {
                    panic!("a defect")
                }
            }),
        )
        .route(
            "/write",
            get(async |Extension(caller): Extension<Identity>| caller.require("write")),
        )
        .route(
            "/who",
            get(async |Extension(caller): Extension<Identity>| caller.subject.unwrap_or_default()),
        )
        .route("/big", get(|| async { vec![b'x'; 64 * 1024 * 1024] }))
        .route("/waits", get(move || wait.clone().answer()))
}

impl TestEnv {
    pub(crate) async fn start() -> Self {
        Self::with(&listener(), Open::on_loopback(), patient()).await
    }

    pub(crate) async fn with(listener: &Listener, auth: impl Authenticate, limits: Limits) -> Self {
        let bound = Bound::bind(listener, "test", auth).await.unwrap().with_limits(limits);
        let (address, metrics, wait) = (bound.address(), Metrics::default(), Wait::new());
        let server = bound.serve(routes(&wait), &metrics);
        Self { server, address, metrics, wait }
    }

    /// Opens a connection and writes these bytes.
    pub(crate) async fn write(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = Client(TcpStream::connect(self.address).await.unwrap());
        client.write(bytes).await;
        client
    }

    /// Sends a request on a connection of its own, and returns the whole answer.
    pub(crate) async fn ask(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let mut request = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for header in headers {
            request.push_str(&format!("{header}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        let mut client = self.write(format!("{request}\r\n{body}")).await;
        Answer(client.rest().await)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], "").await
    }
}

pub(crate) struct Client(pub TcpStream);

impl Client {
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads until the other side ends the connection. A reset counts as an end.
    pub(crate) async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        // What arrived before a reset stays in the buffer.
        let _ = within(self.0.read_to_end(&mut all)).await;
        String::from_utf8(all).unwrap()
    }

    /// Reads one answer, of which the body ends with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut all = String::new();
        while !all.ends_with(end) {
            let byte = within(self.0.read_u8()).await;
            all.push(char::from(byte.unwrap_or_else(|error| panic!("{error} after {all}"))));
        }
        all
    }
}

/// Answer with its head and its body.
#[derive(Debug)]
pub(crate) struct Answer(pub String);

impl Answer {
    pub(crate) fn code(&self) -> u16 {
        self.0.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let head = self.0.split("\r\n\r\n").next().unwrap();
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// Returns the detail of the problem, and checks all that each problem has.
    pub(crate) fn detail(&self, code: u16) -> String {
        assert_eq!(self.code(), code, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(self.body()).unwrap();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], code);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(PATIENCE, event).await.expect("the event comes")
}
