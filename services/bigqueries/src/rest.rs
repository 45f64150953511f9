//! What no column takes of a message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipeline::{Envelope, Message, Place};
use serde_json::{Map, Value};

use crate::column::{Column, Kind, Mode};

/// The rest of a message: `payload` (or `payload_base64` for one that is no JSON), `enrichment`,
/// `attributes`, each left out when nothing remains; `None` when nothing remains at all.
pub(crate) fn of(
    message: &Message,
    envelope: &Envelope,
    payload: Option<Value>,
    columns: &[(Place, Column)],
) -> Option<Value> {
    let mut rest = Map::new();
    let mut payload = payload;
    let mut enrichment = Value::Object(envelope.enrichment.clone());
    let mut attributes: Map<String, Value> = message
        .attributes
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let has_json = payload.is_some();
    for (place, column) in columns {
        match place {
            Place::Payload(pointer) => take(&mut payload, pointer, column),
            Place::Enrichment(pointer) => {
                let mut taken = Some(enrichment);
                take(&mut taken, pointer, column);
                enrichment = taken.unwrap_or_default();
            }
            Place::Attribute(name) => drop(attributes.remove(name)),
        }
    }
    match (payload, &envelope.payload) {
        (Some(payload), _) if !is_empty(&payload) => {
            rest.insert("payload".into(), payload);
        }
        (None, Some(bytes)) if !has_json && !bytes.is_empty() => {
            rest.insert("payload_base64".into(), STANDARD.encode(bytes).into());
        }
        _ => {}
    }
    if !is_empty(&enrichment) {
        rest.insert("enrichment".into(), enrichment);
    }
    if !attributes.is_empty() {
        rest.insert("attributes".into(), attributes.into());
    }
    (!rest.is_empty()).then_some(Value::Object(rest))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// Removes what a column holds of the value at a pointer, and what is left empty by that.
fn take(root: &mut Option<Value>, pointer: &str, column: &Column) {
    let Some(value) = root.as_mut().and_then(|value| value.pointer_mut(pointer)) else { return };
    if holds_all(column, value) {
        remove(root, pointer);
        return;
    }
    // A record whose fields take a part of it. A list of such records stays whole.
    if column.kind == Kind::Record && column.mode != Mode::Repeated {
        for field in &column.fields {
            take(root, &format!("{pointer}/{}", field.name), field);
        }
    }
}

/// Whether a column holds everything of a value.
fn holds_all(column: &Column, value: &Value) -> bool {
    if column.kind != Kind::Record {
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

/// Removes the value at a pointer, and the objects around it that are empty after that.
fn remove(root: &mut Option<Value>, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        *root = None;
        return;
    };
    let holder = root.as_mut().and_then(|value| value.pointer_mut(parent));
    let is_left_empty = match holder {
        Some(Value::Object(map)) => {
            map.remove(&name.replace("~1", "/").replace("~0", "~"));
            map.is_empty()
        }
        // What stands in a list keeps its place, or the others would get new ones.
        Some(Value::Array(items)) => {
            if let Some(item) = name.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                *item = Value::Null;
            }
            items.iter().all(Value::is_null)
        }
        _ => false,
    };
    if is_left_empty && !parent.is_empty() {
        remove(root, parent);
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
            payload: Some(message.data.clone()),
            publish_time: None,
            enrichment: Map::new(),
        };
        let columns: Vec<_> = columns
            .iter()
            .map(|(place, column)| (place.parse().expect("a place"), column.clone()))
            .collect();
        of(&message, &envelope, Some(payload), &columns)
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
            payload: Some(message.data.clone()),
            publish_time: None,
            enrichment: Map::from_iter([("Topic".to_owned(), "t".into())]),
        };

        let left = of(&message, &envelope, None, &[]);

        let expected = json!({ "payload_base64": "bm90IGpzb24=", "enrichment": { "Topic": "t" },
                               "attributes": { "a": "b" } });
        assert_eq!(left, Some(expected));
    }
}
