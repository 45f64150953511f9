//! Steps of messages, for people who watch a running pipeline.
//!
//! A [`Hop`] tells what happened to one message: it was received, transformed, is durable, or left
//! the stream. Hops exist only while somebody watches. [`Hops`] has the viewers of a process, and the
//! last dead letters, which it always keeps.
//!
//! A viewer never delays a message. A hop for which a viewer has no room is dropped and counted.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

mod dead_letters;
mod telling;
mod viewers;

pub use dead_letters::RecentDeadLetter;
pub(crate) use telling::{Owner, Shown, Told};
pub use viewers::{Filter, Hops, TooManyViewers, Viewer};

/// Maximum size of a record in a hop, in bytes.
pub const MAX_RECORD_BYTES: usize = 16 * 1024;

/// Step of a message through a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HopStep {
    /// The source has delivered it.
    Received,
    /// It has become a record.
    Transformed,
    /// Its record is durable at the destination.
    Durable,
    /// It is acknowledged without a record.
    Skipped,
    /// It is durable in the dead letters.
    DeadLettered,
    /// It can never succeed, and is lost, as the settings ask.
    Dropped,
    /// The source will deliver it again.
    Nacked,
}

/// Kind of a record in a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// Bytes of a device.
    Payload,
    /// Envelope that ingestion has made.
    Envelope,
    /// Document that enrich has added.
    Document,
    /// Row of a table.
    Row,
    /// Line of the archive.
    Line,
}

/// Text of a record, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordText {
    /// Kind of the record.
    pub kind: RecordKind,
    /// The record as text.
    pub text: String,
    /// True if the text was longer than [`MAX_RECORD_BYTES`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl RecordText {
    /// Creates a text of these bytes, and cuts it to [`MAX_RECORD_BYTES`]. Bytes that are not UTF-8
    /// are replaced.
    #[must_use]
    pub fn new(kind: RecordKind, bytes: &[u8]) -> Self {
        Self::within(kind, bytes, MAX_RECORD_BYTES)
    }

    /// Creates a text of these bytes, and cuts it to `max_bytes`.
    #[must_use]
    pub fn within(kind: RecordKind, bytes: &[u8], max_bytes: usize) -> Self {
        let beginning = &bytes[..bytes.len().min(max_bytes)];
        // The cut may have divided a character.
        let end = match std::str::from_utf8(beginning) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => beginning.len(),
        };
        let mut text = String::from_utf8_lossy(&beginning[..end]).into_owned();
        // Replaced bytes are longer than they were.
        text.truncate(text.floor_char_boundary(max_bytes));
        Self { kind, text, truncated: bytes.len() > max_bytes }
    }
}

/// Ids by which people find a message. An unknown one is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids<'a> {
    /// Id that ingestion gave the message.
    pub ingest_id: Cow<'a, str>,
    /// Device that sent it.
    pub device_id: Cow<'a, str>,
}

/// One step of a message.
#[derive(Debug, Serialize)]
pub struct Hop {
    /// Name of the pipeline.
    pub stage: &'static str,
    /// Step that the message has taken.
    pub step: HopStep,
    /// Time of the step.
    #[serde(serialize_with = "millis")]
    pub at: OffsetDateTime,
    /// Id that ingestion gave the message. Empty if it is not known.
    pub ingest_id: String,
    /// Device that sent the message. Empty if it is not known.
    pub device_id: String,
    /// Id of the transport. Empty if the transport has no ids.
    pub message_id: String,
    /// Subscription that the message was read from, or else the address of its origin.
    pub source: String,
    /// Destination of the record: a topic, a table or an object.
    pub destination: Option<String>,
    /// Reason why the message left the stream.
    pub reason: Option<&'static str>,
    /// Exact cause.
    pub detail: Option<String>,
    /// The message or its record as text.
    pub record: Option<RecordText>,
    /// Share of the memory for hops that wait. The hop gives it back when it is dropped.
    #[serde(skip)]
    room: WaitingBytes,
}

impl Hop {
    /// Bytes of memory, about.
    fn size(&self) -> usize {
        let texts = [&self.ingest_id, &self.device_id, &self.message_id, &self.source];
        let texts = texts.into_iter().chain(&self.destination).chain(&self.detail);
        let record = self.record.as_ref().map_or(0, |record| record.text.len());
        size_of::<Self>() + record + texts.map(String::len).sum::<usize>()
    }
}

/// Bytes that are taken for viewers, of hops that wait for example. Dropping it gives them back.
#[derive(Debug, Default)]
struct WaitingBytes {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for WaitingBytes {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Writes a time in RFC 3339 with three digits after the second.
pub(crate) fn millis<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    const FORM: &[FormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let text = at.to_offset(time::UtcOffset::UTC).format(&FORM);
    serializer.serialize_str(&text.map_err(serde::ser::Error::custom)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_record_is_cut_between_two_characters() {
        let text = |bytes: &[u8], most| RecordText::within(RecordKind::Payload, bytes, most);

        assert_eq!(text("aä".as_bytes(), 3).text, "aä");
        assert_eq!(text("aä".as_bytes(), 2).text, "a");
        assert!(text("aä".as_bytes(), 2).truncated);
        assert!(!text("aä".as_bytes(), 3).truncated);
        assert_eq!(text(b"\xff\xff\xff", 3).text, "\u{fffd}", "replaced, and not longer");
    }
}
