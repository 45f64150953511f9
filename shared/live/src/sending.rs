//! Messages of the page, on their way through HTTP ingest.

use std::time::Duration;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use web::Problem;

use crate::Parts;
use crate::settings::read_key;
use crate::stage::describe;

/// Longest time until a message is durable. HTTP ingest answers earlier.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Message of the page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMessage {
    device: String,
    /// Kept as it is, so that its numbers keep their digits.
    payload: Box<RawValue>,
}

/// Message as HTTP ingest takes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    source_id: &'a str,
    payload: &'a RawValue,
}

/// Answer to the page.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    ingest_id: String,
}

/// Sends a message, and returns its id when it is durable.
pub(crate) async fn send(parts: &Parts, message: &NewMessage) -> Result<Sent, Problem> {
    let Some(url) = &parts.settings.ingest_url else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "live.ingest_url is not set"));
    };
    if message.device.is_empty() {
        let why = "must be the id of a device";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why).in_field("device"));
    }
    let url = format!("{}/ingest", url.trim_end_matches('/'));
    let item = Item { source_id: &message.device, payload: &message.payload };
    let mut request = parts.replicas.client().post(url).timeout(TIMEOUT).json(&item);
    if let Some(file) = &parts.settings.ingest_key_file {
        let key = read_key(file).map_err(|wrong| unavailable(format!("ingest_key_file {wrong}")))?;
        request = request.header("x-api-key", key);
    }
    let answer = request.send().await.map_err(|error| unavailable(describe(&error)))?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    match (status, body["id"].as_str()) {
        (StatusCode::ACCEPTED, Some(id)) => Ok(Sent { ingest_id: id.to_owned() }),
        _ => {
            let why = body["detail"].as_str().unwrap_or("HTTP ingest has refused the message");
            // Its own credentials are no business of the page.
            let is_ours = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let is_error = status.is_client_error() || status.is_server_error();
            let status = if is_ours || !is_error { StatusCode::BAD_GATEWAY } else { status };
            Err(Problem::new(status, why))
        }
    }
}

fn unavailable(why: String) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, format!("HTTP ingest does not answer: {why}"))
}
