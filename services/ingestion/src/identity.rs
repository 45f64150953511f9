//! Id and event time of a message.

mod json;

use std::time::Duration;

use message::attribute;
use message::json::wide_number;
use message::{Message, Origin, OriginKind, timestamp};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::Identity;
use crate::metrics::Metrics;
use json::Json;

/// Maximum length of an id in a message, in characters.
const MAX_ID_CHARS: usize = 128;
/// Maximum length of a value that is read as an id or a time, in bytes of JSON. The longest id
/// needs 12 bytes per character.
const MAX_GIVEN_BYTES: usize = 2048;
/// First number that is read as milliseconds. As seconds, it would lie after the year 5138.
const FIRST_MILLISECONDS: f64 = 1e11;

/// Id and event time of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Identified {
    /// Id of the envelope.
    pub id: String,
    /// Event time, or else the time of receipt.
    pub time: OffsetDateTime,
    /// Event time from the message, if it was out of bounds. A long value is cut to 2,048 bytes.
    pub raw_time: Option<String>,
}

/// Finds the id and the event time, as the settings say.
#[must_use]
pub fn identify(
    message: &Message,
    origin: Origin<'_>,
    settings: &Identity,
    metrics: &Metrics,
) -> Identified {
    let payload = payload(message, settings);
    let at = |pointer: &Option<String>| payload?.find(pointer.as_deref()?).map(Given::read);

    let id = find_id(message, origin, payload, settings, metrics);
    let mut identified = Identified { id, time: message.publish_time, raw_time: None };
    // A client over HTTP gives the time beside the payload. It was checked when it came.
    if let Some(time) = given_time(message) {
        identified.time = time;
    } else if let Some(given) = at(&settings.event_time_pointer) {
        match given.time().filter(|time| is_within(*time, message.publish_time, settings)) {
            Some(time) => identified.time = time,
            None => {
                metrics.replace("event_time");
                identified.raw_time = Some(given.raw());
            }
        }
    }
    identified
}

/// Finds the id of a message, as the settings say. Without one in the message, the id is new.
#[must_use]
pub fn ingest_id(
    message: &Message,
    origin: Origin<'_>,
    settings: &Identity,
    metrics: &Metrics,
) -> String {
    find_id(message, origin, payload(message, settings), settings, metrics)
}

fn find_id(
    message: &Message,
    origin: Origin<'_>,
    payload: Option<Json<'_>>,
    settings: &Identity,
    metrics: &Metrics,
) -> String {
    // A replayed dead letter keeps its id. No device can set this attribute.
    if let Some(kept) = message.attributes.get(attribute::INGEST_ID) {
        return kept.clone();
    }
    match given_id(message, payload, settings) {
        Some(given) if is_usable(&given) => return hash(origin, &given),
        Some(_) => metrics.replace("id_length"),
        None => {}
    }
    Uuid::now_v7().to_string()
}

/// Returns the time that came beside the payload.
fn given_time(message: &Message) -> Option<OffsetDateTime> {
    timestamp::parse_rfc3339(message.attributes.get(attribute::HTTP_TIMESTAMP)?)
}

/// Returns the id of a message that becomes a dead letter.
///
/// If the message contains an id, the dead letter gets the id that the message would have had.
/// Otherwise every attempt to write the dead letter yields the same id.
#[must_use]
pub fn dead_letter_id(
    message: &Message,
    origin: Origin<'_>,
    first_seen: OffsetDateTime,
    settings: &Identity,
) -> String {
    let payload = payload(message, settings);
    let given = given_id(message, payload, settings).filter(|given| is_usable(given));
    given.map_or_else(
        || {
            let nanos = first_seen.unix_timestamp_nanos().to_be_bytes();
            short(begin(origin).chain_update(nanos).chain_update(&message.data))
        },
        |given| hash(origin, &given),
    )
}

/// Parses the payload as JSON, if the settings look into it. A payload that is no JSON contains no
/// values, which is no fault of the message.
fn payload<'a>(message: &'a Message, settings: &Identity) -> Option<Json<'a>> {
    let is_needed = settings.id_pointer.is_some() || settings.event_time_pointer.is_some();
    is_needed.then(|| Json::read(&message.data)).flatten()
}

/// Returns the id in a message, from a user property or from its payload.
fn given_id(message: &Message, payload: Option<Json<'_>>, settings: &Identity) -> Option<String> {
    let property = settings.id_property.as_ref().and_then(|name| message.attributes.get(name));
    let found = || payload?.find(settings.id_pointer.as_deref()?).map(Given::read)?.text();
    property.cloned().or_else(found)
}

