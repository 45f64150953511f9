//! Errors with Google's texts, for gRPC and for REST.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::rpc;
use prost::Message as _;
use tonic::Code;

/// An error of an API: a gRPC code and a message.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// Kind of error.
    pub code: Code,
    /// Description of the error.
    pub message: String,
    /// Seconds after which to try again, in a header of REST answers.
    pub retry_after: Option<u64>,
    /// Reason of a REST API; the default depends on the code.
    pub reason: Option<String>,
    /// Additional messages for gRPC.
    pub(crate) details: Vec<prost_types::Any>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, reason: None, details: Vec::new() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(crate) fn not_found(resource: &str) -> Self {
        Self::new(Code::NotFound, format!("Resource not found (resource={resource})."))
    }

    pub(crate) fn already_exists(resource: &str) -> Self {
        Self::new(Code::AlreadyExists, format!("Resource already exists (resource={resource})."))
    }

    pub(crate) fn unimplemented(what: &str) -> Self {
        Self::new(Code::Unimplemented, format!("this emulator does not support {what}"))
    }

    /// Returns the HTTP status that Google's REST APIs use, from `google/rpc/code.proto`.
    pub(crate) fn http(&self) -> StatusCode {
        match self.code {
            Code::Ok => StatusCode::OK,
            Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
            // Cloud Storage answers a failed precondition with 412, and Pub/Sub with 400.
            Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the reason of Cloud Storage:
    /// <https://cloud.google.com/storage/docs/json_api/v1/status-codes>.
    fn reason(&self) -> &str {
        if let Some(reason) = &self.reason {
            return reason;
        }
        match self.code {
            Code::Ok => "ok",
            Code::InvalidArgument => "invalid",
            Code::OutOfRange => "requestedRangeNotSatisfiable",
            Code::FailedPrecondition => "conditionNotMet",
            Code::Unauthenticated => "required",
            Code::PermissionDenied => "forbidden",
            Code::NotFound => "notFound",
            Code::AlreadyExists | Code::Aborted => "conflict",
            Code::ResourceExhausted => "rateLimitExceeded",
            Code::Unimplemented => "notImplemented",
            Code::Cancelled
            | Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Internal
            | Code::DataLoss => "backendError",
        }
    }

    /// Adds the time of a retry to an answer.
    pub(crate) fn set_retry_after(&self, response: &mut Response) {
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
    }

    /// Returns the name of the code in Google's APIs.
    pub(crate) fn name(&self) -> &'static str {
        match self.code {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        if status.details.is_empty() {
            return Self::new(status.code, status.message);
        }
        let Status { code, message, details, .. } = status;
        let details = rpc::Status { code: code.into(), message: message.clone(), details };
        Self::with_details(code, message, details.encode_to_vec().into())
    }
}

impl Status {
    /// Answers with a special HTTP status of an API.
    pub(crate) fn into_response_with(self, http: StatusCode) -> Response {
        let body = serde_json::json!({ "error": {
            "code": http.as_u16(),
            "message": self.message,
            "status": self.name(),
            "errors": [{ "message": self.message, "domain": "global", "reason": self.reason() }],
        }});
        let mut response = (http, Json(body)).into_response();
        self.set_retry_after(&mut response);
        response
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let http = self.http();
        self.into_response_with(http)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    async fn body(response: Response) -> Value {
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn an_answer_has_the_code_the_reason_and_the_time_of_a_retry() {
        let status = Status::new(Code::ResourceExhausted, "too fast");
        let status = Status { retry_after: Some(7), ..status };

        let response = status.clone().into_response();

        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        let fault =
            json!({ "message": "too fast", "domain": "global", "reason": "rateLimitExceeded" });
        let expected = json!({ "error": {
            "code": 429, "message": "too fast", "status": "RESOURCE_EXHAUSTED", "errors": [fault],
        }});
        assert_eq!(body(response).await, expected);

        let own = Status { reason: Some("mine".into()), retry_after: None, ..status };
        let response = own.into_response_with(StatusCode::BAD_REQUEST);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        let shown = body(response).await;
        assert_eq!(shown["error"]["code"], 400);
        assert_eq!(shown["error"]["errors"][0]["reason"], "mine");
    }

    #[test]
    fn every_code_has_googles_http_status_reason_and_name() {
        for (code, http, reason, name) in [
            (Code::InvalidArgument, 400, "invalid", "INVALID_ARGUMENT"),
            (Code::OutOfRange, 400, "requestedRangeNotSatisfiable", "OUT_OF_RANGE"),
            (Code::FailedPrecondition, 412, "conditionNotMet", "FAILED_PRECONDITION"),
            (Code::Unauthenticated, 401, "required", "UNAUTHENTICATED"),
            (Code::PermissionDenied, 403, "forbidden", "PERMISSION_DENIED"),
            (Code::NotFound, 404, "notFound", "NOT_FOUND"),
            (Code::AlreadyExists, 409, "conflict", "ALREADY_EXISTS"),
            (Code::Aborted, 409, "conflict", "ABORTED"),
            (Code::ResourceExhausted, 429, "rateLimitExceeded", "RESOURCE_EXHAUSTED"),
            (Code::Cancelled, 408, "backendError", "CANCELLED"),
            (Code::Unimplemented, 501, "notImplemented", "UNIMPLEMENTED"),
            (Code::Unavailable, 503, "backendError", "UNAVAILABLE"),
            (Code::DeadlineExceeded, 504, "backendError", "DEADLINE_EXCEEDED"),
            (Code::Internal, 500, "backendError", "INTERNAL"),
            (Code::Unknown, 500, "backendError", "UNKNOWN"),
            (Code::DataLoss, 500, "backendError", "DATA_LOSS"),
        ] {
            let status = Status::new(code, "");
            assert_eq!(
                (status.http().as_u16(), status.reason(), status.name()),
                (http, reason, name)
            );
        }
    }

    #[test]
    fn details_reach_clients_of_grpc_within_a_status() {
        let detail = prost_types::Any { type_url: "t".into(), value: vec![1, 2] };
        let plain = Status::new(Code::NotFound, "gone");
        let detailed = Status { details: vec![detail.clone()], ..plain.clone() };

        let (plain, detailed) = (tonic::Status::from(plain), tonic::Status::from(detailed));

        assert_eq!(
            (plain.code(), plain.message(), plain.details()),
            (Code::NotFound, "gone", &[][..])
        );
        let inner = rpc::Status::decode(detailed.details()).expect("a status");
        assert_eq!((detailed.code(), detailed.message()), (Code::NotFound, "gone"));
        assert_eq!((inner.code, inner.message.as_str()), (Code::NotFound as i32, "gone"));
        assert_eq!(inner.details, [detail]);
    }
}
