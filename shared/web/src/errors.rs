//! Every error of the routes as a [`Problem`], also a panic.

use std::panic::AssertUnwindSafe;

use axum::body::{HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use tracing::error;

use crate::Problem;
use crate::grpc::{self, Grpc, GrpcCall};

/// Maximum size of an error text that becomes the detail of a problem.
const MAX_TEXT_BYTES: u64 = 4096;

/// Answers with a problem for each error, and for a panic. A call of gRPC gets it as a status.
pub(crate) async fn as_problems(
    State(grpc): State<Option<Grpc>>,
    mut request: Request,
    next: Next,
) -> Response {
    let of_call = grpc.filter(|_| grpc::is_call(&request));
    if of_call.is_some() {
        request.extensions_mut().insert(GrpcCall);
    }
    let response = caught(request, next).await;
    of_call.map(|grpc| grpc.translate(&response)).unwrap_or_default().unwrap_or(response)
}

async fn caught(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    // The state of a handler is dropped with it, except what it shares with others. Locks of those
    // are poisoned by a panic.
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => problem_of(response).await,
        Err(_panic) => {
            // The hook of the process has logged the panic itself.
            error!(%method, "a request was answered with 500 because its handler panicked");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "the request failed by an error of this service").into_response()
        }
    }
}

/// Answers a path that does not exist.
pub(crate) async fn unknown_path(request: Request) -> Problem {
    if request.extensions().get::<GrpcCall>().is_some() {
        return Problem::new(StatusCode::NOT_IMPLEMENTED, "there is no such method");
    }
    Problem::new(StatusCode::NOT_FOUND, "there is no such path")
}

/// Answers a method that the path does not have. The header `Allow` names those that it has.
pub(crate) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the path does not have this method")
}

/// Replaces an error that is plain text or empty. Extractors of axum answer with such errors.
async fn problem_of(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let size = response.body().size_hint().upper();
    if !is_error || !is_text(response.headers()) || size.is_none_or(|size| size > MAX_TEXT_BYTES) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, MAX_TEXT_BYTES as usize).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut problem = Problem::new(status, text.trim()).into_response();
    for (name, value) in &parts.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            problem.headers_mut().append(name, value.clone());
        }
    }
    problem.extensions_mut().extend(parts.extensions);
    problem
}

fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_none_or(|kind| kind.starts_with(b"text/plain"))
}