/// Returns whether an id has a length that is allowed.
pub(crate) fn is_usable(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.chars().count())
}

/// Returns an id of fixed length: half of a SHA-256 over origin and id.
fn hash(origin: Origin<'_>, id: &str) -> String {
    short(begin(origin).chain_update([0]).chain_update(id))
}

/// Begins a hash with the origin. The same address at sources of two kinds begins two hashes.
fn begin(origin: Origin<'_>) -> Sha256 {
    match origin.kind {
        // The ids of MQTT have no prefix, and must stay. No topic contains a zero byte, so another
        // kind may begin with one.
        OriginKind::Mqtt => Sha256::new().chain_update(origin.address),
        OriginKind::Http => Sha256::new().chain_update(b"\0http\0").chain_update(origin.address),
    }
}

fn short(hash: Sha256) -> String {
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Value in a payload.
struct Given<'a> {
    json: &'a str,
    /// The value without loss of digits. `None` if `json` is longer than [`MAX_GIVEN_BYTES`] or no
    /// text in Unicode, so that it is no valid id or time.
    value: Option<Value>,
}

impl<'a> Given<'a> {
    fn read(json: &'a str) -> Self {
        let is_short = json.len() <= MAX_GIVEN_BYTES;
        let value = is_short.then(|| message::json::parse(json.as_bytes()).ok()).flatten();
        Self { json, value }
    }

    /// Returns a text, or a number as text. Of a long value it returns the start, which is too long
    /// for an id.
    fn text(self) -> Option<String> {
        match self.value {
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
            None => (!self.json.starts_with(['{', '['])).then(|| beginning(self.json)),
        }
    }

    fn time(&self) -> Option<OffsetDateTime> {
        event_time(self.value.as_ref()?)
    }

    /// Returns the value as it was sent, or the start of a long one. A text has no quotes.
    fn raw(self) -> String {
        match self.value {
            Some(Value::String(text)) => text,
            _ => beginning(self.json),
        }
    }
}

fn beginning(json: &str) -> String {
    json[..json.floor_char_boundary(MAX_GIVEN_BYTES)].to_owned()
}

fn event_time(given: &Value) -> Option<OffsetDateTime> {
    let number = match given {
        Value::String(text) => match wide_number(text) {
            Some(number) => number,
            None => return timestamp::parse_rfc3339(text),
        },
        given => given.as_f64()?,
    };
    let seconds = if number.abs() < FIRST_MILLISECONDS { number } else { number / 1000.0 };
    let millis = (seconds * 1000.0).round();
    // This bound is far beyond any time, and an i128 can hold it.
    (millis.abs() < 1e15).then_some(())?;
    let time = OffsetDateTime::from_unix_timestamp_nanos(millis as i128 * 1_000_000).ok()?;
    timestamp::in_utc(time)
}

fn is_within(time: OffsetDateTime, received: OffsetDateTime, settings: &Identity) -> bool {
    let oldest = received.checked_sub(span(settings.max_past));
    oldest.is_none_or(|oldest| time >= oldest) && time <= latest(received, settings)
}

/// Returns the latest event time that is accepted.
pub(crate) fn latest(received: OffsetDateTime, settings: &Identity) -> OffsetDateTime {
    received.saturating_add(span(settings.max_future))
}

