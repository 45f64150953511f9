//! Lines of an archived object. Icestore or an earlier program may have written them.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use pipeline::envelope::Input;
use pipeline::message::attribute::MQTT_TOPIC;
use pipeline::timestamp::parse_rfc3339;
use pipeline::{Envelope, Message, Payload};
use serde::Deserialize;
use time::OffsetDateTime;

use super::mqtt::Publication;
use super::{parquet, properties};
use crate::format::Format;

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
struct Json {
    #[serde(default)]
    id: String,
    original_pub_sub_payload: String,
    publish_time: Option<String>,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

/// Lines of an object.
pub type Lines = Box<dyn Iterator<Item = anyhow::Result<ArchivedLine>> + Send>;

/// Returns the lines of an object, one after another.
///
/// # Errors
/// For data that cannot be decompressed, and for a line that is not of the archive.
pub fn all(format: Format, object: Bytes) -> anyhow::Result<Lines> {
    Ok(match format {
        Format::JsonlGz => Box::new(lines(MultiGzDecoder::new(object.reader()))),
        Format::JsonlZst => {
            let decoder = zstd::Decoder::with_buffer(object.reader()).context("decompress")?;
            Box::new(lines(decoder))
        }
        Format::Parquet => Box::new(parquet::lines(object)?),
    })
}

fn lines(plain: impl Read) -> impl Iterator<Item = anyhow::Result<ArchivedLine>> {
    let lines = BufReader::new(plain).lines();
    lines.enumerate().map(|(index, line)| {
        let line = line.context("decompress")?;
        let json = serde_json::from_str::<Json>(&line)
            .with_context(|| format!("line {} is none of the archive", index + 1))?;
        ArchivedLine::try_from(json)
    })
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

        let lines = all(Format::JsonlGz, object.finish().unwrap().into()).unwrap();
        let lines: Vec<_> = lines.collect::<Result<_, _>>().unwrap();

        assert_eq!(lines[0].data(), envelope);
        assert_eq!(lines[0].time().unwrap(), time::macros::datetime!(2025-06-15 10:00 UTC));
        let publication = lines[0].for_mqtt().unwrap();
        assert_eq!(publication.topic, "devices/d/up");
        assert_eq!(publication.payload, r#"{"v":1}"#);
    }

    #[test]
    fn what_is_no_line_is_named_by_its_number() {
        let mut object = GzEncoder::new(Vec::new(), Compression::fast());
        object.write_all(b"{}\n").unwrap();

        let mut lines = all(Format::JsonlGz, object.finish().unwrap().into()).unwrap();
        let error = lines.next().unwrap().unwrap_err();

        assert!(error.to_string().starts_with("line 1 "), "{error}");
    }
}
