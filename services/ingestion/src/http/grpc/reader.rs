//! Items of a stream, as fast as there is room for them.

use std::sync::Arc;

use axum::http::StatusCode;
use futures::Stream;
use futures::stream::try_unfold;
use pipeline::Delivery;
use prost::Message as _;
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::{Instant, sleep, timeout_at};
use web::Denied;

use super::frames::Frames;
use super::item;
use crate::http::admission::Place;
use crate::http::ingest::Ingest;
use crate::http::named_id::{Name, named_id};
use crate::http::refusal::{BUSY, Refusal};
use crate::proto::PublishStreamRequest;

/// Item that was read.
pub(super) struct Numbered {
    pub sequence: u64,
    /// The message, or the refusal of the item.
    pub item: Result<Ready, Refusal>,
}

/// Message with room in the pipeline.
pub(super) struct Ready {
    pub id: String,
    pub message: message::Message,
    pub place: Place,
    /// Time by which it has an outcome.
    pub deadline: Instant,
    pub room: OwnedPermit<Delivery>,
}

/// Side of a stream that reads.
pub(super) struct Reader {
    pub ingest: Arc<Ingest>,
    pub frames: Frames,
    pub trace: Option<String>,
    /// Number of the last item.
    pub last: Option<u64>,
}

impl Reader {
    /// Returns the items until the client ends its side. An error ends the stream.
    pub(super) fn into_items(self) -> impl Stream<Item = Result<Numbered, Refusal>> + Send {
        try_unfold(self, |mut reader| async { Ok(reader.next().await?.map(|item| (item, reader))) })
    }

    async fn next(&mut self) -> Result<Option<Numbered>, Refusal> {
        let Some(size) = self.frames.size().await? else { return Ok(None) };
        self.pace().await?;
        let place = self.ingest.admission.wait(size).await?;
        let message = self.frames.message(size).await?;
        let request = PublishStreamRequest::decode(message).map_err(|error| {
            Refusal::invalid("body", format!("it is no PublishStreamRequest: {error}"))
        })?;
        let sequence = request.sequence;
        if self.last.is_some_and(|last| last >= sequence) {
            let right = "sequence must be greater than that of the item before";
            return Err(Refusal::invalid("sequence", right));
        }
        self.last = Some(sequence);
        let item = request.item.ok_or_else(|| Refusal::invalid("item", "item is required"));
        let item = match item.and_then(|item| self.message(item)) {
            Ok((id, message)) => self.ready(id, message, place).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Some(Numbered { sequence, item }))
    }

    /// Waits until the client may send another request. Each item counts as one.
    async fn pace(&mut self) -> Result<(), Refusal> {
        let Some(quota) = self.frames.quota() else { return Ok(()) };
        loop {
            match quota.admit_next() {
                Ok(()) => return Ok(()),
                Err(Denied::TooFast { retry_after, .. }) => sleep(retry_after).await,
                // No other refusal comes from limits.
                Err(_) => {
                    let detail = "the client is too fast";
                    return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, BUSY, detail));
                }
            }
        }
    }

    fn message(&self, item: crate::proto::Item) -> Result<(String, message::Message), Refusal> {
        let mut item = item::read(item)?;
        let id = item.id.take().map(|id| named_id(&item.source_id, Name::Id(&id)));
        self.ingest.message(item, id, self.trace.as_deref())
    }

    async fn ready(
        &mut self,
        id: String,
        message: message::Message,
        place: Place,
    ) -> Result<Ready, Refusal> {
        let deadline = Instant::now() + self.ingest.timeout;
        let room = self.ingest.outbox().clone().reserve_owned();
        match timeout_at(deadline, room).await {
            Ok(Ok(room)) => Ok(Ready { id, message, place, deadline, room }),
            Ok(Err(_closed)) => Err(Refusal::ending()),
            Err(_elapsed) => Err(Refusal::not_in_time()),
        }
    }
}
