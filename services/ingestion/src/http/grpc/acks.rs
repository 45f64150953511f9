//! Items of a stream that have no outcome yet, and the acknowledgements of those that have one.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipeline::{Delivery, Disposition, Settle, Settlement};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::reader::{Numbered, Ready};
use super::status;
use crate::http::MAX_ITEMS;
use crate::http::admission::Place;
use crate::http::answer::Outcome;
use crate::http::ingest::Ingest;
use crate::http::refusal::Refusal;
use crate::http::sending::outcome_of;
use crate::proto::{Ack, PublishStreamResponse};

/// Maximum number of acknowledgements in a response.
const MAX_ACKS: usize = 100;

/// Items of a stream without an acknowledgement that was sent. There are at most [`MAX_ITEMS`].
pub(super) struct Acks {
    ingest: Arc<Ingest>,
    /// Items without an outcome, by number. The first one has the first deadline.
    open: BTreeMap<u64, Open>,
    outcomes: mpsc::Receiver<StreamOutcome>,
    sender: mpsc::Sender<StreamOutcome>,
    /// Acknowledgements that are not sent yet.
    unsent: Vec<Ack>,
}

struct Open {
    id: String,
    deadline: Instant,
}

/// Outcome of a message.
struct StreamOutcome {
    sequence: u64,
    disposition: Disposition,
}

/// Handle that tells a stream the outcome of a message.
struct StreamReply {
    sequence: u64,
    deadline: Instant,
    stream: mpsc::Sender<StreamOutcome>,
    /// The message is in memory until it is settled, even if its client has gone.
    _place: Place,
}

impl Settle for StreamReply {
    fn settle(self: Box<Self>, disposition: Disposition) {
        // An error means that the client has gone. There is room for every item with a client. Items
        // that were given up may take some of it: then the outcome comes by its deadline.
        let _ = self.stream.try_send(StreamOutcome { sequence: self.sequence, disposition });
    }

    fn is_current(&self) -> bool {
        !self.stream.is_closed() && Instant::now() < self.deadline
    }
}

impl Acks {
    pub(super) fn new(ingest: Arc<Ingest>) -> Self {
        let (sender, outcomes) = mpsc::channel(MAX_ITEMS);
        Self { ingest, open: BTreeMap::new(), outcomes, sender, unsent: Vec::new() }
    }

    /// Counts a stream that is refused because of what its client sent.
    pub(super) fn count_refused(&self, refusal: &Refusal) {
        self.ingest.count_refused(refusal);
    }

    /// Returns whether another item may be read.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() + self.unsent.len() < MAX_ITEMS
    }

    /// Returns whether acknowledgements wait to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Returns whether every item has an outcome.
    pub(super) fn are_complete(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns the first acknowledgements that are not sent yet. Few of them, so that a client that is
    /// slow takes a whole response now and then.
    pub(super) fn take(&mut self) -> PublishStreamResponse {
        let count = self.unsent.len().min(MAX_ACKS);
        PublishStreamResponse { acks: self.unsent.drain(..count).collect() }
    }

    /// Hands an item to the pipeline.
    pub(super) fn offer(&mut self, Numbered { sequence, item }: Numbered) {
        let Ready { id, message, place, deadline, room } = match item {
            Ok(ready) => ready,
            Err(refusal) => return self.tell(sequence, Err(refusal)),
        };
        // Its outcome may come before the next line has ended.
        self.open.insert(sequence, Open { id, deadline });
        let reply = StreamReply { sequence, deadline, stream: self.sender.clone(), _place: place };
        let settlement = Settlement::new(reply, Some(deadline)).with_client();
        let _sender = room.send(Delivery::new(message, settlement));
    }

    /// Waits for outcomes. Cancel safe.
    pub(super) async fn settled(&mut self) {
        // It has a sender of its own, so it never ends.
        let Some(settled) = self.outcomes.recv().await else { return };
        self.take_settled(settled);
        while let Ok(settled) = self.outcomes.try_recv() {
            self.take_settled(settled);
        }
    }

    fn take_settled(&mut self, StreamOutcome { sequence, disposition }: StreamOutcome) {
        // An item that was given up before is not known any more.
        if let Some(Open { id, .. }) = self.open.remove(&sequence) {
            self.tell(sequence, outcome_of(id, disposition));
        }
    }

    /// Returns the time at which the first item is given up.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.open.first_key_value().map(|(_, open)| open.deadline)
    }

    /// Gives up the items whose time is over.
    pub(super) fn give_up(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.get().deadline <= now)
        {
            let sequence = *entry.key();
            entry.remove();
            self.tell(sequence, Err(Refusal::not_in_time()));
        }
    }

    fn tell(&mut self, sequence: u64, outcome: Outcome) {
        self.ingest.count(&outcome);
        self.unsent.push(Ack { sequence, result: Some(status::result(outcome)) });
    }
}
