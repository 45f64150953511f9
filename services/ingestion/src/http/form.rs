//! Form of a request: its media type and content encoding.

use axum::http::{HeaderMap, StatusCode, header};

use super::refusal::{MEDIA_TYPE, Refusal};

/// Content of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// An item, or an array of items.
    Json,
    /// An item in each line.
    Lines,
    /// A CloudEvent.
    Event,
    /// An array of CloudEvents.
    Events,
    /// The data of a CloudEvent, whose attributes are in the headers.
    EventData,
}

/// Form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub content: Content,
    pub is_gzip: bool,
}

impl Form {
    /// Returns the form that the headers tell.
    ///
    /// A request without a media type is refused. A page of another origin could send it without
    /// asking first.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        Ok(Self { content: content(headers)?, is_gzip: is_gzip(headers)? })
    }
}

fn content(headers: &HeaderMap) -> Result<Content, Refusal> {
    if headers.contains_key("ce-specversion") {
        return Ok(Content::EventData);
    }
    let given = text(headers, &header::CONTENT_TYPE);
    let media_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/json" => Ok(Content::Json),
        "application/x-ndjson" => Ok(Content::Lines),
        "application/cloudevents+json" => Ok(Content::Event),
        "application/cloudevents-batch+json" => Ok(Content::Events),
        _ => Err(unsupported(
            "must be application/json, application/x-ndjson, application/cloudevents+json or \
             application/cloudevents-batch+json",
            "Content-Type",
        )),
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    match text(headers, &header::CONTENT_ENCODING).trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" => Ok(true),
        _ => Err(unsupported("must be gzip, or be left out", "Content-Encoding")),
    }
}

/// Returns a header as text. One that is no text is as wrong as an unknown one.
fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"))
}

fn unsupported(right: &str, field: &str) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, MEDIA_TYPE, format!("{field} {right}"))
        .in_field(field)
}
