//! Answers of one replica.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use crate::replicas::Replicas;
use crate::samples::Sample;

/// Longest time of all requests of a look at one replica. The state comes once a second.
const TIMEOUT: Duration = Duration::from_millis(900);

/// Answers of a replica at one time.
#[derive(Debug)]
pub(crate) struct Answers {
    pub address: SocketAddr,
    /// The error is for people.
    pub reached: Result<Reached, String>,
}

/// Answers of a replica that could be reached.
#[derive(Debug)]
pub(crate) struct Reached {
    pub sample: Sample,
    pub is_ready: bool,
    pub waiting_for: Vec<WaitingFor>,
    pub status: Option<Status>,
    pub letters: Result<Vec<Letter>, String>,
}

/// Dependency that a replica waits for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WaitingFor {
    pub dependency: String,
    pub detail: String,
}

/// Facts that seldom change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    pub version: String,
    pub guarantees: Vec<String>,
}

/// Dead letter that a service has written.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Letter {
    pub reason: String,
    pub why: String,
    pub detail: String,
    pub at: String,
    pub ingest_id: String,
    pub device_id: String,
    pub record: Option<LetterRecord>,
}

/// Content of the message of a dead letter.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LetterRecord {
    pub text: String,
}

#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    conditions: BTreeMap<String, Condition>,
}

#[derive(Deserialize)]
struct Condition {
    ready: bool,
    reason: String,
}

/// Asks a replica. With `status`, also for the facts that seldom change.
pub(crate) async fn ask(
    replicas: &Replicas,
    address: SocketAddr,
    wants_status: StatusWish,
) -> Answers {
    let asked = timeout(TIMEOUT, ask_all(replicas, address, wants_status)).await;
    let reached = asked.unwrap_or_else(|_late| Err("does not answer in time".into()));
    Answers { address, reached }
}

/// Selects the answers of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusWish {
    /// All answers.
    Yes,
    /// All but the facts that seldom change.
    No,
}

async fn ask_all(
    replicas: &Replicas,
    address: SocketAddr,
    wants_status: StatusWish,
) -> Result<Reached, String> {
    let get = async |path: &'static str| {
        let request = replicas.get(address, path).header("accept", "application/json, text/plain");
        let answer = request.send().await.map_err(|error| describe(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| describe(&error))?;
        Ok::<_, String>((status, text))
    };
    let status = async {
        if wants_status == StatusWish::Yes { get("/status").await.map(Some) } else { Ok(None) }
    };
    let (metrics, readiness, letters, status) =
        futures::join!(get("/metrics"), get("/readyz"), get("/live/dead-letters"), status);
    let (answered, metrics) = metrics?;
    // Numbers of zero would look like a restart.
    if answered != StatusCode::OK {
        return Err(format!("/metrics answers {answered}"));
    }
    let (_, readiness) = readiness?;
    let readiness: Readiness = serde_json::from_str(&readiness)
        .map_err(|error| format!("/readyz is not the one of a service: {error}"))?;
    let waiting = readiness.conditions.into_iter().filter(|(_, condition)| !condition.ready);
    let waiting_for =
        waiting.map(|(dependency, condition)| WaitingFor { dependency, detail: condition.reason });
    Ok(Reached {
        sample: Sample::parse(&metrics),
        is_ready: readiness.ready,
        waiting_for: waiting_for.collect(),
        status: status?.and_then(|(_, text)| read_status(&text)),
        letters: letters.and_then(|(status, text)| read_letters(status, &text)),
    })
}

fn read_letters(status: StatusCode, text: &str) -> Result<Vec<Letter>, String> {
    if status == StatusCode::FORBIDDEN {
        return Err("the services show no dead letters: live.key_file must have the key of their \
                    http.live_key_file"
            .into());
    }
    serde_json::from_str(text).map_err(|error| format!("/live/dead-letters: {error}"))
}

fn read_status(text: &str) -> Option<Status> {
    let status: Value = serde_json::from_str(text).ok()?;
    let version = status["version"].as_str().unwrap_or_default().to_owned();
    let mut guarantees = Vec::new();
    collect_texts(&status["guarantees"], &mut guarantees);
    Some(Status { version, guarantees })
}

/// Collects all texts of a value, in order.
fn collect_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, texts)),
        Value::Object(values) => values.values().for_each(|value| collect_texts(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns the innermost cause of an error, without the URL.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
