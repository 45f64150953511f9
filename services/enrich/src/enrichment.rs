//! Transform that adds data about the device to a message.

use message::attribute;
use message::envelope::Input;
use message::{Envelope, Message};
use pipeline::metrics::ReasonLabel;
use pipeline::hops::{Ids, RecordKind, RecordText};
use pipeline::{Error, Event as _, Recovery, Step, Transform};
use pubsub::limits::{MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES};
use pubsub::{Outgoing, TopicName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::apply::Apply;
use crate::cache::{Fetch, Lookup};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::reasons::DOCUMENT_MISSING;

/// Handling of a message whose document does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// Send it without a document.
    #[default]
    Pass,
    /// Write it to the dead letters.
    DeadLetter,
    /// Count and drop it.
    Drop,
}

/// Transform that looks a message's document up and applies it.
pub struct Enrichment<K, A, F> {
    /// Rule that finds the key.
    pub key: K,
    /// Applier of the document.
    pub apply: A,
    /// Lookup of the documents.
    pub lookup: Lookup<F>,
    /// Form of a message's data.
    pub input: Input,
    /// Handling of a message whose document does not exist.
    pub on_missing: OnMissing,
    /// Topic to publish to.
    pub topic: TopicName,
    /// Metrics of the lookups.
    pub metrics: Metrics,
}

impl<K: Key, A: Apply, F: Fetch> Transform for Enrichment<K, A, F> {
    type Record = Outgoing;

    async fn apply(&self, message: &Message) -> Result<Step<Outgoing>, Error> {
        let mut envelope = Envelope::of(message, self.input)?;
        let Some(key) = self.key.key(message, &envelope) else {
            return Ok(Step::Pass(self.without(message, &envelope, "no_key")));
        };
        self.metrics.lookups.inc();
        match self.lookup.document(&key).await? {
            Some(document) => {
                self.apply.apply(&document, &mut envelope);
                Ok(Step::Pass(self.outgoing(message, &envelope)))
            }
            None => match self.on_missing {
                OnMissing::Pass => {
                    Ok(Step::Pass(self.without(message, &envelope, DOCUMENT_MISSING.as_str())))
                }
                OnMissing::Drop => Ok(Step::Skip(DOCUMENT_MISSING)),
                OnMissing::DeadLetter => {
                    let detail = format!("there is no document {key}");
                    Err(Recovery::Reject(DOCUMENT_MISSING).because("look up", detail))
                }
            },
        }
    }

    fn ids<'a>(&'a self, message: &'a Message, record: Option<&'a Outgoing>) -> Ids<'a> {
        record.map_or_else(|| message.ids(), Outgoing::ids)
    }

    /// Shows the values that the message had not before.
    fn show(&self, message: &Message, record: &Outgoing) -> Option<RecordText> {
        let before = Envelope::read(&message.data).map(|envelope| envelope.enrichment);
        let before = before.unwrap_or_default();
        let mut added = Envelope::read(&record.data)?.enrichment;
        added.retain(|name, value| before.get(name) != Some(value));
        Some(RecordText::new(RecordKind::Document, &serde_json::to_vec(&added).ok()?))
    }
}

impl<K, A, F> Enrichment<K, A, F> {
    fn without(&self, message: &Message, envelope: &Envelope, reason: &'static str) -> Outgoing {
        self.metrics.unenriched.get_or_create(&ReasonLabel { reason }).inc();
        self.outgoing(message, envelope)
    }

    /// Returns the envelope as a message. A raw message gets its id as an attribute, so every later
    /// service knows it.
    fn outgoing(&self, message: &Message, envelope: &Envelope) -> Outgoing {
        let mut attributes = message.attributes.clone();
        // A message that was accepted before must not become a dead letter because this attribute
        // exceeds Pub/Sub's limits.
        let has_room =
            attributes.len() < MAX_ATTRIBUTES && envelope.id.len() <= MAX_ATTRIBUTE_VALUE_BYTES;
        if has_room && !attributes.contains_key(attribute::INGEST_ID) {
            attributes.insert(attribute::INGEST_ID.to_owned(), envelope.id.clone());
        }
        Outgoing {
            topic: self.topic.clone(),
            data: envelope.to_bytes(),
            attributes,
            ordering_key: message.ordering_key.clone(),
        }
    }
}
