//! Paths for people who watch messages: `/live/events` and `/live/dead-letters`.
//!
//! They show data of devices. So they ask for the key of `http.live_key_file`. Without that setting, they
//! answer only callers on the same machine.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use futures::Stream;
use pipeline::hops::{Filter, Viewer};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::Context;
use crate::caller::{self, Peer};

pub(crate) mod key;

/// Path of the steps of messages.
pub(crate) const EVENTS: &str = "/live/events";
/// Path of the last dead letters.
pub(crate) const DEAD_LETTERS: &str = "/live/dead-letters";

/// Time after which a stream without hops sends a comment, so that a connection that is gone is
/// noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Server of the paths below `/live`.
#[derive(Clone)]
pub(crate) struct Live {
    context: Context,
    key_file: Option<Arc<PathBuf>>,
    /// Ends with the server.
    closing: watch::Receiver<()>,
}

/// Messages that a caller wants to see.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    device: Option<String>,
    ingest_id: Option<String>,
    tap: bool,
}

impl Live {
    /// Creates the server. Its streams end when the sender of `closing` is dropped.
    pub(crate) fn new(
        context: Context,
        key_file: Option<PathBuf>,
        closing: watch::Receiver<()>,
    ) -> Self {
        Self { context, key_file: key_file.map(Arc::new), closing }
    }

    /// Returns the routes.
    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route(EVENTS, get(events))
            .route(DEAD_LETTERS, get(dead_letters))
            .route_layer(from_fn_with_state(self.clone(), guard))
            .with_state(self.clone())
    }

    /// Limits a route of the service to the callers of these paths.
    pub(crate) fn guard(&self, methods: MethodRouter) -> MethodRouter {
        methods.layer(from_fn_with_state(self.clone(), guard))
    }
}

/// Passes callers with the key. Without a key in the settings, it passes those on the same machine.
///
/// With a key, callers on the same machine need it, too: one of them may be a proxy that sends no header
/// of its own.
async fn guard(
    State(live): State<Live>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let (may_pass, why) = match live.key_file {
        Some(file) => (
            key::is_given(&file, headers),
            "answers only with the key of http.live_key_file as X-Api-Key",
        ),
        None => (
            caller::is_local(peer.0, headers),
            "answers only callers on the same machine: for others, set http.live_key_file",
        ),
    };
    if may_pass {
        return next.run(request).await;
    }
    problem(StatusCode::FORBIDDEN, why)
}

/// Returns the last dead letters, the newest first.
async fn dead_letters(State(live): State<Live>) -> Response {
    Json(live.context.registry.hops().dead_letters()).into_response()
}

/// Sends the steps of messages until the caller leaves.
async fn events(
    State(live): State<Live>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(rejected) => return problem(StatusCode::BAD_REQUEST, &rejected.body_text()),
    };
    let Wanted { device, ingest_id, tap } = wanted;
    if device.is_none() && ingest_id.is_none() && !tap {
        return problem(StatusCode::BAD_REQUEST, "give device, ingest_id, or tap=true");
    }
    match live.context.registry.hops().watch(Filter { device, ingest_id, tap }) {
        Ok(viewer) => {
            let no_store = [(header::CACHE_CONTROL, "no-store")];
            (no_store, Sse::new(stream(viewer, live.closing))).into_response()
        }
        Err(too_many) => problem(StatusCode::SERVICE_UNAVAILABLE, &too_many.to_string()),
    }
}

/// State of a stream of hops.
struct Sending {
    viewer: Viewer,
    closing: watch::Receiver<()>,
    is_new: bool,
}

fn stream(
    viewer: Viewer,
    closing: watch::Receiver<()>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let sending = Sending { viewer, closing, is_new: true };
    futures::stream::unfold(sending, async |mut sending| {
        let event = sending.next().await?;
        Some((Ok(event), sending))
    })
}

impl Sending {
    /// Waits for the next event. Returns `None` when the server ends.
    async fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.is_new) {
            // The caller learns that it misses nothing from here on.
            return Some(Event::default().comment("watching"));
        }
        let dropped = self.viewer.take_dropped();
        if dropped > 0 {
            let lost = json!({ "dropped": dropped }).to_string();
            return Some(Event::default().event("lost").data(lost));
        }
        let hop = tokio::select! {
            hop = self.viewer.next_within(KEEP_ALIVE) => hop,
            _ = self.closing.changed() => return None,
        };
        let Some(hop) = hop else { return Some(Event::default().comment("")) };
        // Texts and times always have a form in JSON.
        let json = serde_json::to_string(&*hop).unwrap_or_default();
        Some(Event::default().event("hop").data(json))
    }
}

/// Returns an error in JSON [RFC 9457].
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
    });
    let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, media_type, Json(problem).into_response().into_body()).into_response()
}

#[cfg(test)]
mod tests;
