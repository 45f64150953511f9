//! Routes of the data.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use service::caller;
use tokio::sync::OwnedSemaphorePermit;
use web::auth::scope;
use web::{Identity, Problem};

use crate::Parts;
use crate::events;
use crate::replaying;
use crate::rights::Rights;
use crate::sending::{self, NewMessage, Sent};
use crate::viewer::StateViewer;
use crate::watching::Watching;
use crate::watching::showing::{HopViewer, Samples, Show};

/// Returns the routes of the data.
pub(crate) fn routes(parts: Parts) -> Router {
    Router::new()
        .route("/live/state", get(state))
        .route("/live/tap", get(tap))
        .route("/live/follow", get(follow))
        .route("/live/messages", post(messages))
        .route("/live/dead-letters/{id}/replay", post(replay))
        .route_layer(from_fn(own_page))
        .with_state(parts)
}

/// Passes requests of the page itself, and of programs. A page of another place must not act with the
/// rights of a viewer.
async fn own_page(request: Request, next: Next) -> Response {
    let refused = |why| Problem::new(StatusCode::FORBIDDEN, why).into_response();
    let identity = request.extensions().get::<Identity>();
    let Some(identity) = identity else { return refused("the caller is not known") };
    if let Err(denied) = identity.require(scope::LIVE) {
        return denied.into_response();
    }
    let headers = request.headers();
    if identity.subject.is_none() {
        // The name in the address bar must lead here by itself.
        if !caller::has_local_host(headers) {
            return refused("without credentials, open the page as localhost or 127.0.0.1");
        }
        if caller::is_forwarded(headers) {
            return refused("without credentials, no proxy may lead here: set up auth");
        }
    }
    if is_of_other_page(headers) {
        return refused("another page must not use this one");
    }
    next.run(request).await
}

fn is_of_other_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return false };
    let own = origin.split_once("://").map(|(_, authority)| authority);
    own.is_none() || own != text(header::HOST)
}

/// Streams the state.
async fn state(
    State(parts): State<Parts>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Response> {
    let permit = enter(&parts.viewers, &parts)?;
    let rights = Rights::of(&identity, &parts);
    let viewer = StateViewer::new(parts.latest, parts.closing, rights, permit);
    Ok(events::response(stream::unfold(viewer, StateViewer::step)))
}

/// Takes a place among the viewers.
#[expect(clippy::result_large_err, reason = "the answer goes to the client at once")]
fn enter(
    places: &Arc<tokio::sync::Semaphore>,
    parts: &Parts,
) -> Result<OwnedSemaphorePermit, Response> {
    Arc::clone(places).try_acquire_owned().map_err(|_full| {
        let why = format!("there are {} viewers already", parts.settings.max_viewers);
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
        ([(header::RETRY_AFTER, HeaderValue::from_static("10"))], problem).into_response()
    })
}

/// Messages that a viewer wants to see.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    device: Option<String>,
    ingest_id: Option<String>,
}

type WantedQuery = Result<Query<Wanted>, QueryRejection>;

fn bad_request(why: &str) -> Response {
    Problem::new(StatusCode::BAD_REQUEST, why).into_response()
}

/// Streams samples of messages, of one device or of all.
async fn tap(
    State(parts): State<Parts>,
    Extension(identity): Extension<Identity>,
    query: WantedQuery,
) -> Result<Response, Response> {
    let Query(wanted) = query.map_err(|wrong| bad_request(&wrong.body_text()))?;
    if wanted.ingest_id.is_some() {
        return Err(bad_request("a sample has no ingest_id: follow the message instead"));
    }
    let show = Show::Samples(Samples::new(parts.settings.sample_rate), parts.taps.begin());
    let mut query = vec![("tap", "true")];
    query.extend(wanted.device.as_deref().map(|device| ("device", device)));
    watch(parts, &identity, &query, show)
}

/// Streams all steps of one message, or of all messages of a device.
async fn follow(
    State(parts): State<Parts>,
    Extension(identity): Extension<Identity>,
    query: WantedQuery,
) -> Result<Response, Response> {
    let Query(wanted) = query.map_err(|wrong| bad_request(&wrong.body_text()))?;
    let query = match (&wanted.device, &wanted.ingest_id) {
        (Some(device), None) => ("device", &**device),
        (None, Some(id)) => ("ingest_id", &**id),
        _ => return Err(bad_request("give either device or ingest_id")),
    };
    watch(parts, &identity, &[query], Show::Hops)
}

#[expect(clippy::result_large_err, reason = "the answer goes to the client at once")]
fn watch(
    parts: Parts,
    identity: &Identity,
    query: &[(&str, &str)],
    show: Show,
) -> Result<Response, Response> {
    let permit = enter(&parts.watchers, &parts)?;
    let rights = Rights::of(identity, &parts);
    let watching = Watching::begin(&parts, query, rights);
    let viewer = HopViewer::new(watching, parts.closing, show, permit);
    Ok(events::response(stream::unfold(viewer, HopViewer::step)))
}

/// Sends a message of the page through HTTP ingest.
async fn messages(
    State(parts): State<Parts>,
    Extension(identity): Extension<Identity>,
    message: Result<Json<NewMessage>, JsonRejection>,
) -> Result<(StatusCode, Json<Sent>), Response> {
    identity.require(scope::INGEST).map_err(IntoResponse::into_response)?;
    let Json(message) =
        message.map_err(|wrong| Problem::new(wrong.status(), wrong.body_text()).into_response())?;
    let sent = sending::send(&parts, &message).await.map_err(IntoResponse::into_response)?;
    Ok((StatusCode::ACCEPTED, Json(sent)))
}

/// Sends a dead letter on its way again.
async fn replay(
    State(parts): State<Parts>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Response> {
    identity.require(scope::INGEST).map_err(IntoResponse::into_response)?;
    if !Rights::of(&identity, &parts).replay {
        let why =
            "dead letters are replayed only with authentication, and if live.dead_letters is set";
        return Err(Problem::new(StatusCode::FORBIDDEN, why).into_response());
    }
    let replays = parts.replays.clone();
    let replay = async move { replaying::replay(&parts, &id).await };
    replays.run(replay).await.map_err(IntoResponse::into_response)?;
    Ok(Json(json!({ "replayed": true })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_place_is_refused() {
        let is = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:8088"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            is_of_other_page(&headers)
        };

        assert!(!is(None), "a program");
        assert!(!is(Some("http://localhost:8088")));
        for other in ["http://localhost:1", "https://example.org", "null", ""] {
            assert!(is(Some(other)), "{other}");
        }
    }
}
