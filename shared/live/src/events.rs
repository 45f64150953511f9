//! Streams of events to browsers (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::Stream;
use tokio::time::sleep;

/// Comment that keeps a connection alive.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// Longest time of a stream. The next request is checked again, so a viewer whose key was revoked is out.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// Writes an event. `json` has no line feeds.
pub(crate) fn event(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
}

/// Answers with a stream of events. It ends after [`MAX_AGE`], perhaps within an event, which browsers
/// then ignore.
pub(crate) fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures::StreamExt as _;
    let events = events.take_until(sleep(MAX_AGE));
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_after_ten_minutes_so_that_the_key_is_checked_again() {
        let begun = Instant::now();
        let answer = response(futures::stream::pending());

        let bytes = axum::body::to_bytes(answer.into_body(), 1).await.unwrap();

        assert_eq!((bytes.len(), begun.elapsed().as_secs()), (0, 600));
    }
}
