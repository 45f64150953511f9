//! Answers: the outcome of each item.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use pipeline::Reason;
use serde::Serialize;

use super::refusal::{Refusal, retry_after};

/// Item that is published, or a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Accepted {
    /// The `ingest_id` of the message.
    pub id: String,
    /// Reason of its dead letter, if it became one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<&'static str>,
}

impl Accepted {
    pub(super) fn new(id: String, dead_letter: Option<Reason>) -> Self {
        Self { id, dead_letter: dead_letter.map(Reason::as_str) }
    }
}

/// Outcome of an item.
pub(super) type Outcome = Result<Accepted, Refusal>;

/// Outcome of an item in a batch.
#[derive(Serialize)]
struct Row {
    index: usize,
    status: u16,
    #[serde(flatten)]
    accepted: Option<Accepted>,
    #[serde(flatten)]
    refused: Option<Refused>,
}

#[derive(Serialize)]
struct Refused {
    reason: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// Outcomes of a batch of which an item was refused, as a problem [RFC 9457].
#[derive(Serialize)]
struct Partial {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    results: Vec<Row>,
}

/// Answers a request with one item.
pub(super) fn one(outcome: Outcome) -> Response {
    match outcome {
        Ok(accepted) => (StatusCode::ACCEPTED, Json(accepted)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// Answers a batch. The status is 2xx only if every item was accepted. Otherwise a client that looks
/// at the status alone would take a lost item for an accepted one.
pub(super) fn many(outcomes: Vec<Outcome>) -> Response {
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let statuses: Vec<_> = refused.map(|refusal| refusal.status).collect();
    let count = outcomes.len();
    let results = outcomes.into_iter().enumerate();
    let results: Vec<_> = results.map(|(index, outcome)| row(index, outcome)).collect();
    if statuses.is_empty() {
        return Json(serde_json::json!({ "results": results })).into_response();
    }
    let status = if statuses.contains(&StatusCode::SERVICE_UNAVAILABLE) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let detail = format!("{} of {count} items were refused; see results", statuses.len());
    let title = status.canonical_reason().unwrap_or("Unknown");
    let partial =
        Partial { r#type: "about:blank", title, status: status.as_u16(), detail, results };
    let mut response = (status, Json(partial)).into_response();
    let media_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    if let Some(seconds) = retry_after(status) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

fn row(index: usize, outcome: Outcome) -> Row {
    match outcome {
        Ok(accepted) => {
            let status = StatusCode::ACCEPTED.as_u16();
            Row { index, status, accepted: Some(accepted), refused: None }
        }
        Err(Refusal { status, reason, detail, field }) => {
            let refused = Some(Refused { reason, detail, field });
            Row { index, status: status.as_u16(), accepted: None, refused }
        }
    }
}
