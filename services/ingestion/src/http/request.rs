//! `POST /ingest`: the items of a body become messages, and their outcomes the answer.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::form::{Content, Form};
use super::ingest::{Ingest, SCOPE};
use super::item::{self, Item};
use super::refusal::Refusal;
use super::sending::Sending;
use super::{answer, batch, body, cloud_event};
use crate::route::TRACE_PROPERTY;

/// Header with the idempotency key, from the draft of the IETF.
const KEY_HEADER: &str = "Idempotency-Key";
/// Size of the smallest item, with the comma behind it.
const SMALLEST_ITEM: usize = r#"{"sourceId":"a","payload":1},"#.len();

/// Items of a body, as they could be read.
enum Items {
    One(Result<Item, Refusal>),
    Many(Vec<Result<Item, Refusal>>),
}

/// Answers `POST /ingest`.
pub(super) async fn ingest(
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
    let (head, body) = request.into_parts();
    let headers = head.headers;
    let form = Form::of(&headers)?;
    let key = idempotency_key(&headers)?;
    let max_bytes = ingest.max_body_bytes;
    let max_size = body::max_size(&headers, form, max_bytes);
    let mut place = ingest.admission.admit(max_size, SMALLEST_ITEM).await?;
    let body = body::read(body, form, max_bytes).await?;
    let deadline = Instant::now() + ingest.timeout;
    let size = body.len();
    let items = read(form.content, &headers, body)?;
    let trace = headers.get(TRACE_PROPERTY).and_then(|trace| trace.to_str().ok());
    let count = match &items {
        Items::One(_) => 1,
        Items::Many(items) => items.len(),
    };
    place.shrink(size, count);
    let (place, client_deadline) = (Arc::new(place), None);
    let sending = Sending { ingest, key, trace, place, deadline, client_deadline };
    Ok(match items {
        Items::One(item) => answer::one(sending.send(item).await),
        Items::Many(items) => answer::many(sending.send_all(items).await),
    })
}

/// Reads the items of a body.
fn read(content: Content, headers: &HeaderMap, body: Bytes) -> Result<Items, Refusal> {
    if content == Content::EventData {
        return Ok(Items::One(cloud_event::of_headers(headers, body)));
    }
    let not_text = |_| Refusal::invalid("body", "the body must be UTF-8");
    let text = std::str::from_utf8(&body).map_err(not_text)?;
    let all = |items: Vec<&str>, read: fn(&str) -> Result<Item, Refusal>| {
        Items::Many(items.into_iter().map(read).collect())
    };
    Ok(match content {
        Content::Json if text.trim_start().starts_with('[') => {
            all(batch::of_array(text)?, item::read)
        }
        Content::Json => Items::One(item::read(text)),
        Content::Lines => all(batch::of_lines(text)?, item::read),
        Content::Events => all(batch::of_array(text)?, cloud_event::read),
        Content::Event | Content::EventData => Items::One(cloud_event::read(text)),
    })
}

/// Returns the idempotency key of a request. The draft of the IETF puts it in quotes, and few clients
/// do.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get(KEY_HEADER) else { return Ok(None) };
    // A key that is no text has a character that is not allowed.
    let key = key.to_str().unwrap_or("\0").trim();
    let plain = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    item::check_id(KEY_HEADER, plain.to_owned()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_in_quotes() {
        let key = |text: &'static str| {
            let headers = HeaderMap::from_iter([(
                axum::http::HeaderName::from_static("idempotency-key"),
                axum::http::HeaderValue::from_static(text),
            )]);
            idempotency_key(&headers)
        };

        assert_eq!(key("abc"), Ok(Some("abc".into())));
        assert_eq!(key("\"abc\""), Ok(Some("abc".into())));
        assert!(key("").is_err() && key("\"\"").is_err());
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
    }
}
