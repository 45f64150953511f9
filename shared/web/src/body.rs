//! Bounds on the body of a request: its size, and the time that it takes to arrive.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use crate::Problem;
use crate::auth::Quota;
use crate::grpc::GrpcCall;

/// Bounds on the body of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit {
    /// Maximum size, whatever the headers announce.
    pub max_bytes: usize,
    /// Maximum time from the headers to the end of the body.
    pub timeout: Duration,
}

/// Bound that a body has passed.
#[derive(Debug, Clone, Copy)]
enum Excess {
    TooLarge,
    TooSlow,
}

/// Passes requests on with a body that fails at its bounds. Then the answer is 413 or 408, in
/// whatever way the handler takes it.
///
/// Calls of gRPC have no bound here. Their bodies can be streams, and their handlers bound each
/// message.
pub(crate) async fn limit(
    State(limit): State<BodyLimit>,
    request: Request,
    next: Next,
) -> Response {
    if request.extensions().get::<GrpcCall>().is_some() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > limit.max_bytes as u64 {
        return refusal(Excess::TooLarge, limit);
    }
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let excess = Arc::new(OnceLock::new());
    let limited = Reading {
        body: body.into_data_stream(),
        left: limit.max_bytes,
        deadline: Instant::now() + limit.timeout,
        excess: Arc::clone(&excess),
        quota: parts.extensions.get::<Quota>().cloned(),
    };
    let body = Body::from_stream(stream::try_unfold(limited, Reading::next));
    let response = next.run(Request::from_parts(parts, body)).await;
    let status = response.status();
    match excess.get() {
        Some(excess) if status.is_client_error() || status.is_server_error() => {
            refusal(*excess, limit)
        }
        _ => response,
    }
}

fn refusal(excess: Excess, limit: BodyLimit) -> Response {
    let problem = match excess {
        Excess::TooLarge => {
            let detail = format!("the body may have at most {} bytes", limit.max_bytes);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Excess::TooSlow => {
            let detail = format!("the body must arrive within {:?}", limit.timeout);
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        }
    };
    let mut response = problem.into_response();
    // The rest of the body is not read.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Body that is being read.
struct Reading {
    body: BodyDataStream,
    left: usize,
    deadline: Instant,
    excess: Arc<OnceLock<Excess>>,
    quota: Option<Quota>,
}

impl Reading {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Ok(chunk) = timeout_at(self.deadline, self.body.next()).await else {
            return Err(self.fail(Excess::TooSlow));
        };
        let Some(chunk) = chunk.transpose().map_err(io::Error::other)? else { return Ok(None) };
        if let Some(quota) = &self.quota {
            quota.take(chunk.len());
        }
        let Some(left) = self.left.checked_sub(chunk.len()) else {
            return Err(self.fail(Excess::TooLarge));
        };
        Ok(Some((chunk, Self { left, ..self })))
    }

    fn fail(self, excess: Excess) -> io::Error {
        // It is set once, because the stream ends here.
        self.excess.get_or_init(|| excess);
        io::Error::other(format!("the body was refused: {excess:?}"))
    }
}
