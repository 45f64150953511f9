//! Positions of values in a message, as settings name them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Envelope, Message};

/// The position of a value in a message.
///
/// It is written as `enrichment.DeviceID`, as `attribute.device_id`, or as a JSON pointer into the
/// payload such as `/device/id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldPath {
    /// A value in the payload. An empty pointer means the whole payload.
    Payload(Pointer),
    /// A value in the enrichment data.
    Enrichment(Pointer),
    /// An attribute with this name.
    Attribute(String),
}

impl FieldPath {
    /// Finds the value. `payload` is the parsed payload if it is JSON.
    #[must_use]
    pub fn find<'a>(
        &self,
        message: &'a Message,
        envelope: &'a Envelope,
        payload: Option<&'a Value>,
    ) -> Option<Found<'a>> {
        match self {
            Self::Payload(pointer) => find(payload?, pointer.names()).map(Found::Json),
            Self::Enrichment(pointer) => {
                // The enrichment map is not a JSON value, so its first level is looked up here.
                let (first, rest) = pointer.names().split_first()?;
                find(envelope.enrichment.get(first)?, rest).map(Found::Json)
            }
            Self::Attribute(name) => message.attributes.get(name).map(|text| Found::Text(text)),
        }
    }

    /// Returns true if the payload must be parsed to find the value.
    #[must_use]
    pub fn needs_payload(&self) -> bool {
        matches!(self, Self::Payload(_))
    }
}

/// Member names of a JSON pointer (RFC 6901), the outermost first. For a list, the name is a
/// position from 0.
///
/// The pointer is parsed once. `serde_json` would parse it again for each message, with several
/// allocations for each name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Creates a pointer to the member of this name.
    pub fn to(name: impl Into<String>) -> Self {
        Self(vec![name.into()])
    }

    /// Returns the names, the outermost first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    fn parse(text: &str) -> Self {
        let names = text.split('/').skip(1);
        Self(names.map(|name| name.replace("~1", "/").replace("~0", "~")).collect())
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.0.iter();
        names.try_for_each(|name| write!(f, "/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

fn find<'a>(root: &'a Value, names: &[String]) -> Option<&'a Value> {
    names.iter().try_fold(root, |value, name| match value {
        Value::Object(map) => map.get(name),
        Value::Array(items) => items.get(position(name)?),
        _ => None,
    })
}

/// Parses a position in a list: digits without a leading zero.
#[must_use]
pub fn position(name: &str) -> Option<usize> {
    let is_plain = name == "0" || name.starts_with(|first: char| ('1'..='9').contains(&first));
    name.parse().ok().filter(|_| is_plain)
}

/// The value that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'a> {
    /// A JSON value.
    Json(&'a Value),
    /// Text of an attribute.
    Text(&'a str),
}

impl Found<'_> {
    /// Returns a text, or a number as text. Returns `None` for anything else, and for an empty
    /// text.
    #[must_use]
    pub fn text(self) -> Option<String> {
        let text = match self {
            Self::Text(text) => text.to_owned(),
            Self::Json(Value::String(text)) => text.clone(),
            Self::Json(Value::Number(number)) => number.to_string(),
            Self::Json(_) => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

impl FromStr for FieldPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('/') {
            return Ok(Self::Payload(Pointer::parse(text)));
        }
        match text.split_once('.') {
            Some(("enrichment", path)) if !path.is_empty() => {
                Ok(Self::Enrichment(Pointer(path.split('.').map(str::to_owned).collect())))
            }
            Some(("attribute", name)) if !name.is_empty() => Ok(Self::Attribute(name.to_owned())),
            _ => Err(format!(
                "`{text}` is no place: must be a JSON pointer into the payload such as /device/id, \
                 enrichment.NAME or attribute.NAME"
            )),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(pointer) => pointer.fmt(f),
            Self::Enrichment(pointer) => write!(f, "enrichment.{}", pointer.names().join(".")),
            Self::Attribute(name) => write!(f, "attribute.{name}"),
        }
    }
}

impl JsonSchema for FieldPath {
    fn schema_name() -> Cow<'static, str> {
        "FieldPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A JSON pointer into the payload such as /device/id, enrichment.NAME or \
                            attribute.NAME",
            "type": "string",
            "pattern": "^(/.*|enrichment\\..+|attribute\\..+)?$",
        })
    }
}

impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::envelope::Input;

    #[test]
    fn each_kind_of_place_is_found() {
        let data = json!({ "id": "1", "payload": null, "publishTime": "2025-01-01T00:00:00Z",
                           "enrichmentData": { "place": { "city": "A" }, "DeviceID": "d" } });
        let message = Message::new(data.to_string()).with_attribute("uid", "u");
        let envelope = Envelope::of(&message, Input::Auto).expect("an envelope");
        let payload = json!({ "device": { "id": 7 }, "a/b~": [5, 6] });
        let find = |text: &str| {
            let path: FieldPath = text.parse().expect("a place");
            assert_eq!(path.to_string().parse::<FieldPath>(), Ok(path.clone()));
            path.find(&message, &envelope, Some(&payload)).and_then(Found::text)
        };

        assert_eq!(find("enrichment.DeviceID").as_deref(), Some("d"));
        assert_eq!(find("enrichment.place.city").as_deref(), Some("A"));
        assert_eq!(find("attribute.uid").as_deref(), Some("u"));
        assert_eq!(find("/device/id").as_deref(), Some("7"));
        assert_eq!(find("/a~1b~0/1").as_deref(), Some("6"));
        assert_eq!(find("/a~1b~0/01"), None);
        assert_eq!(find("/device"), None);
        assert_eq!(find("enrichment.none"), None);
    }

    #[test]
    fn places_in_the_payload_need_it() {
        let path = |text: &str| text.parse::<FieldPath>().expect("a place");

        assert!(path("/a").needs_payload() && path("").needs_payload());
        assert!(!path("enrichment.a").needs_payload() && !path("attribute.a").needs_payload());
        assert_eq!(Pointer::to("a/b").to_string(), "/a~1b");
        assert_eq!(Pointer::to("a").names(), ["a"]);
    }

    #[test]
    fn its_schema_says_what_is_a_place() {
        let schema = schemars::schema_for!(Vec<FieldPath>);

        let path = schema.pointer("/$defs/FieldPath").expect("a schema of its own");
        assert_eq!(path["type"], "string");
        assert!(path["pattern"].as_str().is_some_and(|it| it.contains("attribute")));
        assert_eq!(schema.pointer("/items/$ref"), Some(&json!("#/$defs/FieldPath")));
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_would_be_right() {
        for text in ["DeviceID", "enrichment.", "attribute", "attribute.", "payload.x"] {
            assert!(text.parse::<FieldPath>().is_err_and(|why| why.contains("enrichment.NAME")));
        }
    }
}
