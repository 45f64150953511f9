//! Ingest over gRPC, on the port of HTTP.
//!
//! A call passes these steps, each in a file of its own:
//!
//! - `frames`: the messages of a call. A place is taken before a message is read, so tonic's server,
//!   which reads first, is not used.
//! - `item`: the items of a message.
//! - `publish`: one call with some items, which waits for all outcomes.
//! - `publish_stream`: items as they come. `reader` reads them, and `acks` knows those without an
//!   outcome.
//! - `status`: a refusal as a status, or in the result of an item.
//!
//! `health` and `reflection` are the usual services beside it.

mod acks;
mod frames;
mod health;
mod item;
mod publish;
mod publish_stream;
mod reader;
mod reflection;
mod status;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::post;
use bytes::{BufMut as _, BytesMut};
use prost::Message;
use tonic::{Code, Status};
use web::{Authenticator, Grpc};

use super::ingest::Ingest;
use super::refusal::Refusal;
use frames::HEAD_BYTES;
use publish_stream::Streams;

/// Media type of answers.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Header with the time that the client waits.
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// Form of answers to calls, for the listener. Health needs no credentials, because probes have none.
pub(super) const ON_LISTENER: Grpc =
    Grpc { status: status::of_problem, open: "/grpc.health.v1.Health/" };

/// Returns the routes of all services.
///
/// # Errors
/// The descriptors cannot be read.
pub(super) fn routes(
    ingest: Arc<Ingest>,
    auth: Authenticator,
    health: service::Health,
) -> anyhow::Result<Router> {
    let streams = Arc::new(Streams::new(Arc::clone(&ingest), auth));
    let publish = Router::new()
        .route("/dataflow.ingest.v1.Ingest/Publish", post(publish::publish))
        .with_state(ingest);
    let stream = Router::new()
        .route("/dataflow.ingest.v1.Ingest/PublishStream", post(publish_stream::publish_stream))
        .with_state(streams);
    Ok(publish.merge(stream).merge(health::routes(health)).merge(reflection::routes()?))
}

/// Returns a message with its head.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_u8(0);
    // An answer has 1,000 results at most.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Returns the trailers of a call that ends with this status.
fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Its details cannot be written. The code can.
        let code = HeaderValue::from(status.code() as i32);
        trailers.insert(Status::GRPC_STATUS, code);
    }
    trailers
}

fn ok() -> Status {
    Status::new(Code::Ok, "")
}

/// Returns the answer to a call, with this body.
fn answer(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
    response
}

/// Returns the time that a client waits. Without the header it waits without end.
fn client_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(text) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let parse = |text: &str| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let is_number =
            (1..=8).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
        let count: u64 = is_number.then(|| digits.parse().ok())??;
        match unit {
            "H" => Some(Duration::from_secs(count * 3600)),
            "M" => Some(Duration::from_secs(count * 60)),
            "S" => Some(Duration::from_secs(count)),
            "m" => Some(Duration::from_millis(count)),
            "u" => Some(Duration::from_micros(count)),
            "n" => Some(Duration::from_nanos(count)),
            _ => None,
        }
    };
    let timeout = text.to_str().ok().and_then(parse);
    let right = "grpc-timeout must be a number and one of H, M, S, m, u, n";
    timeout.map(Some).ok_or_else(|| Refusal::invalid(TIMEOUT_HEADER, right))
}

#[cfg(test)]
mod headers {
    use super::*;

    #[test]
    fn the_time_of_a_client_has_a_unit() {
        let timeout = |text: &'static str| {
            let header = (TIMEOUT_HEADER.parse().unwrap(), HeaderValue::from_static(text));
            client_timeout(&HeaderMap::from_iter([header]))
        };

        assert_eq!(client_timeout(&HeaderMap::new()), Ok(None));
        assert_eq!(timeout("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        assert_eq!(timeout("10S"), Ok(Some(Duration::from_secs(10))));
        assert_eq!(timeout("200m"), Ok(Some(Duration::from_millis(200))));
        for wrong in ["", "S", "10", "10s", "-1S", "1.5S", "123456789S", "1 S"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }
}
