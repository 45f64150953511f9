//! `Publish`: some items, and the outcome of each.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message as _;
use tokio::time::Instant;

use super::frames::Frames;
use super::{answer, client_timeout, frame, item, ok, status, trailers};
use crate::http::MAX_ITEMS;
use crate::http::ingest::{Ingest, SCOPE};
use crate::http::item::check_id;
use crate::http::refusal::{Refusal, TOO_LARGE};
use crate::http::sending::Sending;
use crate::proto::{PublishRequest, PublishResponse};
use crate::route::TRACE_PROPERTY;

/// Bytes of the smallest item that can be right.
const SMALLEST_ITEM: usize = 7;

/// Answers `Publish`.
pub(super) async fn publish(
    State(ingest): State<Arc<Ingest>>,
    Extension(caller): Extension<web::Identity>,
    request: Request,
) -> Response {
    if let Err(denied) = caller.require(SCOPE) {
        return denied.into_response();
    }
    answer_to(&ingest, request).await.unwrap_or_else(|refusal| ingest.refuse(refusal))
}

async fn answer_to(ingest: &Ingest, request: Request) -> Result<Response, Refusal> {
    let arrived = Instant::now();
    let headers = request.headers();
    let client_deadline = client_timeout(headers)?.map(|timeout| arrived + timeout);
    let trace = headers.get(TRACE_PROPERTY).and_then(|trace| trace.to_str().ok());
    let trace = trace.map(str::to_owned);
    let mut frames = Frames::of(request, ingest.max_body_bytes)?;
    let size = frames.first_size().await?;
    let mut place = ingest.admission.admit(size, SMALLEST_ITEM).await?;
    let message = frames.message(size).await?;
    let deadline = Instant::now() + ingest.timeout;
    let PublishRequest { items, idempotency_key } = decode(message)?;
    let key = idempotency_key.map(|key| check_id("idempotency_key", key)).transpose()?;
    place.shrink(size, items.len());
    let (place, trace) = (Arc::new(place), trace.as_deref());
    let sending = Sending { ingest, key, trace, place, deadline, client_deadline };
    let mut items: Vec<_> = items.into_iter().map(item::read).collect();
    let outcomes = if items.len() == 1
        && let Some(item) = items.pop()
    {
        match sending.send(item).await {
            Ok(accepted) => vec![Ok(accepted)],
            // The outcome is counted as that of an item.
            Err(refusal) => return Ok(in_first_item(refusal).into_response()),
        }
    } else {
        sending.send_all(items).await
    };
    Ok(told(outcomes.into_iter().map(status::result).collect()))
}

fn decode(message: Bytes) -> Result<PublishRequest, Refusal> {
    let wrong = |error| Refusal::invalid("body", format!("it is no PublishRequest: {error}"));
    match item::count(&message, MAX_ITEMS).map_err(wrong)? {
        0 => Err(Refusal::invalid("items", "items must have at least one item")),
        1..=MAX_ITEMS => PublishRequest::decode(message).map_err(wrong),
        _ => {
            let detail = format!("a request may have at most {MAX_ITEMS} items");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, detail))
        }
    }
}

/// Names the field of the only item from the request's view.
fn in_first_item(refusal: Refusal) -> Refusal {
    match refusal.field.clone() {
        Some(field) => refusal.in_field(format!("items[0].{field}")),
        None => refusal,
    }
}

fn told(results: Vec<crate::proto::ItemResult>) -> Response {
    use crate::proto::item_result::Outcome::Refused;

    let refused = results.iter().filter(|one| matches!(one.outcome, Some(Refused(_)))).count();
    let refused_count = u32::try_from(refused).unwrap_or(u32::MAX);
    let message = frame(&PublishResponse { results, refused_count });
    let frames = [Frame::data(message), Frame::trailers(trailers(&ok()))];
    let frames = stream::iter(frames.map(Ok::<_, Infallible>));
    answer(Body::new(StreamBody::new(frames)))
}
