//! Pulls messages from a subscription, one request at a time.
//!
//! A stream does not suit a tool that returns every message. Messages that Pub/Sub has sent on a
//! stream, but that nobody has read when it ends, stay hidden until their lease ends. A request has
//! one answer, and the return of a message is confirmed.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use message::Message;
use message::timestamp::parse_rfc3339;
use pipeline::backoff::Backoff;
use pipeline::{Error, Recovery};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use service::google::Access;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::connection::Connection;

/// Longest duration of one request.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of attempts for one request.
const ATTEMPTS: u32 = 4;
/// Maximum number of acknowledgement ids in one request, as in Google's client. A request has at
/// most 512 KiB.
const MAX_IDS: usize = 1000;

/// Client of one subscription.
pub(super) struct Puller {
    client: reqwest::Client,
    access: Access,
    url: String,
}

/// A message under a lease.
#[derive(Debug)]
pub(super) struct Leased {
    /// Id of the lease.
    pub(super) ack_id: String,
    /// The message.
    pub(super) message: Message,
}

/// Answer to one pull.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    /// The leased messages.
    pub(super) leased: Vec<Leased>,
    /// Time by the service's clock, in whole seconds.
    pub(super) served_at: Option<OffsetDateTime>,
    /// Cause of a lost answer. Its messages are leased, but nobody has them.
    pub(super) lost: Option<String>,
}

/// Failure of one attempt.
struct Failure {
    error: Error,
    /// True if another attempt may succeed.
    is_transient: bool,
    /// True if the request may have been carried out.
    may_be_done: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PullAnswer {
    #[serde(default)]
    received_messages: Vec<Received>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    ack_id: String,
    message: PulledMessage,
    #[serde(default)]
    delivery_attempt: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PulledMessage {
    #[serde(default)]
    data: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    message_id: String,
    publish_time: Option<String>,
}

impl Puller {
    /// Builds a client of the subscription with this full name. Sends nothing yet.
    ///
    /// # Errors
    /// `Stop` without credentials.
    pub(super) async fn new(connection: &Connection, subscription: &str) -> Result<Self, Error> {
        let access = connection.access().await?;
        let client = reqwest::Client::builder().timeout(TIMEOUT).build();
        let url = format!("{}/v1/{subscription}", access.url("pubsub"));
        Ok(Self {
            client: client.map_err(|error| Recovery::Stop.because("build HTTP client", error))?,
            access,
            url,
        })
    }

    /// Pulls up to `max` messages that are available now. An empty answer does not mean that none
    /// are left.
    ///
    /// # Errors
    /// Pub/Sub refuses the request, or keeps failing.
    pub(super) async fn pull(&self, max: usize) -> Result<Pulled, Error> {
        // Without `returnImmediately`, Pub/Sub keeps the request open until a message arrives. A
        // request that is then cancelled may have leased a message that nobody sees.
        let body = json!({ "maxMessages": max, "returnImmediately": true });
        let mut pulled = Pulled::default();
        let (answer, served_at) = self.call("pull", &body, &mut pulled.lost).await?;
        let answer: PullAnswer = serde_json::from_slice(&answer)
            .map_err(|error| Recovery::Stop.because("read pulled messages", error))?;
        pulled.served_at = served_at;
        pulled.leased =
            answer.received_messages.into_iter().map(leased).collect::<Result<_, _>>()?;
        Ok(pulled)
    }

    /// Acknowledges messages. Returns once that is confirmed.
    ///
    /// # Errors
    /// Some messages may be redelivered.
    pub(super) async fn acknowledge(&self, ack_ids: &[&str]) -> Result<(), Error> {
        for ack_ids in ack_ids.chunks(MAX_IDS) {
            self.call("acknowledge", &json!({ "ackIds": ack_ids }), &mut None).await?;
        }
        Ok(())
    }

    /// Sets leases to `lease` from now on. Zero returns the messages to the subscription.
    ///
    /// # Errors
    /// Some leases are unchanged.
    pub(super) async fn lease(&self, ack_ids: &[&str], lease: Duration) -> Result<(), Error> {
        let mut outcome = Ok(());
        for ack_ids in ack_ids.chunks(MAX_IDS) {
            let body = json!({ "ackIds": ack_ids, "ackDeadlineSeconds": lease.as_secs() });
            outcome = outcome.and(self.call("modifyAckDeadline", &body, &mut None).await.map(drop));
        }
        outcome
    }

    /// Sends a request until it succeeds or is refused. Sets `lost` to the cause if an attempt
    /// failed but may have been carried out.
    async fn call(
        &self,
        verb: &'static str,
        body: &Value,
        lost: &mut Option<String>,
    ) -> Result<(Vec<u8>, Option<OffsetDateTime>), Error> {
        let mut waits = Backoff::default().waits();
        for _ in 1..ATTEMPTS {
            match self.attempt(verb, body).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if !failure.is_transient => return Err(failure.error),
                Err(failure) => {
                    if failure.may_be_done {
                        *lost = Some(format!("{:#}", failure.error));
                    }
                    tokio::time::sleep(waits.next_wait()).await;
                }
            }
        }
        self.attempt(verb, body).await.map_err(|failure| failure.error)
    }

    async fn attempt(
        &self,
        verb: &'static str,
        body: &Value,
    ) -> Result<(Vec<u8>, Option<OffsetDateTime>), Failure> {
        let headers = self.access.headers().await.map_err(|error| Failure {
            is_transient: error.is_transient(),
            may_be_done: false,
            error: Recovery::Stop.because("find credentials", error),
        })?;
        let request = self.client.post(format!("{}:{verb}", self.url)).json(body).headers(headers);
        let silent = |error: reqwest::Error| Failure {
            is_transient: true,
            may_be_done: !error.is_connect(),
            error: Recovery::Retry.because(verb, error),
        };
        let answer = request.send().await.map_err(silent)?;
        let (status, date) = (answer.status(), answer.headers().get("date"));
        let served_at =
            date.and_then(|date| OffsetDateTime::parse(date.to_str().ok()?, &Rfc2822).ok());
        let body = answer.bytes().await.map_err(silent)?;
        if status.is_success() {
            return Ok((body.into(), served_at));
        }
        let is_transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Err(Failure {
            is_transient,
            may_be_done: status.is_server_error(),
            error: Recovery::Stop.because(verb, refusal(status, &body)),
        })
    }
}

/// Returns the text of an error answer.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let told: Option<Value> = serde_json::from_slice(body).ok();
    let told = told.as_ref().and_then(|told| told["error"]["message"].as_str());
    told.map_or_else(|| status.to_string(), |told| format!("{status}: {told}"))
}

