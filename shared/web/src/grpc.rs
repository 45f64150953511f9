//! Calls of gRPC on a listener.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::response::Response;

use crate::Problem;

/// Answers to calls of gRPC, beside those to requests of HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Grpc {
    /// Makes a status of a problem. The time is that of `Retry-After`.
    pub status: fn(&Problem, Option<Duration>) -> Response,
    /// Beginning of the paths that need no credentials, such as `/grpc.health.v1.Health/`.
    pub open: &'static str,
}

/// Mark of a call of gRPC, in the extensions of its request. It came over HTTP/2.
#[derive(Debug, Clone, Copy)]
pub struct GrpcCall;

impl Grpc {
    /// Returns a problem as a status. Any other answer is right as it is.
    pub(crate) fn translate(&self, response: &Response) -> Option<Response> {
        let problem = response.extensions().get::<Problem>()?;
        let seconds = response.headers().get(header::RETRY_AFTER).and_then(|it| it.to_str().ok());
        let retry_after = seconds.and_then(|it| it.parse().ok()).map(Duration::from_secs);
        let mut answer = (self.status)(problem, retry_after);
        answer.extensions_mut().insert(problem.clone());
        Some(answer)
    }
}

/// Returns whether a request is a call of gRPC.
pub(crate) fn is_call(request: &Request) -> bool {
    let media_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    // There are others, such as application/grpc-web.
    let is_right = [b"application/grpc".as_slice(), b"application/grpc+proto"];
    request.version() == Version::HTTP_2 && media_type.is_some_and(|it| is_right.contains(&it))
}
