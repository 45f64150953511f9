//! Batches: many requests of the JSON API in one `multipart/mixed` body
//! (<https://cloud.google.com/storage/docs/batch>).

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::Storage;
use super::multipart::{self, Part};
use super::rest;
use super::upload::text;
use crate::status::Status;

/// Most requests of a batch, as at Google.
const MAX_CALLS: usize = 100;
const BOUNDARY: &str = "batch_of_the_emulator";

/// Answers each request of a batch, in order.
pub(super) async fn answer(
    storage: &Storage,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Status> {
    let kind = text(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let parts = multipart::parts(&kind, body)?;
    if parts.is_empty() || parts.len() > MAX_CALLS {
        let text = format!("a batch needs 1 to {MAX_CALLS} calls, has {}", parts.len());
        return Err(Status::invalid(text));
    }
    let host = headers.get(header::HOST);
    let mut answers = String::new();
    for part in parts {
        let answer = match call(storage, &part, host).await {
            Ok(answer) => answer,
            Err(status) => status.into_response(),
        };
        let id = part.header("content-id").unwrap_or_default();
        answers += &format!("--{BOUNDARY}\r\nContent-Type: application/http\r\n");
        answers += &format!("Content-ID: {}\r\n\r\n", response_id(id));
        answers += &write(answer).await?;
        answers += "\r\n";
    }
    answers += &format!("--{BOUNDARY}--\r\n");
    let kind = format!("multipart/mixed; boundary={BOUNDARY}");
    Ok(([(header::CONTENT_TYPE, kind)], answers).into_response())
}

/// Carries out the HTTP request inside a part.
async fn call(
    storage: &Storage,
    part: &Part,
    host: Option<&HeaderValue>,
) -> Result<Response, Status> {
    let invalid = || Status::invalid("a part of the batch is no HTTP request");
    let text = String::from_utf8_lossy(&part.body);
    let (head, body) = match text.split_once("\r\n\r\n").or_else(|| text.split_once("\n\n")) {
        Some((head, body)) => (head, body.trim_end_matches(['\r', '\n'])),
        None => (text.trim_end(), ""),
    };
    let mut lines = head.lines();
    let mut first = lines.next().ok_or_else(invalid)?.split_whitespace();
    let (Some(method), Some(uri)) = (first.next(), first.next()) else { return Err(invalid()) };
    let method: Method = method.parse().map_err(|_| invalid())?;
    let uri: Uri = uri.parse().map_err(|_| invalid())?;
    let mut request = Request::new(()).into_parts().0;
    (request.method, request.uri) = (method, uri);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.trim().parse::<HeaderName>(), value.trim().parse()) {
            request.headers.insert(name, value);
        }
    }
    if let Some(host) = host {
        request.headers.insert(header::HOST, host.clone());
    }
    rest::answer(storage, &request, &Bytes::from(body.to_owned())).await
}

/// Returns the id by which a client finds the answer to each of its requests.
fn response_id(id: &str) -> String {
    match id.strip_prefix('<') {
        Some(rest) => format!("<response-{rest}"),
        None => format!("response-{id}"),
    }
}

/// Writes an answer as the text of an HTTP response.
async fn write(answer: Response) -> Result<String, Status> {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| Status::invalid(error.to_string()))?;
    let body = body.to_bytes();
    let reason = parts.status.canonical_reason().unwrap_or("Unknown");
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16());
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
    Ok(text + &format!("Content-Length: {}\r\n\r\n{}", body.len(), String::from_utf8_lossy(&body)))
}
