//! Conversion of messages to lines of the archive.

use bytes::Bytes;
use message::attribute;
use message::envelope::Input;
use message::json::Object;
use message::{Envelope, Message};
use pipeline::hops::{RecordKind, RecordText};
use pipeline::{Error, Recovery, Step, Transform};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::key::{self, BatchKey};
use crate::reasons;

/// Line with the key of its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Batch key.
    pub key: String,
    /// One JSON object and a line feed.
    pub bytes: Bytes,
    /// Event time.
    pub time: OffsetDateTime,
}

/// Makes lines of messages.
pub struct Archive<K> {
    key: K,
    input: Input,
    /// True if the store takes only keys that are levels between `/`.
    needs_levels: bool,
}

impl<K: BatchKey> Archive<K> {
    /// Creates a transform that makes lines with these keys.
    #[must_use]
    pub fn new(key: K, input: Input) -> Self {
        Self { key, input, needs_levels: false }
    }

    /// Refuses keys that are not levels between `/`, if the store needs them.
    #[must_use]
    pub fn with_levels(self, needs_levels: bool) -> Self {
        Self { needs_levels, ..self }
    }

    fn line(&self, message: &Message) -> Result<Line, Error> {
        let envelope = Envelope::of(message, self.input)?;
        let key = self.key.key(message, &envelope);
        let refused = Recovery::Reject(reasons::NOT_ARCHIVABLE);
        if self.needs_levels && !key::is_folder(&key) {
            // The key can have data in it, so it is not shown.
            let why = "its batch key must be levels between `/`, none of them empty, `.` or `..`, \
                       without control characters";
            return Err(refused.because("name object", why));
        }
        let time = envelope.publish_time.unwrap_or(message.publish_time);
        let archived = rfc3339(millis(OffsetDateTime::now_utc()))?;
        let event = rfc3339(micros(time))?;
        let line = write(message, &key, &archived, &event)
            .map_err(|error| refused.because("write line", error))?;
        Ok(Line { key, bytes: line.into(), time })
    }
}

/// Writes a line with two times: the time of archiving and the event time. The first four keys are
/// those of the earlier services in Go, whose replay can read the line.
fn write(
    message: &Message,
    key: &str,
    archived: &str,
    event: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Object::with_capacity(message.data.len() * 4 / 3 + 768);
    line.put("id", &message.id)?;
    line.put("batchKey", key)?;
    line.put_base64("originalPubSubPayload", &message.data);
    line.put("archivedAt", archived)?;
    if let Some(ingest_id) = message.attributes.get(attribute::INGEST_ID) {
        line.put("ingestId", ingest_id)?;
    }
    line.put("publishTime", event)?;
    if !message.attributes.is_empty() {
        line.put("attributes", &*message.attributes)?;
    }
    let mut line = line.finish();
    line.push(b'\n');
    Ok(line)
}

impl<K: BatchKey> Transform for Archive<K> {
    type Record = Line;

    async fn apply(&self, message: &Message) -> Result<Step<Line>, Error> {
        self.line(message).map(Step::Pass)
    }

    fn show(&self, _message: &Message, line: &Line) -> Option<RecordText> {
        Some(RecordText::new(RecordKind::Line, line.bytes.trim_ascii_end()))
    }
}

pub(crate) fn rfc3339(time: OffsetDateTime) -> Result<String, Error> {
    // RFC 3339 has no form for years beyond 9999.
    time.format(&Rfc3339)
        .map_err(|error| Recovery::Reject(reasons::TIME_OUT_OF_RANGE).because("write time", error))
}

fn millis(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_millisecond(time.millisecond()).unwrap_or(time)
}

/// Cuts a time to the precision of BigQuery, which is microseconds.
pub(crate) fn micros(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_microsecond(time.microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Template;

    #[test]
    fn a_line_holds_the_message_byte_for_byte() {
        let mut message = Message::new(&b"\x00\xffdata"[..])
            .with_attribute("ingest_id", "i-1")
            .with_attribute("location", "loc-a");
        message.id = "1234567".into();
        message.publish_time = time::macros::datetime!(2025-06-15 10:00:00.123456789 UTC);

        let line = Archive::new(Template::default(), Input::Auto).line(&message).unwrap();

        assert_eq!(line.key, "2025/06/15/loc-a");
        assert_eq!(line.bytes.last(), Some(&b'\n'));
        let text = std::str::from_utf8(&line.bytes).unwrap();
        assert!(text.starts_with(r#"{"id":"1234567","batchKey":"2025/06/15/loc-a","originalPubSubPayload":"AP9kYXRh","archivedAt":""#));
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(json["ingestId"], "i-1");
        assert_eq!(json["publishTime"], "2025-06-15T10:00:00.123456Z");
        assert_eq!(json["attributes"]["location"], "loc-a");
    }

    #[test]
    fn a_function_can_be_the_batch_key() {
        let key = |message: &Message, envelope: &Envelope| {
            let payload = envelope.payload.as_ref().map(message::Payload::bytes);
            format!("{}/{}", message.id, payload.unwrap_or_default().len())
        };
        let message = Message { id: "7".into(), ..Message::new("data") };

        let line = Archive::new(key, Input::Raw).line(&message).unwrap();

        assert_eq!(line.key, "7/4");
    }

    #[test]
    fn a_key_that_the_store_cannot_take_is_refused() {
        let line = |key: &'static str, needs_levels| {
            let key = move |_: &Message, _: &Envelope| key.to_owned();
            let archive = Archive::new(key, Input::Raw).with_levels(needs_levels);
            archive.line(&Message::new("data"))
        };
        let archived = |key| line(key, true);

        for wrong in ["a//b", "..", "a/../b", "."] {
            let refused = archived(wrong).unwrap_err();
            assert_eq!(refused.recovery(), Recovery::Reject(reasons::NOT_ARCHIVABLE), "{wrong}");
        }
        assert_eq!(archived("a/b").unwrap().key, "a/b");
        assert_eq!(line("a//b", false).unwrap().key, "a//b", "Cloud Storage takes it");
    }
}
