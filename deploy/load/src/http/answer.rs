//! Answers of ingest over HTTP.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

/// Outcome of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Status of the item, with its number.
    pub answer: String,
    /// Next step of the sender.
    pub step: Step,
}

/// Next step of the sender of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The item is published, or is a dead letter.
    Done,
    /// It is not known to be published.
    SendAgain,
    /// It can never be published. The text says why.
    GiveUp(String),
}

/// Answer to a request.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// Status of the whole request.
    pub status: StatusCode,
    /// Time after which the target wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Body; null if it is no JSON.
    pub body: Value,
}

impl Reply {
    /// Returns the outcome of each of `count` items, in order. An array of results has one each.
    pub(super) fn outcomes(&self, count: usize) -> Vec<Outcome> {
        let whole = outcome(self.status.as_u16(), &self.body);
        let Some(results) = self.body["results"].as_array() else {
            return vec![whole; count];
        };
        // An item without a result is not known to be published.
        let unknown = Outcome { answer: "no result".into(), step: Step::SendAgain };
        let mut outcomes = vec![unknown; count];
        for result in results {
            let index = result["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            if let Some(known) = index.and_then(|index| outcomes.get_mut(index)) {
                *known = outcome(status.unwrap_or(503), result);
            }
        }
        outcomes
    }
}

fn outcome(status: u16, told: &Value) -> Outcome {
    let code = StatusCode::from_u16(status).ok();
    let words = code.and_then(|code| code.canonical_reason()).unwrap_or_default();
    let mut answer = format!("{status} {words}").trim_end().to_owned();
    let step = match status {
        200..=299 => {
            if let Some(reason) = told["dead_letter"].as_str() {
                answer = format!("{answer}, dead letter: {reason}");
            }
            Step::Done
        }
        408 | 429 | 500..=599 => Step::SendAgain,
        _ => {
            let why = told["reason"].as_str().or(told["detail"].as_str());
            Step::GiveUp(format!("{status}: {}", why.unwrap_or("without a reason")))
        }
    };
    Outcome { answer, step }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps(status: u16, body: Value, count: usize) -> Vec<Step> {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Reply { status, retry_after: None, body };
        answer.outcomes(count).into_iter().map(|outcome| outcome.step).collect()
    }

    #[test]
    fn a_status_decides_about_all_items_without_results() {
        assert_eq!(steps(202, json!({ "id": "1" }), 1), [Step::Done]);
        for again in [408, 429, 500, 503] {
            assert_eq!(steps(again, Value::Null, 2), [Step::SendAgain, Step::SendAgain]);
        }
        let refused = Step::GiveUp("401: no token".into());
        assert_eq!(steps(401, json!({ "detail": "no token" }), 1), [refused]);
    }

    #[test]
    fn each_item_of_a_batch_has_its_own_outcome() {
        let body = json!({ "results": [
            { "index": 2, "status": 503 },
            { "index": 0, "status": 202, "dead_letter": "message_too_large" },
            { "index": 1, "status": 400, "reason": "bad_item", "detail": "payload: required" },
        ]});

        let outcomes = steps(503, body, 4);

        let refused = Step::GiveUp("400: bad_item".into());
        assert_eq!(outcomes, [Step::Done, refused, Step::SendAgain, Step::SendAgain]);
    }
}
