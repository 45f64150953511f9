//! The JSON envelope of every message between the services.
//!
//! `{"id":"42","payload":"<base64>","publishTime":"2025-09-28T22:53:17.1Z","enrichmentData":{..}}`
//!
//! The services replace earlier ones that were written in Go. The envelope is byte-compatible with
//! theirs.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::json::{self, Object};
use crate::{Message, Payload, timestamp};

/// The payload of a message with its metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Id created once by ingestion and kept over every hop. It identifies duplicates.
    pub id: String,
    /// Original bytes. `None` is written as `null`.
    pub payload: Option<Payload>,
    /// Time when ingestion received the message, or the device's own event time. `None` if the
    /// envelope has Go's zero time.
    pub publish_time: Option<OffsetDateTime>,
    /// Data added by enrichment.
    pub enrichment: Map<String, Value>,
}

/// Format in which a message's data is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// An envelope if the data is one, otherwise raw.
    #[default]
    Auto,
    /// Always an envelope. Anything else goes to the dead letters.
    Envelope,
    /// Never an envelope.
    Raw,
}

/// The settings demand an envelope, and the data of a message is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data is not an envelope, and input is `envelope`")]
pub struct NotAnEnvelope;

impl Envelope {
    /// Reads an envelope. Returns `None` for any other data.
    #[must_use]
    pub fn read(data: &Bytes) -> Option<Self> {
        // Skips the parser for the common kinds of raw data.
        if data.trim_ascii_start().first() != Some(&b'{') {
            return None;
        }
        let mut json = serde_json::Deserializer::from_slice(data);
        // By contract, data that does not parse is a raw message, not a fault.
        let envelope = json.deserialize_map(EnvelopeVisitor { data }).ok()?;
        json.end().ok()?;
        Some(envelope)
    }

    /// Reads the data of a message.
    ///
    /// The data is read as an envelope, or as a raw message. The payload of a raw message is its
    /// whole data, and it has the transport's id and time.
    ///
    /// # Errors
    /// `input` demands an envelope and the data is not one.
    pub fn of(message: &Message, input: Input) -> Result<Self, NotAnEnvelope> {
        let read = match input {
            Input::Auto | Input::Envelope => Self::read(&message.data),
            Input::Raw => None,
        };
        match (read, input) {
            (Some(envelope), _) => Ok(envelope),
            (None, Input::Envelope) => Err(NotAnEnvelope),
            (None, Input::Auto | Input::Raw) => Ok(Self::raw(message)),
        }
    }

    /// Returns the envelope as JSON. A publish time outside the years 0 to 9999 is written as the
    /// nearest time inside.
    ///
    /// # Panics
    /// Never: every part has a form in JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.write().expect("strings and maps have a form in JSON").into()
    }

    fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let payload_len = self.payload.as_ref().map_or(4, Payload::max_base64_len);
        let mut json = Object::with_capacity(payload_len + 512);
        json.put("id", &self.id)?;
        match &self.payload {
            Some(payload) => payload.put("payload", &mut json),
            None => json.put("payload", &())?,
        }
        let time = self.publish_time.map_or(GO_ZERO_TIME, timestamp::nearest_in_utc);
        let time = time.format(&Rfc3339);
        json.put("publishTime", &time.map_err(serde::ser::Error::custom)?)?;
        if !self.enrichment.is_empty() {
            json.put("enrichmentData", &self.enrichment)?;
        }
        Ok(json.finish())
    }

    fn raw(message: &Message) -> Self {
        Self {
            id: message.id.clone(),
            payload: Some(message.data.clone().into()),
            publish_time: Some(message.publish_time),
            enrichment: Map::new(),
        }
    }
}

/// Zero value of Go's `time.Time{}`. The Go services wrote it if they knew no time.
const GO_ZERO_TIME: OffsetDateTime = time::macros::datetime!(0001-01-01 00:00:00 UTC);

struct EnvelopeVisitor<'de> {
    /// Data that is read. The payload remains a slice of it.
    data: &'de Bytes,
}

