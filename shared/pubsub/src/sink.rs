//! Writes batches of messages to their topics.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use pipeline::message::Attributes;
use pipeline::{Error, Join, Recovery, Refusal};

use crate::connection::TopicName;
use crate::guard::TopicGuard;
use crate::limits::{
    MAX_ATTRIBUTE_KEY_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_MESSAGE_BYTES,
    MAX_ORDERING_KEY_BYTES, MAX_REQUEST_BYTES, MAX_REQUEST_MESSAGES,
};
use crate::publishers::Publishers;

/// A message on its way to a topic.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: TopicName,
    /// The data.
    pub data: Bytes,
    /// What accompanies the data.
    pub attributes: Attributes,
    /// Messages of one non-empty key keep their order.
    pub ordering_key: String,
}

impl Outgoing {
    pub(crate) fn to_message(&self) -> PubsubMessage {
        PubsubMessage {
            data: self.data.clone(),
            attributes: HashMap::clone(&self.attributes),
            ordering_key: self.ordering_key.clone(),
            ..PubsubMessage::default()
        }
    }
}

/// Publishes a batch, in one request for each ordering key, and waits for the confirmation.
#[derive(Debug)]
pub struct Sink {
    publishers: Publishers,
    guard: TopicGuard,
}

impl Sink {
    /// Publishes to the topics that `guard` watches, as long as it lets them pass.
    #[must_use]
    pub fn new(publishers: Publishers, guard: TopicGuard) -> Self {
        Self { publishers, guard }
    }
}

/// Messages of one topic, and their size as encoded.
#[derive(Debug)]
pub struct Batch {
    topic: TopicName,
    messages: Vec<Outgoing>,
    bytes: usize,
}

impl pipeline::Sink for Sink {
    type Record = Outgoing;
    type Key = TopicName;
    type Batch = Batch;
    type Sealed = Batch;
    type Scratch = ();

    fn scratch(&self) {}

    fn key(&self, record: &Outgoing) -> TopicName {
        record.topic.clone()
    }

    fn open(&self, topic: &TopicName) -> Batch {
        Batch { topic: topic.clone(), messages: Vec::new(), bytes: topic.as_str().len() }
    }

    fn join(
        &self,
        batch: &mut Batch,
        record: Outgoing,
        (): &mut (),
    ) -> Result<usize, Join<Outgoing>> {
        let size = encoded_size(&record);
        check(&record, size).map_err(Join::Refused)?;
        let is_full =
            batch.bytes + size > MAX_REQUEST_BYTES || batch.messages.len() == MAX_REQUEST_MESSAGES;
        if is_full && !batch.messages.is_empty() {
            return Err(Join::Full(record));
        }
        batch.bytes += size;
        batch.messages.push(record);
        Ok(batch.bytes)
    }

    fn seal(&self, batch: Batch, (): &mut ()) -> Batch {
        batch
    }

    /// Dropping the call ends it, so it needs no time limit of its own.
    async fn write(&self, batch: &Batch, _: Duration) -> Result<Vec<Refusal>, Error> {
        self.guard.pass(&batch.topic)?;
        self.publishers.publish(&batch.topic, &batch.messages).await?;
        Ok(Vec::new())
    }

    fn split(&self, batch: &Batch, at: usize) -> Option<(Batch, Batch)> {
        let part = |messages: &[Outgoing]| Batch {
            topic: batch.topic.clone(),
            messages: messages.to_vec(),
            bytes: batch.bytes,
        };
        let (first, second) = batch.messages.split_at(at);
        Some((part(first), part(second)))
    }
}

/// Bytes of a message in a request: protobuf's fields with at most 8 bytes of tags and lengths each.
pub(crate) fn encoded_size(record: &Outgoing) -> usize {
    const FIELD: usize = 8;
    let attributes =
        record.attributes.iter().map(|(key, value)| key.len() + value.len() + 2 * FIELD);
    FIELD
        + FIELD
        + record.data.len()
        + FIELD
        + record.ordering_key.len()
        + attributes.sum::<usize>()
}

/// Refuses what Pub/Sub would refuse together with its whole batch.
fn check(record: &Outgoing, size: usize) -> Result<(), Error> {
    let refuse = |reason, detail: String| Err(Recovery::Reject(reason).because("publish", detail));
    if size > MAX_MESSAGE_BYTES {
        let detail = format!("{size} bytes encoded, Pub/Sub takes at most {MAX_MESSAGE_BYTES}");
        return refuse("message_too_large", detail);
    }
    if record.attributes.len() > MAX_ATTRIBUTES {
        let count = record.attributes.len();
        return refuse("too_many_attributes", format!("{count}, Pub/Sub takes {MAX_ATTRIBUTES}"));
    }
    let too_long = record.attributes.iter().find(|(key, value)| {
        key.is_empty()
            || key.len() > MAX_ATTRIBUTE_KEY_BYTES
            || value.len() > MAX_ATTRIBUTE_VALUE_BYTES
    });
    if let Some((key, value)) = too_long {
        let detail = format!("key of {} bytes, value of {}", key.len(), value.len());
        return refuse("attribute_invalid", detail);
    }
    if record.ordering_key.len() > MAX_ORDERING_KEY_BYTES {
        return refuse("ordering_key_too_long", format!("{} bytes", record.ordering_key.len()));
    }
    if record.data.is_empty() && record.attributes.is_empty() {
        return refuse("empty_message", "Pub/Sub wants data or an attribute".into());
    }
    Ok(())
}
