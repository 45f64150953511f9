//! Requests of a device. What is not known to be published is sent again with the same id.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{RequestBuilder, Response};
use serde::de::IgnoredAny;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use super::answer::{Outcome, Reply, Step};
use super::{Credentials, HttpLink, Item};
use crate::tally::Tally;

/// Shortest and longest wait before a request is repeated without `Retry-After`.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Reason of a message that is not sent.
const NOT_JSON: &str = "the payload is no JSON, which ingest over HTTP needs";

/// Sends items until each is confirmed or refused.
pub(super) async fn send(link: &HttpLink, tally: &Tally, items: Vec<Item>) {
    let is_json = |item: &Item| serde_json::from_slice::<IgnoredAny>(&item.message.payload).is_ok();
    let (mut left, wrong): (Vec<_>, Vec<_>) = items.into_iter().partition(is_json);
    wrong.iter().for_each(|_| tally.refused(None, NOT_JSON.into()));
    let mut wait = WAITS.0;
    while !left.is_empty() {
        let given = match post(link, &left).await {
            Ok(answer) => {
                left = settle(tally, left, answer.outcomes);
                answer.retry_after
            }
            Err(why) => {
                tally.failed(why);
                None
            }
        };
        if !left.is_empty() {
            sleep(given.unwrap_or(wait)).await;
            wait = (wait * 2).min(WAITS.1);
            left.iter().for_each(|_| tally.resent());
        }
    }
}

/// Outcomes of the items of a request.
struct Answered {
    outcomes: Vec<Outcome>,
    retry_after: Option<Duration>,
}

/// Notes outcomes, and returns the items to send again.
fn settle(tally: &Tally, items: Vec<Item>, outcomes: Vec<Outcome>) -> Vec<Item> {
    let mut again = Vec::new();
    for (item, Outcome { answer, step }) in items.into_iter().zip(outcomes) {
        match step {
            Step::Done => tally.confirmed(answer, item.times),
            Step::GiveUp(why) => tally.refused(Some(answer.into()), why.into()),
            Step::SendAgain => {
                tally.answered(answer);
                again.push(item);
            }
        }
    }
    again
}

/// Sends one request, and reads its answer.
async fn post(link: &HttpLink, items: &[Item]) -> Result<Answered, String> {
    let request = link.client.post(link.url.clone()).header(CONTENT_TYPE, "application/json");
    let request = match (items, link.batch) {
        ([item], 1) => {
            let id = format!("{}-{}", link.run, item.message.number);
            request.header("idempotency-key", id).body(body(item, None).freeze())
        }
        _ => {
            let mut all = BytesMut::from(&b"["[..]);
            for (index, item) in items.iter().enumerate() {
                all.put_slice(if index == 0 { b"" } else { b"," });
                all.put(body(item, Some(&link.run)));
            }
            all.put_u8(b']');
            request.body(all.freeze())
        }
    };
    let response = authorized(link, request)?.send().await;
    let answer = read(response.map_err(|error| failure(&error))?).await?;
    let (outcomes, retry_after) = (answer.outcomes(items.len()), answer.retry_after);
    Ok(Answered { outcomes, retry_after })
}

fn authorized(link: &HttpLink, request: RequestBuilder) -> Result<RequestBuilder, String> {
    match &link.credentials {
        Credentials::None => Ok(request),
        Credentials::ApiKey(key) => Ok(request.header("x-api-key", key)),
        Credentials::TokenFile(file) => {
            let token = std::fs::read_to_string(file);
            let token = token.map_err(|error| format!("read {}: {error}", file.display()))?;
            Ok(request.bearer_auth(token.trim()))
        }
    }
}

async fn read(response: Response) -> Result<Reply, String> {
    let status = response.status();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|text| text.to_str().ok());
    let retry_after = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let body = response.bytes().await.map_err(|error| failure(&error))?;
    // A proxy on the way may answer with another form.
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Reply { status, retry_after, body })
}

/// Returns the innermost cause of a request that has no answer.
fn failure(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("no answer: {cause}")
}

/// Returns an item as JSON. The payload keeps its bytes.
fn body(item: &Item, run: Option<&str>) -> BytesMut {
    let message = &item.message;
    let mut body = BytesMut::from(&b"{"[..]);
    if let Some(run) = run {
        body.put_slice(format!(r#""id":"{run}-{}","#, message.number).as_bytes());
    }
    body.put_slice(format!(r#""sourceId":{},"#, Value::from(&*message.address)).as_bytes());
    if let Some(time) = message.time.and_then(|time| time.format(&Rfc3339).ok()) {
        body.put_slice(format!(r#""timestamp":"{time}","#).as_bytes());
    }
    body.put_slice(br#""payload":"#);
    body.put_slice(&message.payload);
    body.put_u8(b'}');
    body
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use time::macros::datetime;
    use tokio::time::Instant;

    use super::*;
    use crate::content::Message;
    use crate::tally::Times;

    #[test]
    fn an_item_has_the_bytes_of_the_payload() {
        let now = Instant::now();
        let message = Message {
            number: 7,
            address: "plant/\"7\"".into(),
            payload: Bytes::from_static(b"{\"t\":  1.50}"),
            properties: None,
            time: Some(datetime!(2026-11-30 10:00 UTC)),
        };
        let item = Item { message, times: Times { planned: now, sent: now } };

        let alone = body(&item, None);
        let in_batch = body(&item, Some("run"));

        let rest = r#""sourceId":"plant/\"7\"","timestamp":"2026-11-30T10:00:00Z","payload":{"t":  1.50}}"#;
        assert_eq!(alone, format!("{{{rest}"));
        assert_eq!(in_batch, format!(r#"{{"id":"run-7",{rest}"#));
    }
}
