//! Refusals in the words of gRPC.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use pipeline::dead_letter::cut;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use web::Problem;

use crate::http::answer::Outcome;
use crate::http::refusal::{Refusal, retry_seconds};
use crate::proto;
use crate::proto::item_result::Outcome as Told;

/// Maximum bytes of a text. A status is sent in headers, and clients allow about 8 KiB of them.
const MAX_TEXT_BYTES: usize = 512;

/// Answers with the status of a problem. The listener asks for it.
pub(super) fn of_problem(problem: &Problem, retry_after: Option<Duration>) -> Response {
    status(problem.status(), problem.detail(), problem.field(), retry_after).into_http()
}

/// Returns the status of a refusal.
pub(super) fn of_refusal(refusal: &Refusal) -> Status {
    let Refusal { status: code, detail, field, .. } = refusal;
    status(*code, detail, field.as_deref(), retry_after(*code))
}

/// Returns the outcome of an item as its result.
pub(super) fn result(outcome: Outcome) -> proto::ItemResult {
    let told = match outcome {
        Ok(accepted) => {
            let dead_letter = accepted.dead_letter.unwrap_or_default().into();
            Told::Accepted(proto::Accepted { id: accepted.id, dead_letter })
        }
        Err(Refusal { status, reason, detail, field }) => {
            let seconds = retry_seconds(status).map(i64::from);
            Told::Refused(proto::Refused {
                code: code(status).into(),
                reason: reason.into(),
                detail,
                field: field.unwrap_or_default(),
                retry_after: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            })
        }
    };
    proto::ItemResult { outcome: Some(told) }
}

fn retry_after(status: StatusCode) -> Option<Duration> {
    retry_seconds(status).map(|seconds| Duration::from_secs(seconds.into()))
}

fn status(
    status: StatusCode,
    detail: &str,
    field: Option<&str>,
    retry_after: Option<Duration>,
) -> Status {
    let detail = cut(detail.to_owned(), MAX_TEXT_BYTES);
    let mut details = ErrorDetails::new();
    if let Some(field) = field {
        details.add_bad_request_violation(field, detail.clone());
    }
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code(status), detail, details)
}

/// Returns the code of a refusal. The codes that clients retry, RESOURCE_EXHAUSTED and UNAVAILABLE,
/// mean that sending it again can help.
fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::NOT_IMPLEMENTED
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::Unimplemented,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_help_is_to_be_sent_again() {
        for (number, expected, is_to_be_repeated) in [
            (400, Code::InvalidArgument, false),
            (401, Code::Unauthenticated, false),
            (403, Code::PermissionDenied, false),
            (404, Code::NotFound, false),
            (408, Code::DeadlineExceeded, false),
            (413, Code::InvalidArgument, false),
            (415, Code::Unimplemented, false),
            (421, Code::PermissionDenied, false),
            (422, Code::InvalidArgument, false),
            (429, Code::ResourceExhausted, true),
            (500, Code::Internal, false),
            (501, Code::Unimplemented, false),
            (503, Code::Unavailable, true),
            (504, Code::DeadlineExceeded, false),
        ] {
            let refusal = Refusal::new(StatusCode::from_u16(number).unwrap(), "r", "why");

            let status = of_refusal(&refusal.in_field("f"));

            let details = status.get_error_details();
            assert_eq!(status.code(), expected, "{number}");
            assert_eq!(details.retry_info().is_some(), is_to_be_repeated, "{number}");
            assert_eq!(details.bad_request().unwrap().field_violations[0].field, "f");
        }
    }

    #[test]
    fn a_status_fits_into_the_headers_that_clients_allow() {
        let refusal = Refusal::invalid("€".repeat(1000), "€".repeat(1000));

        let trailers = super::super::trailers(&of_refusal(&refusal));

        let size: usize =
            trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(size < 6000, "{size}");
    }
}
