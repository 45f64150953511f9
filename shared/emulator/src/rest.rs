//! Helper functions of all REST APIs.

use std::collections::HashMap;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tonic::Code;

use crate::status::Status;

/// Reads the whole body.
pub(crate) async fn read_bytes(body: Body) -> Result<Bytes, Status> {
    let collected = body.collect().await;
    let collected = collected.map_err(|error| Status::new(Code::Cancelled, error.to_string()))?;
    Ok(collected.to_bytes())
}

/// Reads the whole body as JSON. An empty body counts as `{}`.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Status> {
    let bytes = read_bytes(body).await?;
    let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(json)
        .map_err(|error| Status::invalid(format!("Invalid JSON payload received: {error}")))
}

/// Returns the decoded pairs of a query string.
pub(crate) fn query(uri: &axum::http::Uri) -> HashMap<String, String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Decodes a percent-encoded part of a path or query.
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