impl<'de> Visitor<'de> for EnvelopeVisitor<'de> {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        let (mut id, mut payload, mut time, mut enrichment) = (None, None, None, None);
        while let Some(Key(field)) = map.next_key()? {
            match field {
                Field::Id => id = Some(map.next_value::<String>()?),
                Field::Payload => {
                    let text = map.next_value::<PayloadText<'_>>()?.0;
                    payload = Some(text.map(|text| self.payload(text)).transpose()?);
                }
                Field::PublishTime => time = Some(map.next_value::<Rfc3339Text>()?.0),
                Field::Enrichment => {
                    let json = map.next_value::<Option<&RawValue>>()?;
                    enrichment = json.map(enrichment_data).transpose()?;
                }
                Field::Unknown => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let time = time.ok_or_else(|| de::Error::missing_field("publishTime"))?;
        Ok(Envelope {
            id: id.ok_or_else(|| de::Error::missing_field("id"))?,
            payload: payload.ok_or_else(|| de::Error::missing_field("payload"))?,
            publish_time: (time != GO_ZERO_TIME).then_some(time),
            enrichment: enrichment.unwrap_or_default(),
        })
    }
}

/// Reads the data that enrichment added, without loss of digits.
fn enrichment_data<E: de::Error>(text: &RawValue) -> Result<Map<String, Value>, E> {
    match json::parse(text.get().as_bytes()).map_err(E::custom)? {
        Value::Object(data) => Ok(data),
        _ => Err(E::custom("enrichmentData is no object")),
    }
}

enum Field {
    Id,
    Payload,
    PublishTime,
    Enrichment,
    Unknown,
}

/// A key, matched without regard to upper and lower case.
struct Key(Field);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
                let known = [
                    ("id", Field::Id),
                    ("payload", Field::Payload),
                    ("publishTime", Field::PublishTime),
                    ("enrichmentData", Field::Enrichment),
                ];
                let field = known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
                Ok(Key(field.map_or(Field::Unknown, |(_, field)| field)))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl EnvelopeVisitor<'_> {
    fn payload<E: de::Error>(&self, text: Cow<'_, str>) -> Result<Payload, E> {
        let text = match text {
            Cow::Borrowed(part) => self.data.slice_ref(part.as_bytes()),
            // The text had escapes.
            Cow::Owned(text) => text.into(),
        };
        Payload::from_base64(text).ok_or_else(|| E::custom("a payload must be padded base64"))
    }
}

struct PayloadText<'de>(Option<Cow<'de, str>>);

