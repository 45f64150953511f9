//! Path `/loglevel`: shows the levels of the log, and changes them while the process runs.
//!
//! It answers only callers on the same machine, whose requests name this machine as their host. With
//! `http.live_key_file`, they need its key, too: one of them may be a proxy that sends no header of its
//! own.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::caller::{self, Peer};
use crate::live::{key, problem};
use crate::logs::{Levels, NotChanged};

/// Path of the levels.
pub(crate) const PATH: &str = "/loglevel";
/// Maximum size of a request's body in bytes.
const MAX_BODY_BYTES: usize = 4096;
/// Answer in a program that embeds a service and writes its own logs.
const OF_ANOTHER: &str = "the program that runs this service has set up the log itself";

/// Returns the route. Without levels, another program has set up the log. `key_file` has the key that
/// callers need.
pub(crate) fn routes(levels: Option<Levels>, key_file: Option<PathBuf>) -> Router {
    Router::new()
        .route(PATH, get(show).put(change))
        .route_layer(from_fn_with_state(key_file.map(Arc::new), guard))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(levels)
}

async fn guard(
    State(key_file): State<Option<Arc<PathBuf>>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if !caller::is_local(peer.0, headers) {
        return problem(StatusCode::FORBIDDEN, "answers only callers on the same machine");
    }
    if key_file.is_some_and(|file| !key::is_given(&file, headers)) {
        let why = "answers only with the key of http.live_key_file as X-Api-Key";
        return problem(StatusCode::FORBIDDEN, why);
    }
    next.run(request).await
}

async fn show(State(levels): State<Option<Levels>>) -> Response {
    match levels {
        Some(levels) => format!("{}\n", levels.current()).into_response(),
        None => problem(StatusCode::CONFLICT, OF_ANOTHER),
    }
}

async fn change(State(levels): State<Option<Levels>>, directives: String) -> Response {
    let Some(levels) = levels else { return problem(StatusCode::CONFLICT, OF_ANOTHER) };
    match levels.set(directives.trim()) {
        Ok(()) => format!("{}\n", levels.current()).into_response(),
        Err(NotChanged::Wrong(why)) => problem(StatusCode::BAD_REQUEST, &why),
        Err(NotChanged::Gone(why)) => problem(StatusCode::CONFLICT, &why.to_string()),
    }
}

#[cfg(test)]
mod tests;
