//! Routes of the listener for users.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use tokio::time::timeout;
use tracing::warn;
use web::auth::scope;
use web::{Identity, Problem};

use crate::answer;
use crate::format::Format;
use crate::openapi;
use crate::parameters::Parameters;
use crate::store::{Failure, Store};

/// Seconds after which a caller may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

#[derive(Clone)]
struct Api {
    store: Store,
    timeout: Duration,
}

/// Returns the routes. A query takes `timeout` at most.
pub(crate) fn routes(store: Store, timeout: Duration) -> Router {
    Router::new()
        .route("/data", get(data))
        .route("/openapi.json", get(async || Json(openapi::document())))
        .with_state(Api { store, timeout })
}

async fn data(
    State(Api { store, timeout: longest }): State<Api>,
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
    // The wait for a connection counts, too.
    let asking = timeout(longest, store.page(&asked));
    match asking.await.unwrap_or(Err(Failure::Slow)) {
        Ok(page) => Ok(answer::of(&page, format)),
        Err(Failure::Slow) => {
            let detail = format!(
                "the query took longer than {longest:?}; ask for one source, or for a shorter time"
            );
            Err(unavailable(detail))
        }
        Err(Failure::Away(why)) => {
            // Callers need not know names and addresses of our server.
            warn!(why, "a query was not answered");
            Err(unavailable("the database is not available".into()))
        }
    }
}

fn unavailable(detail: String) -> Response {
    let mut response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}
