//! An item: `{"sourceId": "sensor-123", "timestamp": "2025-04-11T12:00:00Z", "payload": {}}`.

use axum::body::Bytes;
use message::timestamp::parse_rfc3339;
use pubsub::limits::MAX_ATTRIBUTE_VALUE_BYTES;
use time::OffsetDateTime;

use super::members::{Members, text};
use super::refusal::Refusal;
use crate::identity;

/// Item of a request, which becomes one message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub source_id: String,
    pub time: Option<Time>,
    /// Bytes of the payload, as they were sent. They do not share memory with the body.
    pub payload: Bytes,
    pub id: Option<String>,
    /// Attributes of a CloudEvent.
    pub attributes: Vec<(String, String)>,
}

/// Time that a client gave to an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Time {
    /// Name of its member.
    pub field: &'static str,
    pub time: OffsetDateTime,
}

/// Reads an item. A member with another name is refused, because it may be a misspelled one.
pub(super) fn read(json: &str) -> Result<Item, Refusal> {
    let (mut source_id, mut time, mut payload, mut id) = (None, None, None, None);
    for (name, value) in Members::read(json)?.into_iter() {
        match name.as_str() {
            "sourceId" => source_id = text("sourceId", value)?,
            "timestamp" => time = text("timestamp", value)?,
            "payload" => payload = Some(Bytes::copy_from_slice(value.get().as_bytes())),
            "id" => id = text("id", value)?,
            _ => {
                let right = "is unknown: an item has sourceId, payload, timestamp and id";
                return Err(Refusal::invalid(&name, format!("{name} {right}")));
            }
        }
    }
    Ok(Item {
        source_id: check_source("sourceId", source_id)?,
        time: time.map(|time| read_time("timestamp", &time)).transpose()?,
        payload: payload.ok_or_else(|| required("payload"))?,
        id: id.map(|id| check_id("id", id)).transpose()?,
        attributes: Vec::new(),
    })
}

pub(super) fn required(field: &str) -> Refusal {
    Refusal::invalid(field, format!("{field} is required"))
}

/// Checks an id of a source. It must fit into an attribute.
pub(super) fn check_source(field: &str, source_id: Option<String>) -> Result<String, Refusal> {
    let source_id = source_id.ok_or_else(|| required(field))?;
    let is_right = (1..=MAX_ATTRIBUTE_VALUE_BYTES).contains(&source_id.len())
        && !source_id.contains(char::is_control);
    let right = format!(
        "{field} must have 1 to {MAX_ATTRIBUTE_VALUE_BYTES} bytes, without control characters"
    );
    is_right.then_some(source_id).ok_or_else(|| Refusal::invalid(field, right))
}

/// Checks an id of an item, or an idempotency key.
pub(super) fn check_id(field: &str, id: String) -> Result<String, Refusal> {
    let is_right = identity::is_usable(&id) && !id.contains(char::is_control);
    let right = format!("{field} must have 1 to 128 characters, without control characters");
    is_right.then_some(id).ok_or_else(|| Refusal::invalid(field, right))
}

pub(super) fn read_time(field: &'static str, text: &str) -> Result<Time, Refusal> {
    let right = || format!("{field} must be a time of RFC 3339, such as 2025-04-11T12:00:00Z");
    let time = parse_rfc3339(text).ok_or_else(|| Refusal::invalid(field, right()))?;
    Ok(Time { field, time })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn field(json: &str) -> String {
        read(json).unwrap_err().field.unwrap()
    }

    #[test]
    fn the_bytes_of_a_payload_stay_as_they_were_sent() {
        let payload = "{ \"b\" : 1.10, \"a\":[ 1e400,\"\\u0041\"], \"b\":2 }";
        let json = format!(
            r#"{{"timestamp":"2025-04-11T14:00:00+02:00","payload":  {payload} ,"sourceId":"a/b"}}"#
        );

        let item = read(&json).unwrap();

        assert_eq!(item.payload, payload);
        assert_eq!(item.source_id, "a/b");
        assert_eq!(item.time.unwrap().time, datetime!(2025-04-11 12:00 UTC));
        assert_eq!(item.id, None);
    }

    #[test]
    fn any_json_is_a_payload_and_null_leaves_a_choice_out() {
        for payload in ["null", "0", "\"\"", "[]", "true"] {
            let json =
                format!(r#"{{"sourceId":"a","payload":{payload},"timestamp":null,"id":null}}"#);

            assert_eq!(read(&json).unwrap().payload, payload);
        }
    }

    #[test]
    fn the_wrong_field_is_named() {
        for (json, expected) in [
            (r#"{"payload":1}"#, "sourceId"),
            (r#"{"sourceId":null,"payload":1}"#, "sourceId"),
            (r#"{"sourceId":"","payload":1}"#, "sourceId"),
            (r#"{"sourceId":7,"payload":1}"#, "sourceId"),
            (r#"{"sourceId":"a\u0000b","payload":1}"#, "sourceId"),
            (r#"{"sourceId":"\ud800","payload":1}"#, "sourceId"),
            (r#"{"sourceId":"a"}"#, "payload"),
            (r#"{"sourceId":"a","payload":1,"timestamp":"yesterday"}"#, "timestamp"),
            (r#"{"sourceId":"a","payload":1,"timestamp":1744372800}"#, "timestamp"),
            (r#"{"sourceId":"a","payload":1,"id":""}"#, "id"),
            (r#"{"sourceId":"a","payload":1,"timstamp":"x"}"#, "timstamp"),
            (r#"{"sourceId":"a","payload":1,"payload":2}"#, "body"),
            (r#"{"sourceId":"a","payload":1"#, "body"),
            (r#"{"sourceId":"a","payload":01}"#, "body"),
            ("7", "body"),
            ("", "body"),
        ] {
            assert_eq!(field(json), expected, "{json}");
        }
        let long = "x".repeat(1025);
        assert_eq!(field(&format!(r#"{{"sourceId":"{long}","payload":1}}"#)), "sourceId");
    }

    #[test]
    fn a_long_name_is_not_sent_back_as_a_whole() {
        let json = format!(r#"{{"{}":1}}"#, "x".repeat(100_000));

        let refusal = read(&json).unwrap_err();

        assert_eq!((refusal.field.unwrap().len(), refusal.detail.len()), (128, 1024));
    }

    #[test]
    fn a_deep_payload_is_no_recursion() {
        let deep = format!("{}1{}", "[".repeat(300_000), "]".repeat(300_000));
        let json = format!(r#"{{"sourceId":"a","payload":{deep}}}"#);

        assert_eq!(read(&json).unwrap().payload.len(), deep.len());
    }
}
