//! Request whose items are sent: each is handed to the pipeline, and its outcome is waited for.

use std::collections::HashSet;
use std::sync::Arc;

use axum::http::StatusCode;
use pipeline::{Delivery, Disposition, Settle, Settlement};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::admission::Place;
use super::answer::{Accepted, Outcome};
use super::ingest::Ingest;
use super::item::Item;
use super::named_id::{Name, named_id};
use super::refusal::{DROPPED, Refusal};

/// Message that was handed to the pipeline.
pub(super) struct Offered {
    id: String,
    disposition: oneshot::Receiver<Disposition>,
}

/// Handle that tells a client the outcome of its message.
struct Reply {
    client: oneshot::Sender<Disposition>,
    /// The message is in memory until it is settled, even if its client has gone.
    _place: Arc<Place>,
}

impl Settle for Reply {
    fn settle(self: Box<Self>, disposition: Disposition) {
        // An error means that the client has gone.
        let _ = self.client.send(disposition);
    }

    fn is_current(&self) -> bool {
        !self.client.is_closed()
    }
}

/// Request whose items are sent.
pub(super) struct Sending<'a> {
    pub ingest: &'a Ingest,
    /// Idempotency key of the request.
    pub key: Option<String>,
    pub trace: Option<&'a str>,
    pub place: Arc<Place>,
    /// Time by which every item has an outcome.
    pub deadline: Instant,
    /// Time at which the client gives up, if it has told one.
    pub client_deadline: Option<Instant>,
}

impl Sending<'_> {
    /// Sends the items of a batch, and waits for their outcomes.
    pub(super) async fn send_all(&self, items: Vec<Result<Item, Refusal>>) -> Vec<Outcome> {
        let mut offered = Vec::with_capacity(items.len());
        for (index, item) in without_twins(items).enumerate() {
            offered.push(self.offer(item, Some(index)).await);
        }
        let mut outcomes = Vec::with_capacity(offered.len());
        for offered in offered {
            outcomes.push(self.outcome(offered).await);
        }
        outcomes
    }

    /// Sends one item, and waits for its outcome.
    pub(super) async fn send(&self, item: Result<Item, Refusal>) -> Outcome {
        let offered = self.offer(item, None).await;
        self.outcome(offered).await
    }

    /// Hands an item to the pipeline. An item of a batch has an index.
    async fn offer(
        &self,
        item: Result<Item, Refusal>,
        index: Option<usize>,
    ) -> Result<Offered, Refusal> {
        let mut item = item?;
        let id = match (item.id.take(), &self.key) {
            (Some(id), _) => Some(named_id(&item.source_id, Name::Id(&id))),
            (None, Some(key)) => Some(named_id(&item.source_id, Name::Key(key, index))),
            (None, None) => None,
        };
        let (id, message) = self.ingest.message(item, id, self.trace)?;
        let (client, disposition) = oneshot::channel();
        let reply = Reply { client, _place: Arc::clone(&self.place) };
        let settlement = Settlement::new(reply, Some(self.deadline)).with_client();
        let delivery = Delivery::new(message, settlement);
        match timeout_at(self.end(), self.ingest.outbox().send(delivery)).await {
            Ok(Ok(())) => Ok(Offered { id, disposition }),
            Ok(Err(_closed)) => Err(Refusal::ending()),
            Err(_elapsed) => Err(self.not_in_time()),
        }
    }

    /// Waits for the outcome of an item, and counts it.
    async fn outcome(&self, offered: Result<Offered, Refusal>) -> Outcome {
        let outcome = match offered {
            Ok(Offered { id, disposition }) => match timeout_at(self.end(), disposition).await {
                Ok(Ok(disposition)) => outcome_of(id, disposition),
                // A sender that is gone would be a settlement that was not told.
                Ok(Err(_)) => Err(Refusal::not_in_time()),
                Err(_elapsed) => Err(self.not_in_time()),
            },
            Err(refusal) => Err(refusal),
        };
        self.ingest.count(&outcome);
        outcome
    }

    /// Returns the end of the wait.
    fn end(&self) -> Instant {
        self.client_deadline.map_or(self.deadline, |client| client.min(self.deadline))
    }

    fn not_in_time(&self) -> Refusal {
        if self.client_deadline.is_some_and(|client| client < self.deadline) {
            return Refusal::too_late();
        }
        Refusal::not_in_time()
    }
}

/// Returns the outcome of a message that is settled.
pub(super) fn outcome_of(id: String, disposition: Disposition) -> Outcome {
    match disposition {
        Disposition::Ack => Ok(Accepted::new(id, None)),
        Disposition::DeadLettered(reason) => Ok(Accepted::new(id, Some(reason))),
        Disposition::Dropped(reason) => {
            let detail = format!("it can never be published ({reason}), and was dropped");
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, DROPPED, detail))
        }
        Disposition::Nack => Err(Refusal::not_in_time()),
    }
}

/// Refuses the second of two items with the same source and id. The sinks would take them for one.
fn without_twins(items: Vec<Result<Item, Refusal>>) -> impl Iterator<Item = Result<Item, Refusal>> {
    let mut seen = HashSet::new();
    items.into_iter().map(move |item| {
        let item = item?;
        let name = item.id.as_ref().map(|id| (item.source_id.clone(), id.clone()));
        if name.is_some_and(|name| !seen.insert(name)) {
            let detail = "another item of this batch has the same sourceId and id";
            return Err(Refusal::invalid("id", detail));
        }
        Ok(item)
    })
}
