//! Devices that send over HTTP. What is not known to be published is sent again with the same id.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Reading, Readings, lock};

/// Readings of a batch.
const BATCH: usize = 50;
/// Wait after a request that nobody answered.
const PAUSE: Duration = Duration::from_millis(200);

/// Form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One item, with its id in the header `Idempotency-Key`.
    Single,
    /// An array of items, each with its id.
    Batch,
}

/// ItemOutcome of one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ItemOutcome {
    /// It is published, or is a dead letter.
    Accepted,
    /// It is not known to be published.
    Again,
    /// It can never be published. The text says why.
    Refused(String),
}

/// Outcomes of a request, and the wait before it is sent again.
struct Answer {
    outcomes: Vec<ItemOutcome>,
    wait: Duration,
}

impl Readings {
    /// Sends over one connection that is kept alive, until all is sent and acknowledged.
    pub(super) async fn send_over_http(self, index: u32) {
        // A proxy must not be asked for an address of this machine.
        let client = Client::builder().no_proxy().pool_max_idle_per_host(1).build();
        let client = client.unwrap_or_default();
        let form = if index.is_multiple_of(2) { Form::Single } else { Form::Batch };
        while let Some(first) = self.next().await {
            let mut waiting = vec![first];
            while form == Form::Batch && waiting.len() < BATCH && self.is_hurried() {
                let Some(reading) = self.take() else { break };
                waiting.push(reading);
            }
            while !waiting.is_empty() {
                let Answer { outcomes, wait } = self.ask(&client, form, &waiting).await;
                waiting = self.record(waiting, outcomes);
                if !waiting.is_empty() {
                    sleep(wait).await;
                }
            }
        }
    }

    /// Returns whether further readings are due at once.
    fn is_hurried(&self) -> bool {
        let records = &self.log.0;
        self.plan.rate == 0
            && !records.is_paused.load(Ordering::Relaxed)
            && !records.is_stopped.load(Ordering::Relaxed)
    }

    /// Records outcomes, and returns the readings to send again.
    fn record(&self, waiting: Vec<Reading>, outcomes: Vec<ItemOutcome>) -> Vec<Reading> {
        let mut again = Vec::new();
        for (reading, outcome) in waiting.into_iter().zip(outcomes) {
            match outcome {
                ItemOutcome::Accepted => self.acknowledge(reading),
                ItemOutcome::Again => again.push(reading),
                ItemOutcome::Refused(why) => lock(&self.log.0.refused).push(why),
            }
        }
        again
    }

    async fn ask(&self, client: &Client, form: Form, readings: &[Reading]) -> Answer {
        let request = client.post(format!("http://127.0.0.1:{}/ingest", self.plan.port));
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = match (form, readings) {
            (Form::Single, [reading]) => {
                request.header("idempotency-key", self.id(*reading)).body(self.item(*reading, ""))
            }
            _ => {
                let item = |reading: &Reading| {
                    self.item(*reading, &format!(r#""id":"{}","#, self.id(*reading)))
                };
                let items: Vec<_> = readings.iter().map(item).collect();
                request.body(format!("[{}]", items.join(",")))
            }
        };
        match request.send().await {
            Ok(response) => read(response, form, readings.len()).await,
            Err(_) => Answer::again(readings.len(), PAUSE),
        }
    }

    fn item(&self, reading: Reading, id: &str) -> String {
        let payload = reading.payload(&self.fleet, self.plan.payload_bytes);
        let payload = String::from_utf8_lossy(&payload);
        format!(r#"{{{id}"sourceId":"{}","payload":{payload}}}"#, reading.device_name())
    }
}

impl Answer {
    fn again(count: usize, wait: Duration) -> Self {
        Self { outcomes: vec![ItemOutcome::Again; count], wait }
    }
}

async fn read(response: Response, form: Form, count: usize) -> Answer {
    let status = response.status();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|text| text.to_str().ok());
    let wait = seconds.and_then(|text| text.parse().ok()).map_or(PAUSE, Duration::from_secs);
    // The connection may end before the body does.
    let Ok(body) = response.bytes().await else { return Answer::again(count, wait) };
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!({}));
    Answer { outcomes: outcomes(form, status, &body, count), wait }
}

/// Returns the outcome of each of `count` readings.
fn outcomes(form: Form, status: StatusCode, body: &Value, count: usize) -> Vec<ItemOutcome> {
    let of_all = outcome(u64::from(status.as_u16()), body);
    let Some(results) = body["results"].as_array().filter(|_| form == Form::Batch) else {
        // 200 is the answer to a batch, and without its results nothing is known of it.
        let is_known = status != StatusCode::OK;
        return vec![if is_known { of_all } else { ItemOutcome::Again }; count];
    };
    let mut outcomes = vec![ItemOutcome::Again; count];
    for result in results {
        let index = result["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        if let Some(known) = index.and_then(|index| outcomes.get_mut(index)) {
            *known = outcome(result["status"].as_u64().unwrap_or(503), result);
        }
    }
    outcomes
}

fn outcome(status: u64, told: &Value) -> ItemOutcome {
    match status {
        200..=299 => ItemOutcome::Accepted,
        408 | 429 | 500..=599 => ItemOutcome::Again,
        _ => {
            let detail = told["detail"].as_str().unwrap_or("without a reason");
            ItemOutcome::Refused(format!("{status}: {detail}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(form: Form, status: u16, body: &Value) -> Vec<ItemOutcome> {
        outcomes(form, StatusCode::from_u16(status).unwrap(), body, 2)
    }

    #[test]
    fn each_item_of_a_batch_has_its_own_outcome() {
        let body = json!({ "results": [
            { "index": 1, "status": 202, "id": "a" },
            { "index": 0, "status": 400, "detail": "payload: required" },
        ]});

        let refused = ItemOutcome::Refused("400: payload: required".into());
        assert_eq!(of(Form::Batch, 422, &body), [refused, ItemOutcome::Accepted]);
        let partial = json!({ "results": [{ "index": 1, "status": 503 }] });
        assert_eq!(of(Form::Batch, 503, &partial), [ItemOutcome::Again, ItemOutcome::Again]);
    }

    #[test]
    fn what_is_not_known_to_be_published_is_sent_again() {
        for status in [408, 429, 500, 503] {
            for form in [Form::Single, Form::Batch] {
                assert_eq!(of(form, status, &json!({})), [ItemOutcome::Again, ItemOutcome::Again]);
            }
        }
        assert_eq!(of(Form::Batch, 200, &json!({})), [ItemOutcome::Again, ItemOutcome::Again]);
        assert_eq!(
            of(Form::Single, 202, &json!({})),
            [ItemOutcome::Accepted, ItemOutcome::Accepted]
        );
    }

    #[test]
    fn a_request_that_is_refused_as_a_whole_is_not_repeated() {
        let refused = ItemOutcome::Refused("404: no route".into());

        let body = json!({ "detail": "no route" });

        assert_eq!(of(Form::Batch, 404, &body), [refused.clone(), refused]);
    }
}
