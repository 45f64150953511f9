//! Errors in the form of the REST API.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tonic::Code;

use crate::status::Status;

/// Returns the error reason that the REST API of BigQuery uses.
pub(super) fn reason(status: &Status) -> &str {
    status.reason.as_deref().unwrap_or_else(|| reason_and_http(status).0)
}

fn reason_and_http(status: &Status) -> (&'static str, StatusCode) {
    match status.code {
        Code::NotFound => ("notFound", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("duplicate", StatusCode::CONFLICT),
        Code::InvalidArgument => ("invalid", StatusCode::BAD_REQUEST),
        Code::OutOfRange => ("uploadTooLarge", StatusCode::PAYLOAD_TOO_LARGE),
        Code::PermissionDenied => ("accessDenied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("rateLimitExceeded", StatusCode::FORBIDDEN),
        Code::FailedPrecondition => ("conditionNotMet", StatusCode::PRECONDITION_FAILED),
        Code::Unauthenticated => ("authError", StatusCode::UNAUTHORIZED),
        Code::Unavailable => ("backendError", StatusCode::SERVICE_UNAVAILABLE),
        Code::DeadlineExceeded => ("backendError", StatusCode::GATEWAY_TIMEOUT),
        Code::Unimplemented => ("notImplemented", StatusCode::NOT_IMPLEMENTED),
        _ => ("internalError", status.http()),
    }
}

/// Builds an error in the form of the REST API of BigQuery, which has its own reasons.
pub(super) fn answer(status: &Status) -> Response {
    let (http, reason) = (reason_and_http(status).1, reason(status));
    let mut fault = json!({ "message": status.message, "domain": "global", "reason": reason });
    let location = match reason {
        "invalidQuery" => Some(("q", "parameter")),
        "authError" => Some(("Authorization", "header")),
        _ => None,
    };
    if let Some((location, kind)) = location {
        fault["location"] = location.into();
        fault["locationType"] = kind.into();
    }
    let body = json!({ "error": {
        "code": http.as_u16(),
        "message": status.message,
        "errors": [fault],
        "status": status.name(),
    }});
    let mut response = (http, Json(body)).into_response();
    status.set_retry_after(&mut response);
    response
}
