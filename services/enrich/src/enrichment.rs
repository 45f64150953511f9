//! From a message to the same message with what is known about its device.

use pipeline::envelope::Input;
use pipeline::message::attribute;
use pipeline::metrics::Reason;
use pipeline::{Envelope, Error, Message, Recovery, Step, Transform};
use pubsub::limits::{MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES};
use pubsub::{Outgoing, TopicName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::apply::Apply;
use crate::cache::{Fetch, Lookup};
use crate::key::Key;
use crate::metrics::Metrics;

/// What becomes of a message whose document does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// It goes on without.
    #[default]
    Pass,
    /// It goes to the dead letters.
    DeadLetter,
    /// It is counted and dropped.
    Drop,
}

/// Looks a message's document up and applies it.
pub struct Enrichment<K, A, F> {
    /// Finds the key.
    pub key: K,
    /// Applies the document.
    pub apply: A,
    /// Knows the documents.
    pub lookup: Lookup<F>,
    /// How a message's data is read.
    pub input: Input,
    /// What becomes of a message whose document does not exist.
    pub on_missing: OnMissing,
    /// Where messages go.
    pub topic: TopicName,
    /// Counts.
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
                    Ok(Step::Pass(self.without(message, &envelope, "document_missing")))
                }
                OnMissing::Drop => Ok(Step::Skip("document_missing")),
                OnMissing::DeadLetter => {
                    let detail = format!("there is no document {key}");
                    Err(Recovery::Reject("document_missing").because("look up", detail))
                }
            },
        }
    }
}

impl<K, A, F> Enrichment<K, A, F> {
    fn without(&self, message: &Message, envelope: &Envelope, reason: &'static str) -> Outgoing {
        self.metrics.unenriched.get_or_create(&Reason { reason }).inc();
        self.outgoing(message, envelope)
    }

    /// The envelope as a message; a raw message gets its id, so that every later hop knows it.
    fn outgoing(&self, message: &Message, envelope: &Envelope) -> Outgoing {
        let mut attributes = message.attributes.clone();
        // Pub/Sub's limits must not turn a message that came through into a dead letter.
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
