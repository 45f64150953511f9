//! Lines of an archived object, whoever wrote it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use pipeline::envelope::Input;
use pipeline::message::attribute::MQTT_TOPIC;
use pipeline::timestamp::parse_rfc3339;
use pipeline::{Envelope, Message, Payload};
use serde::Deserialize;
use time::OffsetDateTime;

use super::mqtt::Publication;
use super::properties;

/// An archived message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    #[serde(default)]
    id: String,
    original_pub_sub_payload: String,
    publish_time: Option<String>,
    /// What accompanied the message; the Go services wrote none.
    #[serde(default)]
    pub attributes: HashMap<String, String>,
}

/// The lines of an object, one after another.
///
/// # Errors
/// For what cannot be unzipped, and for a line that is none of the archive.
pub fn all(object: &[u8]) -> impl Iterator<Item = anyhow::Result<Line>> {
    let lines = BufReader::new(MultiGzDecoder::new(object)).lines();
    lines.enumerate().map(|(index, line)| {
        let line = line.context("unzip")?;
        serde_json::from_str(&line)
            .with_context(|| format!("line {} is none of the archive", index + 1))
    })
}

impl Line {
    /// The event time, where one was written: by its own key, else in the envelope.
    #[must_use]
    pub fn time(&self) -> Option<OffsetDateTime> {
        if let Some(text) = &self.publish_time {
            return parse_rfc3339(text);
        }
        Envelope::read(&self.data().ok()?)?.publish_time
    }

    /// The data of the Pub/Sub message.
    ///
    /// # Errors
    /// When it is no base64.
    pub fn data(&self) -> anyhow::Result<Bytes> {
        let data = STANDARD.decode(&self.original_pub_sub_payload);
        Ok(data.with_context(|| format!("message {}: originalPubSubPayload", self.id))?.into())
    }

    /// What the device sent, and on which MQTT topic.
    ///
    /// # Errors
    /// When the data is no base64, or the topic is not known.
    pub fn for_mqtt(&self) -> anyhow::Result<Publication> {
        let message = Message::new(self.data()?);
        let envelope = Envelope::of(&message, Input::Auto)?;
        let told = envelope.enrichment.get("Topic").and_then(|topic| topic.as_str());
        let topic = self.attributes.get(MQTT_TOPIC).map(String::as_str).or(told);
        let topic = topic.with_context(|| format!("message {} has no MQTT topic", self.id))?;
        let payload = envelope.payload.as_ref().map(Payload::bytes).unwrap_or_default();
        let properties = properties::of(&self.attributes);
        Ok(Publication { topic: topic.to_owned(), payload, properties })
    }

    #[cfg(test)]
    pub(super) fn of_time(publish_time: Option<&str>) -> Self {
        let original_pub_sub_payload = "eA==".into();
        let (id, publish_time) = (String::new(), publish_time.map(str::to_owned));
        Self { id, original_pub_sub_payload, publish_time, attributes: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn an_object_of_the_go_services_is_read() {
        let envelope = r#"{"id":"1","payload":"eyJ2IjoxfQ==","publishTime":"2025-06-15T10:00:00Z","enrichmentData":{"Topic":"devices/d/up"}}"#;
        let line = format!(
            "{{\"id\":\"7\",\"batchKey\":\"2025/06/15\",\"originalPubSubPayload\":\"{}\",\"archivedAt\":\"2025-06-15T10:00:01Z\"}}\n",
            STANDARD.encode(envelope)
        );
        let mut object = GzEncoder::new(Vec::new(), Compression::fast());
        object.write_all(line.as_bytes()).unwrap();

        let lines: Vec<_> = all(&object.finish().unwrap()).collect::<Result<_, _>>().unwrap();

        assert_eq!(lines[0].data().unwrap(), envelope);
        assert_eq!(lines[0].time().unwrap(), time::macros::datetime!(2025-06-15 10:00 UTC));
        let publication = lines[0].for_mqtt().unwrap();
        assert_eq!(publication.topic, "devices/d/up");
        assert_eq!(publication.payload, r#"{"v":1}"#);
    }

    #[test]
    fn what_is_no_line_is_named_by_its_number() {
        let mut object = GzEncoder::new(Vec::new(), Compression::fast());
        object.write_all(b"{}\n").unwrap();

        let error = all(&object.finish().unwrap()).next().unwrap().unwrap_err();

        assert!(error.to_string().starts_with("line 1 "), "{error}");
    }
}
