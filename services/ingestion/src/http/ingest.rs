//! The way of a request: its items become messages, and their outcomes its answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use message::{Message, Origin, attribute};
use pipeline::{Delivery, Disposition, Settle, Settlement};
use sha1::{Digest as _, Sha1};
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::{Builder, Uuid};

use super::admission::{Admission, Place};
use super::answer::{self, Accepted, Outcome};
use super::form::{Content, Form};
use super::item::{self, Item};
use super::refusal::{BUSY, DROPPED, NO_ROUTE, PAYLOAD_TOO_LARGE, PAYLOAD_TOO_SMALL, Refusal};
use super::{MessageParts, batch, body, cloud_event};
use crate::config::HttpIngest;
use crate::identity;
use crate::route::TRACE_PROPERTY;

/// Scope that a caller needs.
const SCOPE: &str = "ingest";
/// Header with the idempotency key, from the draft of the IETF.
const KEY_HEADER: &str = "Idempotency-Key";
/// Namespace of the ids that follow from a source and a key.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_6d0e_52c1_4f6b_9c0f_6a1d_0d8e_77b3);

/// All that a request needs.
pub(super) struct Ingest {
    parts: MessageParts,
    outbox: mpsc::Sender<Delivery>,
    admission: Admission,
    timeout: Duration,
    max_body_bytes: usize,
}

/// Items of a body, as they could be read.
enum Items {
    One(Result<Item, Refusal>),
    Many(Vec<Result<Item, Refusal>>),
}

/// Message that was handed to the pipeline.
struct Offered {
    id: String,
    disposition: oneshot::Receiver<Disposition>,
}

/// Handle that tells a client the outcome of its message.
struct Reply {
    client: oneshot::Sender<Disposition>,
    /// The message is in memory until it is settled, even if its client has gone.
    _place: Arc<Place>,
}

impl Settle for Reply {
    fn settle(self: Box<Self>, disposition: Disposition) {
        // An error means that the client has gone.
        let _ = self.client.send(disposition);
    }

    fn is_current(&self) -> bool {
        !self.client.is_closed()
    }
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
    ingest.answer(request).await.unwrap_or_else(|refusal| {
        ingest.parts.metrics.refuse_request(refusal.reason);
        refusal.into_response()
    })
}

impl Ingest {
    pub(super) fn new(
        settings: &HttpIngest,
        parts: MessageParts,
        outbox: mpsc::Sender<Delivery>,
    ) -> Self {
        let (timeout, max_body_bytes) = (settings.timeout, settings.max_body_bytes);
        Self { parts, outbox, admission: Admission::new(settings), timeout, max_body_bytes }
    }

    async fn answer(&self, request: Request) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        let headers = head.headers;
        let form = Form::of(&headers)?;
        let key = idempotency_key(&headers)?;
        let max_size = body::max_size(&headers, form, self.max_body_bytes);
        let mut place = self.admission.admit(max_size).await.ok_or_else(|| {
            let detail = "too many requests wait: send it again later";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, BUSY, detail)
        })?;
        let body = body::read(body, form, self.max_body_bytes).await?;
        let deadline = Instant::now() + self.timeout;
        let size = body.len();
        let items = read(form.content, &headers, body)?;
        let trace = headers.get(TRACE_PROPERTY).and_then(|trace| trace.to_str().ok());
        let sending = |place| Sending { ingest: self, key, trace, place, deadline };
        match items {
            Items::One(item) => {
                place.shrink(size, 1);
                let sending = sending(Arc::new(place));
                let offered = sending.offer(item, None).await;
                Ok(answer::one(sending.outcome(offered).await))
            }
            Items::Many(items) => {
                place.shrink(size, items.len());
                let sending = sending(Arc::new(place));
                let mut offered = Vec::with_capacity(items.len());
                for (index, item) in without_twins(items).enumerate() {
                    offered.push(sending.offer(item, Some(index)).await);
                }
                let mut outcomes = Vec::with_capacity(offered.len());
                for offered in offered {
                    outcomes.push(sending.outcome(offered).await);
                }
                Ok(answer::many(outcomes))
            }
        }
    }

    /// Makes the message of an item. Returns it with its id.
    fn message(&self, item: Item, id: Option<Uuid>) -> Result<(String, Message), Refusal> {
        let MessageParts { routes, identity, metrics } = &self.parts;
        let origin = Origin::http(&item.source_id);
        let entry = routes.find(origin).ok_or_else(|| {
            let detail = format!("no route takes the source {}", item.source_id);
            Refusal::new(StatusCode::NOT_FOUND, NO_ROUTE, detail)
        })?;
        // The pipeline would skip these, and their clients would take them for published.
        let size = item.payload.len();
        if let Some(min) = entry.route.min_payload_bytes.filter(|min| size < *min) {
            let detail = format!("payload must have at least {min} bytes, has {size}");
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, PAYLOAD_TOO_SMALL, detail);
            return Err(refusal.in_field("payload"));
        }
        if let Some(max) = entry.route.max_payload_bytes.filter(|max| size > *max) {
            let detail = format!("payload must have at most {max} bytes, has {size}");
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, PAYLOAD_TOO_LARGE, detail);
            return Err(refusal.in_field("payload"));
        }
        let mut message = Message::new(item.payload);
        message.attributes.extend(item.attributes);
        if let Some(item::Time { field, time }) = item.time {
            if time > identity::latest(message.publish_time, identity) {
                let ahead = identity.max_future;
                let detail = format!("{field} must be at most {ahead:?} ahead of our clock");
                return Err(Refusal::invalid(field, detail));
            }
            // A time that was read can be written.
            let time = time.format(&Rfc3339).unwrap_or_default();
            message.attributes.insert(attribute::HTTP_TIMESTAMP.into(), time);
        }
        let id = id.map_or_else(
            || identity::ingest_id(&message, origin, identity, metrics),
            |id| id.to_string(),
        );
        message.attributes.insert(attribute::INGEST_ID.into(), id.clone());
        message.attributes.insert(attribute::HTTP_SOURCE.into(), item.source_id);
        Ok((id, message))
    }
}