fn span(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const RECEIVED: OffsetDateTime = datetime!(2025-06-15 10:00:00 UTC);
    const UP: Origin<'_> = Origin { kind: OriginKind::Mqtt, address: "devices/a/up" };

    fn identified(payload: &str) -> Identified {
        let settings = Identity {
            id_pointer: Some("/id".into()),
            event_time_pointer: Some("/at".into()),
            ..Identity::default()
        };
        let mut message = Message::new(payload.to_owned());
        message.publish_time = RECEIVED;
        identify(&message, UP, &settings, &Metrics::default())
    }

    #[test]
    fn a_given_id_becomes_a_hash_of_topic_and_id() {
        let (one, same, other) =
            (identified(r#"{"id":"7"}"#), identified(r#"{"id":7}"#), identified(r#"{"id":"8"}"#));

        assert_eq!(one.id.len(), 32);
        assert_eq!(one.id, same.id);
        assert_ne!(one.id, other.id);
        assert_ne!(one.id, hash(Origin::mqtt("devices/b/up"), "7"));
    }

    #[test]
    fn ids_that_differ_in_their_last_digit_are_two() {
        for (one, other) in [
            ("20261129000000000001", "20261129000000000002"),
            ("0.12345678901234567891", "0.12345678901234567892"),
            ("1e400", "2e400"),
        ] {
            let id = |given| identified(&format!(r#"{{"id":{given}}}"#)).id;

            assert_ne!(id(one), id(other), "{one} and {other}");
            assert_eq!(id(one), hash(UP, one), "and both are ids");
        }
    }

    #[test]
    fn without_a_usable_id_each_message_gets_its_own() {
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(129));

        for payload in ["{}", "no json", r#"{"id":""}"#, r#"{"id":[]}"#, &long] {
            let (one, other) = (identified(payload), identified(payload));
            assert!(Uuid::parse_str(&one.id).is_ok(), "{payload}");
            assert_ne!(one.id, other.id, "{payload}");
        }
    }

    #[test]
    fn the_longest_id_may_be_written_in_escapes() {
        let escaped = format!(r#"{{"id":"{}"}}"#, r"\ud83d\ude00".repeat(128));
        let plain = format!(r#"{{"id":"{}"}}"#, "😀".repeat(128));

        assert_eq!(identified(&escaped).id, identified(&plain).id);
        assert_eq!(identified(&plain).id.len(), 32);
    }

    #[test]
    fn of_a_long_value_the_beginning_is_kept() {
        let time = format!(r#"{{"at":"{}"}}"#, "é".repeat(5000));
        let list = format!(r#"{{"at":[{}0]}}"#, "0,".repeat(5000));

        for given in [time, list] {
            let found = identified(&given);
            let raw = found.raw_time.unwrap();
            assert_eq!(found.time, RECEIVED);
            assert!((2047..=2048).contains(&raw.len()) && given.contains(&raw), "{raw}");
        }
    }

    #[test]
    fn a_dead_letter_has_the_id_that_its_message_gives_else_a_lasting_one() {
        let settings = Identity { id_pointer: Some("/id".into()), ..Identity::default() };
        let id = |payload: &str, first_seen| {
            dead_letter_id(&Message::new(payload.to_owned()), UP, first_seen, &settings)
        };
        let later = RECEIVED + time::Duration::NANOSECOND;

        assert_eq!(id(r#"{"id":"7"}"#, RECEIVED), hash(UP, "7"));
        assert_eq!(id("{}", RECEIVED), id("{}", RECEIVED), "at every attempt");
        assert_ne!(id("{}", RECEIVED), id("{}", later));
        assert_ne!(id("{}", RECEIVED), id("[]", RECEIVED));
    }

    #[test]
    fn a_message_that_comes_from_a_dead_letter_keeps_its_id() {
        let message = Message::new("{}").with_attribute("ingest_id", "i-1");

        let found = identify(&message, UP, &Identity::default(), &Metrics::default());

        assert_eq!(found.id, "i-1");
    }

    #[test]
    fn event_times_come_as_text_seconds_or_milliseconds() {
        for given in [
            "\"2025-06-15T11:30:00.5+02:00\"",
            "1749979800.5",
            "1749979800500",
            "1749979800.500000000123",
            "1749979800500.000000123",
        ] {
            let found = identified(&format!(r#"{{"at":{given}}}"#));
            assert_eq!(found.time, datetime!(2025-06-15 09:30:00.5 UTC), "{given}");
            assert_eq!(found.raw_time, None);
        }
    }

    #[test]
    fn an_event_time_that_cannot_be_written_is_kept_beside_the_time_of_receipt() {
        let settings = Identity {
            event_time_pointer: Some("/at".into()),
            max_past: Duration::MAX,
            max_future: Duration::MAX,
            ..Identity::default()
        };
        for given in [
            "\"9999-12-31T23:59:59-01:00\"",
            "\"0000-01-01T00:00:00+01:00\"",
            "-62167219201",
            "253402300800000",
            "-1e14",
            "9223372036854775807",
        ] {
            let mut message = Message::new(format!(r#"{{"at":{given}}}"#));
            message.publish_time = RECEIVED;

            let found = identify(&message, UP, &settings, &Metrics::default());

            assert_eq!(found.time, RECEIVED, "{given}");
            assert!(found.raw_time.is_some(), "{given}");
        }
    }

    #[test]
    fn an_event_time_out_of_bounds_is_kept_beside_the_time_of_receipt() {
        for given in ["0", "\"2025-06-17T00:00:00Z\"", "\"soon\"", "1e300", "1e400", "true"] {
            let found = identified(&format!(r#"{{"at":{given}}}"#));
            assert_eq!(found.time, RECEIVED, "{given}");
            assert_eq!(found.raw_time.as_deref(), Some(given.trim_matches('"')));
        }
    }
}
