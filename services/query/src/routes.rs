//! Routes of the listener for users.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use service::Condition;
use tokio::time::timeout;
use tracing::warn;
use web::auth::scope;
use web::{Identity, Problem};

use crate::answer::Answer;
use crate::format::Format;
use crate::memory::AnswerMemory;
use crate::openapi;
use crate::parameters::Parameters;
use crate::store::{Failure, Store, told};

/// Seconds after which a caller may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Parts of the API. Clones share them.
#[derive(Clone)]
pub(crate) struct Api<S> {
    /// Table that is asked.
    pub(crate) store: S,
    /// Longest duration of a query.
    pub(crate) timeout: Duration,
    /// Memory of all answers together.
    pub(crate) memory: AnswerMemory,
    /// State of the table. A request that meets an outage reports it at once.
    pub(crate) condition: Condition,
}

/// Returns the routes.
pub(crate) fn routes<S: Store>(api: Api<S>) -> Router {
    Router::new()
        .route("/data", get(data::<S>))
        .route("/openapi.json", get(async || Json(openapi::document())))
        .with_state(api)
}

async fn data<S: Store>(
    State(api): State<Api<S>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    identity.require(scope::READ).map_err(IntoResponse::into_response)?;
    let Query(pairs) = query.map_err(|rejected| {
        Problem::new(StatusCode::BAD_REQUEST, rejected.body_text()).into_response()
    })?;
    let asked = Parameters::read(&pairs).map_err(IntoResponse::into_response)?;
    let format = asked.format.unwrap_or_else(|| Format::accepted(&headers));
    if !api.memory.has_room() {
        return Err(crowded());
    }
    // The wait for a connection counts, too.
    let asking = timeout(api.timeout, api.store.page(&asked));
    let page = asking.await.unwrap_or(Err(Failure::Slow));
    let page = page.map_err(|failure| refusal(&api, &failure))?;
    let answer = Answer::of(page, format)
        .map_err(|why| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response())?;
    answer.response(&api.memory).ok_or_else(crowded)
}

/// Returns the answer for a query that failed.
fn refusal<S: Store>(api: &Api<S>, failure: &Failure) -> Response {
    if failure.is_outage() {
        let why = told(&api.store, failure);
        // Callers need not know names and addresses of our server.
        warn!(why, "a query was not answered");
        api.condition.not_ready(why);
        return unavailable("the database is not available".into());
    }
    if let Failure::Busy(why) = failure {
        warn!(why, "a query was not answered");
        return unavailable("the database has no quota or resources left for the query".into());
    }
    if *failure == Failure::Costly {
        let detail = "would read more than the server allows; ask for a shorter time";
        let problem = Problem::new(StatusCode::BAD_REQUEST, format!("the query {detail}"));
        return problem.in_field("start_time").into_response();
    }
    unavailable(format!(
        "the query took longer than {:?}; ask for one source, or for a shorter time",
        api.timeout
    ))
}

/// Returns the answer while slow clients have not read the answers to earlier requests.
fn crowded() -> Response {
    unavailable("earlier answers are still being sent; ask again".into())
}

fn unavailable(detail: String) -> Response {
    let mut response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}

#[cfg(test)]
mod tests;