/// Request whose items are sent.
struct Sending<'a> {
    ingest: &'a Ingest,
    key: Option<String>,
    trace: Option<&'a str>,
    place: Arc<Place>,
    deadline: Instant,
}

impl Sending<'_> {
    /// Hands an item to the pipeline. An item of a batch has an index.
    async fn offer(
        &self,
        item: Result<Item, Refusal>,
        index: Option<usize>,
    ) -> Result<Offered, Refusal> {
        let mut item = item?;
        let id = match (item.id.take(), &self.key) {
            (Some(id), _) => Some(named_id(&item.source_id, Name::Id(&id))),
            (None, Some(key)) => Some(named_id(&item.source_id, Name::Key(key, index))),
            (None, None) => None,
        };
        let (id, mut message) = self.ingest.message(item, id)?;
        if let Some(trace) = self.trace {
            let given = message.attributes.entry(TRACE_PROPERTY.into());
            given.or_insert_with(|| trace.to_owned());
        }
        let (client, disposition) = oneshot::channel();
        let reply = Reply { client, _place: Arc::clone(&self.place) };
        let settlement = Settlement::new(reply, Some(self.deadline)).with_client();
        let delivery = Delivery::new(message, settlement);
        match timeout_at(self.deadline, self.ingest.outbox.send(delivery)).await {
            Ok(Ok(())) => Ok(Offered { id, disposition }),
            Ok(Err(_closed)) => Err(Refusal::unavailable("this process is ending: send it again")),
            Err(_elapsed) => Err(not_in_time()),
        }
    }

    /// Waits for the outcome of an item, and counts it.
    async fn outcome(&self, offered: Result<Offered, Refusal>) -> Outcome {
        let outcome = match offered {
            Ok(offered) => self.wait(offered).await,
            Err(refusal) => Err(refusal),
        };
        match &outcome {
            Ok(_) => {
                self.ingest.parts.metrics.http_accepted.inc();
            }
            Err(refusal) => self.ingest.parts.metrics.refuse_item(refusal.reason),
        }
        outcome
    }

    async fn wait(&self, Offered { id, disposition }: Offered) -> Outcome {
        match timeout_at(self.deadline, disposition).await {
            Ok(Ok(Disposition::Ack)) => Ok(Accepted::new(id, None)),
            Ok(Ok(Disposition::DeadLettered(reason))) => Ok(Accepted::new(id, Some(reason))),
            Ok(Ok(Disposition::Dropped(reason))) => {
                let detail = format!("it can never be published ({reason}), and was dropped");
                Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, DROPPED, detail))
            }
            // A sender that is gone would be a settlement that was not told.
            Ok(Ok(Disposition::Nack) | Err(_)) | Err(_) => Err(not_in_time()),
        }
    }
}

fn not_in_time() -> Refusal {
    Refusal::unavailable(
        "it is not known to be published: send the same request again, with the same id or \
         Idempotency-Key; in a batch, the key counts for an item at its place",
    )
}

/// Refuses the second of two items with the same source and id. The sinks would take them for one.
fn without_twins(items: Vec<Result<Item, Refusal>>) -> impl Iterator<Item = Result<Item, Refusal>> {
    let mut seen = HashSet::new();
    items.into_iter().map(move |item| {
        let item = item?;
        let name = item.id.as_ref().map(|id| (item.source_id.clone(), id.clone()));
        if name.is_some_and(|name| !seen.insert(name)) {
            let detail = "another item of this batch has the same sourceId and id";
            return Err(Refusal::invalid("id", detail));
        }
        Ok(item)
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

/// Name of an item at its source.
#[derive(Debug, Clone, Copy)]
enum Name<'a> {
    /// `id` of the item.
    Id(&'a str),
    /// `Idempotency-Key` of its request, with the index of the item in a batch.
    Key(&'a str, Option<usize>),
}

/// Returns the id of an item whose source and key are known: a UUIDv5. The same item always gets the
/// same id.
fn named_id(source_id: &str, name: Name<'_>) -> Uuid {
    let (kind, name, index) = match name {
        Name::Id(id) => ("id", id, None),
        Name::Key(key, index) => ("key", key, index),
    };
    // No part contains a zero byte.
    let mut hash = Sha1::new().chain_update(NAMESPACE.as_bytes());
    for part in [kind, source_id, name] {
        hash = hash.chain_update(part).chain_update([0]);
    }
    if let Some(index) = index {
        hash = hash.chain_update(index.to_string());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod named_ids {
    use super::*;

    #[test]
    fn an_id_follows_from_source_key_and_index_in_every_process() {
        let id = named_id("sensor-1", Name::Key("key", None));

        assert_eq!(id.get_version_num(), 5);
        assert_eq!(id, named_id("sensor-1", Name::Key("key", None)));
        let others = [
            named_id("sensor-2", Name::Key("key", None)),
            named_id("sensor-1", Name::Key("kez", None)),
            named_id("sensor-1", Name::Key("key", Some(0))),
            named_id("sensor-1", Name::Key("key", Some(1))),
            named_id("sensor-1", Name::Id("key")),
        ];
        assert!(!others.contains(&id));
        assert_ne!(others[2], others[3]);
    }

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
