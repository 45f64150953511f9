//! The part of a message that no column takes. It goes to the rest column.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use message::field_path::position;
use message::{Envelope, FieldPath, Message, Payload};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::column::{Column, Kind, Mode};

/// Remaining parts of a message. An empty part is left out of the JSON.
#[derive(Debug, Serialize)]
struct Unmapped<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    enrichment: Value,
    #[serde(skip_serializing_if = "is_empty")]
    payload: Value,
    /// A payload that is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Unmapped<'_> {
    fn is_empty(&self) -> bool {
        self.attributes.is_empty()
            && is_empty(&self.enrichment)
            && is_empty(&self.payload)
            && self.payload_base64.is_none()
    }
}

/// Returns the unmapped parts of a message as JSON, or `None` if nothing remains.
///
/// The JSON has the members `attributes`, `enrichment` and `payload`. A payload that is not JSON is
/// in `payload_base64` instead.
pub(crate) fn of(
    message: &Message,
    envelope: &Envelope,
    payload: Option<Value>,
    columns: &[(FieldPath, Column)],
) -> Option<String> {
    let binary = envelope.payload.as_ref().filter(|_| payload.is_none()).map(Payload::bytes);
    let attributes = message.attributes.iter();
    let mut unmapped = Unmapped {
        attributes: attributes.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        enrichment: Value::Object(envelope.enrichment.clone()),
        payload: payload.unwrap_or_default(),
        payload_base64: binary
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| STANDARD.encode(bytes)),
    };
    for (path, column) in columns {
        let (root, pointer) = match path {
            FieldPath::Payload(pointer) => (&mut unmapped.payload, pointer),
            FieldPath::Enrichment(pointer) => (&mut unmapped.enrichment, pointer),
            FieldPath::Attribute(name) => {
                unmapped.attributes.remove(name.as_str());
                continue;
            }
        };
        if take(root, pointer.names(), column) {
            *root = Value::Null;
        }
    }
    if unmapped.is_empty() {
        return None;
    }
    let mut json = Vec::with_capacity(message.data.len());
    serde_json::to_writer(&mut json, &unmapped).expect("text and JSON have a form in JSON");
    Some(String::from_utf8(json).expect("JSON is UTF-8"))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// Removes from a value what a column holds of the member at this path. Objects that become empty
/// are removed, too. Returns true if nothing is left of the value itself.
fn take(value: &mut Value, names: &[String], column: &Column) -> bool {
    let Some((name, inner)) = names.split_first() else { return take_whole(value, column) };
    match value {
        Value::Object(map) => {
            let is_taken = map.get_mut(name).is_some_and(|member| take(member, inner, column));
            is_taken && map.remove(name).is_some() && map.is_empty()
        }
        // An item of a list becomes null, so that the other items keep their positions.
        Value::Array(items) => {
            let item = position(name).and_then(|at| items.get_mut(at));
            let Some(item) = item else { return false };
            if !take(item, inner, column) {
                return false;
            }
            *item = Value::Null;
            items.iter().all(Value::is_null)
        }
        _ => false,
    }
}

/// Removes from a value what a column that is made of it holds. Returns true if the column holds
/// all of it.
fn take_whole(value: &mut Value, column: &Column) -> bool {
    if holds_all(column, value) {
        return true;
    }
    // The fields of a record may hold only a part of it. A list of such records stays whole.
    if let (Value::Object(map), Mode::Nullable | Mode::Required) = (value, column.mode) {
        for field in &column.fields {
            if map.get_mut(&field.name).is_some_and(|member| take_whole(member, field)) {
                map.remove(&field.name);
            }
        }
    }
    false
}

/// Returns true if a column holds everything of a value.
fn holds_all(column: &Column, value: &Value) -> bool {
    if column.kind() != Kind::Record {
        return true;
    }
    match value {
        Value::Object(map) => map.iter().all(|(name, value)| {
            column
                .fields
                .iter()
                .find(|field| field.name == *name)
                .is_some_and(|field| holds_all(field, value))
        }),
        Value::Array(items) => items.iter().all(|item| holds_all(column, item)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rest(payload: Value, columns: &[(&str, Column)]) -> Option<Value> {
        let message = Message::new(payload.to_string());
        let envelope = Envelope {
            id: "1".into(),
            payload: Some(message.data.clone().into()),
            publish_time: None,
            enrichment: Map::new(),
        };
        let columns: Vec<_> = columns
            .iter()
            .map(|(path, column)| (path.parse().expect("a place"), column.clone()))
            .collect();
        let unmapped = of(&message, &envelope, Some(payload), &columns)?;
        Some(serde_json::from_str(&unmapped).expect("JSON"))
    }

    #[test]
    fn what_a_column_takes_is_not_in_the_rest() {
        let payload = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [1, 2] });
        let column = |name| Column::new(name, Kind::Int64);

        let left = rest(payload.clone(), &[("/a", column("a")), ("/b/c", column("c"))]);
        assert_eq!(left, Some(json!({ "payload": { "b": { "d": 3 }, "e": [1, 2] } })));
        let left = rest(
            payload,
            &[
                ("/a", column("a")),
                ("/b/c", column("c")),
                ("/b/d", column("d")),
                ("/e", column("e").with_mode(Mode::Repeated)),
            ],
        );
        assert_eq!(left, None);
    }

    #[test]
    fn a_record_takes_its_own_fields_alone() {
        let payload = json!({ "r": { "a": 1, "x": 2 }, "l": [{ "a": 1 }, { "a": 1, "x": 2 }] });
        let fields = vec![Column::new("a", Kind::Int64)];
        let one = Column::record("r", fields.clone());
        let many = Column::record("l", fields).with_mode(Mode::Repeated);

        let left = rest(payload, &[("/r", one), ("/l", many)]);

        let list = json!([{ "a": 1 }, { "a": 1, "x": 2 }]);
        assert_eq!(left, Some(json!({ "payload": { "r": { "x": 2 }, "l": list } })));
    }

    #[test]
    fn a_payload_that_is_no_json_is_kept_as_it_is() {
        let message = Message::new("not json").with_attribute("a", "b");
        let envelope = Envelope {
            id: "1".into(),
            payload: Some(message.data.clone().into()),
            publish_time: None,
            enrichment: Map::from_iter([("Topic".to_owned(), "t".into())]),
        };

        let left = of(&message, &envelope, None, &[]);

        let expected = r#"{"attributes":{"a":"b"},"enrichment":{"Topic":"t"},"payload_base64":"bm90IGpzb24="}"#;
        assert_eq!(left.as_deref(), Some(expected));
    }
}
