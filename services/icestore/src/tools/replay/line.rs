//! Line of an archived object. Icestore or an earlier program may have written it.

use std::collections::HashMap;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use message::attribute::MQTT_TOPIC;
use message::envelope::Input;
use message::timestamp::parse_rfc3339;
use message::{Envelope, Message, Payload};
use serde::Deserialize;
use time::OffsetDateTime;

use super::mqtt::Publication;
use super::properties;

/// Archived message.
#[derive(Debug)]
pub struct ArchivedLine {
    pub(super) id: String,
    pub(super) data: Bytes,
    pub(super) time: Option<OffsetDateTime>,
    /// Attributes of the message. The earlier services in Go wrote none.
    pub attributes: HashMap<String, String>,
}

/// Archived message in JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Json {
    #[serde(default)]
    id: String,
    original_pub_sub_payload: String,
    publish_time: Option<String>,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

impl TryFrom<Json> for ArchivedLine {
    type Error = anyhow::Error;

    fn try_from(json: Json) -> anyhow::Result<Self> {
        let Json { id, original_pub_sub_payload, publish_time, attributes } = json;
        let data = STANDARD.decode(original_pub_sub_payload);
        let data = data.with_context(|| format!("message {id}: originalPubSubPayload"))?.into();
        let time = match publish_time {
            Some(text) => parse_rfc3339(&text),
            None => Envelope::read(&data).and_then(|envelope| envelope.publish_time),
        };
        Ok(Self { id, data, time, attributes })
    }
}

impl ArchivedLine {
    /// Returns the event time, if one was written: in its own key, or else in the envelope.
    #[must_use]
    pub fn time(&self) -> Option<OffsetDateTime> {
        self.time
    }

    /// Returns the data of the Pub/Sub message.
    #[must_use]
    pub fn data(&self) -> Bytes {
        self.data.clone()
    }

    /// Returns the payload that the device sent, with its MQTT topic.
    ///
    /// # Errors
    /// When the topic is not known.
    pub fn for_mqtt(&self) -> anyhow::Result<Publication> {
        let message = Message::new(self.data());
        let envelope = Envelope::of(&message, Input::Auto)?;
        let told = envelope.enrichment.get("Topic").and_then(|topic| topic.as_str());
        let topic = self.attributes.get(MQTT_TOPIC).map(String::as_str).or(told);
        let topic = topic.with_context(|| format!("message {} has no MQTT topic", self.id))?;
        let payload = envelope.payload.as_ref().map(Payload::bytes).unwrap_or_default();
        let properties = properties::of(&self.attributes);
        Ok(Publication { topic: topic.to_owned(), payload, properties })
    }

    #[cfg(test)]
    pub(super) fn of_time(time: Option<OffsetDateTime>) -> Self {
        Self { id: String::new(), data: Bytes::new(), time, attributes: HashMap::new() }
    }
}