fn leased(received: Received) -> Result<Leased, Error> {
    let content = received.message;
    let data = STANDARD.decode(&content.data);
    let data = data.map_err(|error| Recovery::Stop.because("read pulled messages", error))?;
    let mut message = Message::new(data);
    message.id = content.message_id;
    message.attributes = content.attributes.into();
    message.attempts = received.delivery_attempt.max(1);
    let published = content.publish_time.as_deref();
    if let Some(time) = published.and_then(parse_rfc3339) {
        message.publish_time = time;
    }
    Ok(Leased { ack_id: received.ack_id, message })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::tests::{ToolEnv, texts};
    use super::*;
    use crate::settings::Endpoint;

    async fn failure_of(url: String) -> Failure {
        service::install_crypto();
        let endpoint = Endpoint { endpoint: Some(url.into()), ..Endpoint::default() };
        let connection = Connection::new(endpoint);
        let puller = Puller::new(&connection, "projects/p/subscriptions/s").await.unwrap();
        puller.attempt("pull", &json!({})).await.unwrap_err()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_acknowledged_letter_does_not_come_again() {
        let env = ToolEnv::with_letters(3).await;
        let puller = env.puller().await;
        let first = puller.pull(10).await.unwrap().leased;
        let ack_ids: Vec<_> = first.iter().map(|leased| &*leased.ack_id).collect();

        puller.acknowledge(&ack_ids[..2]).await.unwrap();
        puller.lease(&ack_ids, Duration::ZERO).await.unwrap();

        assert_eq!(first.len(), 3);
        assert_eq!(texts(&env.pull("dead-letters").await), ["2"]);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_has_lost_nothing() {
        let failure = failure_of("http://127.0.0.1:1".into()).await;

        assert!(failure.is_transient);
        assert!(!failure.may_be_done);
        assert!(format!("{:#}", failure.error).starts_with("pull: "), "{:#}", failure.error);
    }

    #[tokio::test]
    async fn a_connection_that_ends_without_an_answer_may_have_lost_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cut = async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.read_exact(&mut [0; 4]).await.unwrap();
        };

        let both = async { tokio::join!(failure_of(url), cut) };
        let (failure, ()) = timeout(Duration::from_secs(30), both).await.unwrap();

        assert!(failure.is_transient);
        assert!(failure.may_be_done, "{:#}", failure.error);
    }
}
