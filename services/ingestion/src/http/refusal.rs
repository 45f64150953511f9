//! Refusals of requests and items.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pipeline::dead_letter::{MAX_DETAIL_BYTES, cut};
use web::Problem;

/// Reasons why an item or a whole request is refused, as the metrics name them.
pub(crate) const REASONS: [&str; 9] = [
    INVALID,
    NO_ROUTE,
    TOO_LARGE,
    PAYLOAD_TOO_SMALL,
    PAYLOAD_TOO_LARGE,
    MEDIA_TYPE,
    BUSY,
    DROPPED,
    UNAVAILABLE,
];
/// A value is missing or wrong.
pub(super) const INVALID: &str = "invalid";
/// No route takes the source.
pub(super) const NO_ROUTE: &str = "no_route";
/// The body is too large after decompression, or has too many items.
pub(super) const TOO_LARGE: &str = "too_large";
/// The payload is smaller than its route allows.
pub(super) const PAYLOAD_TOO_SMALL: &str = "payload_too_small";
/// The payload is larger than its route allows.
pub(super) const PAYLOAD_TOO_LARGE: &str = "payload_too_large";
/// The media type or the content encoding is not supported.
pub(super) const MEDIA_TYPE: &str = "media_type";
/// Too many requests wait.
pub(super) const BUSY: &str = "busy";
/// The message can never succeed, and the settings ask for no dead letters.
pub(super) const DROPPED: &str = "dropped";
/// The message was not published in time, or nobody knows whether it was.
pub(super) const UNAVAILABLE: &str = "unavailable";

/// Longest name of a field in an answer, in bytes. A client may send longer ones.
const MAX_FIELD_BYTES: usize = 128;
/// Seconds after which a client may try again when too many requests wait.
const RETRY_BUSY: u32 = 1;
/// Seconds after which a client may try again when messages cannot be published.
const RETRY_UNAVAILABLE: u32 = 5;

/// Refusal of an item, or of a whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub reason: &'static str,
    pub detail: String,
    pub field: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: cut(detail.into(), MAX_DETAIL_BYTES), field: None }
    }

    /// Refuses a value that is missing or wrong.
    pub(super) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, detail).in_field(field)
    }

    /// Refuses a message that was not published, as far as anybody knows.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, detail)
    }

    /// Refuses a message whose publish is not known in time.
    pub(super) fn not_in_time() -> Self {
        Self::unavailable(
            "it is not known to be published: send the same request again, with the same id or \
             Idempotency-Key; in a batch, the key counts for an item at its place",
        )
    }

    /// Refuses a message, because the process ends.
    pub(super) fn ending() -> Self {
        Self::unavailable("this process is ending: send it again")
    }

    /// Refuses a message whose client waits no longer.
    pub(super) fn too_late() -> Self {
        let detail = "the deadline of the call has passed: it may be published, or not";
        Self::new(StatusCode::GATEWAY_TIMEOUT, UNAVAILABLE, detail)
    }

    /// Refuses a request, because too many wait.
    pub(super) fn busy() -> Self {
        let detail = "too many requests wait: send it again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, BUSY, detail)
    }

    pub(super) fn in_field(self, field: impl Into<String>) -> Self {
        Self { field: Some(cut(field.into(), MAX_FIELD_BYTES)), ..self }
    }
}

/// Returns the seconds after which a client should try again, if it should.
pub(super) fn retry_seconds(status: StatusCode) -> Option<u32> {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(RETRY_BUSY),
        StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_UNAVAILABLE),
        // Any other refusal is permanent.
        _ => None,
    }
}

/// Returns the header `Retry-After` of a status, if the client should try again.
pub(super) fn retry_after(status: StatusCode) -> Option<HeaderValue> {
    retry_seconds(status).map(HeaderValue::from)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut problem = Problem::new(self.status, self.detail);
        if let Some(field) = self.field {
            problem = problem.in_field(field);
        }
        let mut response = problem.into_response();
        if let Some(seconds) = retry_after(self.status) {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
