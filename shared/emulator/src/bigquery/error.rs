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

#[cfg(test)]
mod tests {
    use axum::http::header;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    async fn fault(response: Response) -> Value {
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice::<Value>(&bytes).expect("JSON")["error"].take()
    }

    #[test]
    fn every_code_has_the_reason_and_the_http_status_of_bigquery() {
        for (code, expected, http) in [
            (Code::NotFound, "notFound", 404),
            (Code::AlreadyExists, "duplicate", 409),
            (Code::InvalidArgument, "invalid", 400),
            (Code::OutOfRange, "uploadTooLarge", 413),
            (Code::PermissionDenied, "accessDenied", 403),
            (Code::ResourceExhausted, "rateLimitExceeded", 403),
            (Code::FailedPrecondition, "conditionNotMet", 412),
            (Code::Unauthenticated, "authError", 401),
            (Code::Unavailable, "backendError", 503),
            (Code::DeadlineExceeded, "backendError", 504),
            (Code::Unimplemented, "notImplemented", 501),
            (Code::Internal, "internalError", 500),
        ] {
            let status = Status::new(code, "");
            assert_eq!((reason(&status), answer(&status).status().as_u16()), (expected, http));
        }
    }

    #[tokio::test]
    async fn an_error_names_its_reason_and_where_it_is() {
        let invalid = Status::invalid("no such column");
        let query = Status { reason: Some("invalidQuery".into()), ..invalid.clone() };
        let denied = Status::new(Code::Unauthenticated, "who?");

        let plain = fault(answer(&invalid)).await;
        let (query, denied) = (fault(answer(&query)).await, fault(answer(&denied)).await);

        let expected = json!({ "code": 400, "message": "no such column", "status": "INVALID_ARGUMENT",
            "errors": [{ "message": "no such column", "domain": "global", "reason": "invalid" }] });
        assert_eq!(plain, expected);
        let place = |error: &Value| {
            let of = |key: &str| error["errors"][0][key].as_str().unwrap_or_default().to_owned();
            (of("reason"), of("location"), of("locationType"))
        };
        let words = |one: &str, two: &str, three: &str| (one.into(), two.into(), three.into());
        assert_eq!(place(&query), words("invalidQuery", "q", "parameter"));
        assert_eq!(place(&denied), words("authError", "Authorization", "header"));
    }

    #[test]
    fn a_reason_of_its_own_keeps_the_http_status_and_the_time_of_a_retry() {
        let status = Status {
            reason: Some("quotaExceeded".into()),
            retry_after: Some(3),
            ..Status::new(Code::ResourceExhausted, "")
        };

        let response = answer(&status);

        assert_eq!((reason(&status), response.status()), ("quotaExceeded", StatusCode::FORBIDDEN));
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
