//! Streams of events to browsers (server-sent events).

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::Stream;

/// Comment that keeps a connection alive.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// Writes an event. `json` has no line feeds.
pub(crate) fn event(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
}

/// Answers with a stream of events.
pub(crate) fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures::StreamExt as _;
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}
