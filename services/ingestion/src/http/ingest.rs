//! All that requests share: bounds, routes, and the way into the pipeline.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use message::{Message, Origin, attribute};
use pipeline::Delivery;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::MessageParts;
use super::admission::Admission;
use super::answer::Outcome;
use super::item::{self, Item};
use super::refusal::{NO_ROUTE, PAYLOAD_TOO_LARGE, PAYLOAD_TOO_SMALL, Refusal};
use crate::config::{HttpIngest, RouteSettings};
use crate::identity;
use crate::route::TRACE_PROPERTY;

/// Scope that a caller needs.
pub(super) const SCOPE: &str = "ingest";

/// All that requests share.
pub(super) struct Ingest {
    parts: MessageParts,
    outbox: mpsc::Sender<Delivery>,
    pub admission: Admission,
    pub timeout: Duration,
    pub max_body_bytes: usize,
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

    /// Returns the way to the pipeline.
    pub(super) fn outbox(&self) -> &mpsc::Sender<Delivery> {
        &self.outbox
    }

    /// Refuses a request, and counts it.
    pub(super) fn refuse(&self, refusal: Refusal) -> Response {
        self.count_refused(&refusal);
        refusal.into_response()
    }

    /// Counts a request that is refused before its items are known.
    pub(super) fn count_refused(&self, refusal: &Refusal) {
        self.parts.metrics.refuse_request(refusal.reason);
    }

    /// Counts the outcome of an item.
    pub(super) fn count(&self, outcome: &Outcome) {
        match outcome {
            Ok(_) => {
                self.parts.metrics.http_accepted.inc();
            }
            Err(refusal) => self.parts.metrics.refuse_item(refusal.reason),
        }
    }

    /// Makes the message of an item. Returns it with its id. `trace` is that of the request.
    pub(super) fn message(
        &self,
        item: Item,
        id: Option<Uuid>,
        trace: Option<&str>,
    ) -> Result<(String, Message), Refusal> {
        let MessageParts { routes, identity, metrics } = &self.parts;
        let origin = Origin::http(&item.source_id);
        let entry = routes.find(origin).ok_or_else(|| {
            let detail = format!("no route takes the source {}", item.source_id);
            Refusal::new(StatusCode::NOT_FOUND, NO_ROUTE, detail)
        })?;
        check_size(item.payload.len(), &entry.route)?;
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
        if let Some(trace) = trace {
            let given = message.attributes.entry(TRACE_PROPERTY.into());
            given.or_insert_with(|| trace.to_owned());
        }
        Ok((id, message))
    }
}

/// Checks the size of a payload.
fn check_size(size: usize, route: &RouteSettings) -> Result<(), Refusal> {
    // The pipeline would skip these, and their clients would take them for published.
    if let Some(min) = route.min_payload_bytes.filter(|min| size < *min) {
        let detail = format!("payload must have at least {min} bytes, has {size}");
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, PAYLOAD_TOO_SMALL, detail);
        return Err(refusal.in_field("payload"));
    }
    if let Some(max) = route.max_payload_bytes.filter(|max| size > *max) {
        let detail = format!("payload must have at most {max} bytes, has {size}");
        let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, PAYLOAD_TOO_LARGE, detail);
        return Err(refusal.in_field("payload"));
    }
    Ok(())
}
