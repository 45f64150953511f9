//! Messages on their way to a topic, and the limits that Pub/Sub sets to them.

use std::collections::HashMap;

use bytes::Bytes;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use message::{Attributes, attribute};
use pipeline::hops::Ids;
use pipeline::{Error, Recovery, Step};

use crate::limits::{
    MAX_ATTRIBUTE_KEY_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_MESSAGE_BYTES,
    MAX_ORDERING_KEY_BYTES,
};
use crate::names::TopicName;
use crate::reasons;

/// A message on its way to a topic.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Topic to publish to.
    pub topic: TopicName,
    /// Data of the message.
    pub data: Bytes,
    /// String pairs that accompany the data.
    pub attributes: Attributes,
    /// Ordering key. Messages with the same non-empty key keep their order.
    pub ordering_key: String,
}

impl Outgoing {
    /// Rejects messages that the sink would reject. Used by tools that send nothing.
    ///
    /// # Errors
    /// `Reject` if Pub/Sub would not accept the message.
    pub fn check(step: Step<Self>) -> Result<Step<Self>, Error> {
        if let Step::Pass(outgoing) = &step {
            check(outgoing, encoded_size(outgoing))?;
        }
        Ok(step)
    }

    /// Returns the ids by which people find the message.
    #[must_use]
    pub fn ids(&self) -> Ids<'_> {
        let attribute = |name| self.attributes.get(name).map(String::as_str).unwrap_or_default();
        Ids {
            ingest_id: attribute(attribute::INGEST_ID).into(),
            device_id: attribute(attribute::DEVICE_ID).into(),
        }
    }

    pub(crate) fn to_message(&self) -> PubsubMessage {
        PubsubMessage {
            data: self.data.clone(),
            attributes: HashMap::clone(&self.attributes),
            ordering_key: self.ordering_key.clone(),
            ..PubsubMessage::default()
        }
    }
}

/// Returns the maximum size of a message in a request, in bytes. Each protobuf field has at most 8
/// bytes of tags and lengths.
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

/// Rejects a message that would make Pub/Sub refuse its whole batch.
pub(crate) fn check(record: &Outgoing, size: usize) -> Result<(), Error> {
    let refuse = |reason, detail: String| Err(Recovery::Reject(reason).because("publish", detail));
    if size > MAX_MESSAGE_BYTES {
        let detail = format!("{size} bytes encoded, Pub/Sub takes at most {MAX_MESSAGE_BYTES}");
        return refuse(reasons::MESSAGE_TOO_LARGE, detail);
    }
    if record.attributes.len() > MAX_ATTRIBUTES {
        let count = record.attributes.len();
        return refuse(
            reasons::TOO_MANY_ATTRIBUTES,
            format!("{count}, Pub/Sub takes {MAX_ATTRIBUTES}"),
        );
    }
    let too_long = record.attributes.iter().find(|(key, value)| {
        key.is_empty()
            || key.len() > MAX_ATTRIBUTE_KEY_BYTES
            || value.len() > MAX_ATTRIBUTE_VALUE_BYTES
    });
    if let Some((key, value)) = too_long {
        let detail = format!("key of {} bytes, value of {}", key.len(), value.len());
        return refuse(reasons::ATTRIBUTE_INVALID, detail);
    }
    if record.ordering_key.len() > MAX_ORDERING_KEY_BYTES {
        return refuse(
            reasons::ORDERING_KEY_TOO_LONG,
            format!("{} bytes", record.ordering_key.len()),
        );
    }
    if record.data.is_empty() && record.attributes.is_empty() {
        return refuse(reasons::EMPTY_MESSAGE, "Pub/Sub wants data or an attribute".into());
    }
    Ok(())
}
