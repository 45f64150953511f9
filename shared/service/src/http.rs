//! HTTP server for `/healthz`, `/readyz`, `/metrics` and `/status`. `/` lists them.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::settings::Http;
use crate::{Context, Health, listen};

/// Answer of `/`, for people who open it in a browser.
const PATHS: &str = "\
/healthz  200 while the process makes progress
/readyz   200 when every dependency is there; with Accept: application/json, which one is not
/metrics  numbers for Prometheus
/status   version, settings, guarantees, counts and the last error
";

/// Binds the port.
pub(crate) async fn bind(http: &Http) -> anyhow::Result<(TcpListener, SocketAddr)> {
    listen::bind(&http.host, http.port, ["http.host", "http.port (or PORT)"]).await
}

/// Serves requests until it is dropped.
pub(crate) async fn serve(listener: TcpListener, context: Context) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/", get(PATHS))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(unknown)
        .with_state(context);
    axum::serve(listener, router).await.context("serve health")
}

/// Answers an unknown path with the paths that exist.
async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics and /status\n").into_response()
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
