//! HTTP server for `/healthz`, `/readyz`, `/metrics`, `/status`, `/loglevel` and `/live`, and for
//! routes of the service. `/` lists them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::extract::connect_info::Connected;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::caller::Peer;
use crate::impatient::Impatient;
use crate::routes::{Checked, WrongRoute};
use crate::settings::Http;
use crate::{Context, Health, Routes, listen, live, loglevel, logs};

/// Answer of `/`, for people who open it in a browser.
const PATHS: &str = "\
/healthz  200 while the process makes progress
/readyz   200 when every dependency is there; with Accept: application/json, which one is not
/metrics  numbers for Prometheus
/status   version, settings, guarantees, counts and the last error
/loglevel levels of the log; PUT info,pubsub=debug changes them, from the same machine
/live/events?tap=true   steps of some messages, as they happen; ?device= or ?ingest_id= for all of one
/live/dead-letters      the last dead letters
";

/// Paths of every service.
const OF_SERVER: [&str; 8] = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/status",
    loglevel::PATH,
    live::EVENTS,
    live::DEAD_LETTERS,
];

/// Longest time in which a client takes no byte of an answer. Its connection is cut then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// Listener whose clients must take what is written.
struct Listening(TcpListener);

impl Listener for Listening {
    type Io = Impatient<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (Impatient::new(stream, WRITE_TIMEOUT), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Listening>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listening>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Binds the port.
pub(crate) async fn bind(http: &Http) -> anyhow::Result<(TcpListener, SocketAddr)> {
    listen::bind(&http.host, http.port, ["http.host", "http.port (or PORT)"]).await
}

/// Checks the routes of the service.
///
/// # Errors
/// Names a route that clashes with another one.
pub(crate) fn check(routes: Routes) -> Result<Checked, WrongRoute> {
    routes.checked(&OF_SERVER)
}

/// Serves requests until it is dropped.
///
/// `key_file` has the key for the paths below `/live`, for `/loglevel`, and for guarded routes of the
/// service.
pub(crate) async fn serve(
    listener: TcpListener,
    context: Context,
    key_file: Option<PathBuf>,
    routes: Checked,
) -> anyhow::Result<()> {
    // Dropped with this future, which ends the streams.
    let (_open, closing) = watch::channel(());
    let own: String = routes.paths().map(|path| format!("{path}\n")).collect();
    let live = live::Live::new(context.clone(), key_file.clone(), closing);
    let router = Router::new()
        .route("/", get(format!("{PATHS}{own}")))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(async move || unknown(&own))
        .with_state(context)
        .merge(live.routes())
        .merge(loglevel::routes(logs::levels(), key_file))
        .merge(routes.router(|methods| live.guard(methods)));
    let router = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(Listening(listener), router).await.context("serve health")
}

/// Answers an unknown path with the paths that exist. `own` are those of the service.
fn unknown(own: &str) -> Response {
    const THERE_ARE: &str = "there are /healthz, /readyz, /metrics, /status, /loglevel, /live/events \
                             and /live/dead-letters\n";
    (StatusCode::NOT_FOUND, format!("{THERE_ARE}{own}")).into_response()
}

async fn healthz(State(context): State<Context>) -> Response {
    match context.health.dead() {
        None => "OK".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn readyz(State(context): State<Context>, headers: HeaderMap) -> Response {
    let is_ready = context.health.is_ready();
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if wants_json(&headers) {
        return (code, axum::Json(readiness(&context.health, is_ready))).into_response();
    }
    let text = if is_ready { "READY" } else { "NOT READY" };
    (code, text).into_response()
}

fn readiness(health: &Health, is_ready: bool) -> serde_json::Value {
    serde_json::json!({ "ready": is_ready, "conditions": health.conditions() })
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

async fn metrics(State(context): State<Context>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match context.registry.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(context): State<Context>) -> Response {
    axum::Json(context.health.report()).into_response()
}
