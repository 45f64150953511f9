//! Path `/loglevel`: shows the levels of the log, and changes them while the process runs.
//!
//! It answers only callers on the same machine, whose requests name this machine as their host.

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tracing::info;

use crate::caller::{self, Peer};
use crate::live::problem;
use crate::logs::{Levels, NotChanged};

/// Maximum size of a request's body in bytes.
const MAX_BODY_BYTES: usize = 4096;
/// Answer in a program that embeds a service and writes its own logs.
const OF_ANOTHER: &str = "the program that runs this service has set up the log itself";

/// Returns the route. Without levels, another program has set up the log.
pub(crate) fn routes(levels: Option<Levels>) -> Router {
    Router::new()
        .route("/loglevel", get(show).put(change))
        .route_layer(from_fn(guard))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(levels)
}

async fn guard(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    if caller::is_local(peer.0, request.headers()) {
        return next.run(request).await;
    }
    problem(StatusCode::FORBIDDEN, "answers only callers on the same machine")
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
        Ok(before) => {
            info!(before, levels = directives.trim(), "the levels of the log have changed");
            format!("{}\n", levels.current()).into_response()
        }
        Err(NotChanged::Wrong(why)) => problem(StatusCode::BAD_REQUEST, &why),
        Err(NotChanged::Gone(why)) => problem(StatusCode::CONFLICT, &why.to_string()),
    }
}

#[cfg(test)]
mod tests;