impl<'de> Deserialize<'de> for PayloadText<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = PayloadText<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null or padded base64")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(PayloadText(None))
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(PayloadText(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(PayloadText(Some(Cow::Owned(text.to_owned()))))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

struct Rfc3339Text(OffsetDateTime);

impl<'de> Deserialize<'de> for Rfc3339Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Rfc3339Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rfc3339Text, E> {
                let time = timestamp::parse_rfc3339(text);
                time.map(Rfc3339Text).ok_or_else(|| E::custom("a time must be RFC 3339"))
            }
        }
        deserializer.deserialize_str(TimeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn numbers_in_the_enrichment_keep_their_digits() {
        let text = |data| {
            format!(
                r#"{{"id":"1","payload":null,"publishTime":"2025-09-28T22:53:17Z","enrichmentData":{data}}}"#
            )
        };
        let read = |data| Envelope::read(&text(data).into());

        let found = read(r#"{"iccid":89490200001234567890,"n":[1.5,1e400]}"#).unwrap();

        let expected = serde_json::json!({ "iccid": "89490200001234567890", "n": [1.5, "1e400"] });
        assert_eq!(Value::Object(found.enrichment), expected);
        assert_eq!(read("null").unwrap().enrichment, Map::new());
        assert_eq!(read("[1]"), None, "no envelope");
    }

    #[test]
    fn the_bytes_are_those_of_the_go_services() {
        let mut enrichment = Map::new();
        enrichment.insert("DeviceID".into(), "dev-1".into());
        let envelope = Envelope {
            id: "42".into(),
            payload: Some(br#"{"value":42}"#.as_slice().into()),
            publish_time: Some(datetime!(2025-09-28 22:53:17.123456789 UTC)),
            enrichment,
        };

        let json = envelope.to_bytes();

        let expected = r#"{"id":"42","payload":"eyJ2YWx1ZSI6NDJ9","publishTime":"2025-09-28T22:53:17.123456789Z","enrichmentData":{"DeviceID":"dev-1"}}"#;
        assert_eq!(json, expected);
        assert_eq!(Envelope::read(&json), Some(envelope));
    }

    #[test]
    fn keys_match_in_any_case_and_unknown_ones_are_ignored() {
        let json = br#" {"ID":"1","PAYLOAD":null,"publishtime":"0001-01-01T00:00:00Z","more":[1]}"#;

        let envelope = Envelope::read(&Bytes::from_static(json)).unwrap();

        assert_eq!(
            (envelope.id.as_str(), envelope.payload, envelope.publish_time),
            ("1", None, None)
        );
    }

    #[test]
    fn a_payload_may_be_written_with_escapes() {
        let json = br#"{"id":"1","payload":"\u002f\/8=","publishTime":"2025-01-01T00:00:00Z"}"#;

        let envelope = Envelope::read(&Bytes::from_static(json)).unwrap();

        assert_eq!(envelope.payload, Some(Payload::from(b"\xff\xff".as_slice())));
    }

    #[test]
    fn a_time_that_cannot_be_written_again_makes_a_message_raw() {
        for time in ["9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"] {
            let data = format!(r#"{{"id":"1","payload":null,"publishTime":"{time}"}}"#);
            let message = Message::new(data.clone());

            let envelope = Envelope::of(&message, Input::Auto).unwrap();

            assert_eq!(envelope.payload, Some(Payload::from(data.into_bytes())), "{time}");
            assert!(Envelope::of(&message, Input::Envelope).is_err(), "{time}");
        }
    }

    #[test]
    fn any_time_is_written() {
        let year = |year| datetime!(2025-01-01 00:00 UTC).replace_year(year).unwrap();
        for (time, written) in
            [(year(-1), year(0)), (year(-9999), year(0)), (year(9999), year(9999))]
        {
            let (id, payload, enrichment) = ("1".into(), None, Map::new());
            let envelope = Envelope { id, payload, publish_time: Some(time), enrichment };

            let read = Envelope::read(&envelope.to_bytes()).unwrap();

            assert_eq!(read.publish_time.unwrap().year(), written.year());
        }
    }

    #[test]
    fn everything_else_is_raw() {
        let raw: [&[u8]; 10] = [
            b"",
            b"null",
            b"{}",
            b"{not json",
            b"\xff\xfe",
            br#"{"payload":"on","battery":3}"#,
            br#"{"id":1,"payload":null,"publishTime":"2025-01-01T00:00:00Z"}"#,
            br#"{"id":"1","payload":"b24","publishTime":"2025-01-01T00:00:00Z"}"#,
            br#"{"id":"1","payload":null,"publishTime":"yesterday"}"#,
            br#"{"id":"1","payload":null,"publishTime":"2025-01-01T00:00:00Z","enrichmentData":7}"#,
        ];

        for data in raw {
            let message = Message::new(data);
            let envelope = Envelope::of(&message, Input::Auto).unwrap();
            assert_eq!(envelope.payload, Some(Payload::from(data)), "{data:?}");
            assert!(Envelope::of(&message, Input::Envelope).is_err(), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            id in ".{0,40}",
            payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
            nanos in prop_oneof![
                0_i128..4_000_000_000_000_000_000,
                -62_167_219_200_000_000_000_i128..253_402_300_800_000_000_000,
            ],
            keys in proptest::collection::vec((".{0,8}", any::<i64>()), 0..4),
        ) {
            let envelope = Envelope {
                id,
                payload: payload.map(Payload::from),
                publish_time: Some(OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap()),
                enrichment: keys.into_iter().map(|(key, value)| (key, value.into())).collect(),
            };

            prop_assert_eq!(Envelope::read(&envelope.to_bytes()), Some(envelope));
        }

        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _raw_or_envelope = Envelope::read(&data.into());
        }
    }
}
