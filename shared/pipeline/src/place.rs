//! Where in a message a value stands, as settings name it.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Envelope, Message};

/// A place in a message: `enrichment.DeviceID`, `attribute.device_id`, or a JSON pointer into the
/// payload such as `/device/id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A JSON pointer (RFC 6901) into the payload; empty for all of it.
    Payload(String),
    /// A path into the enrichment data, as a JSON pointer.
    Enrichment(String),
    /// An attribute.
    Attribute(String),
}

impl Place {
    /// The value at this place. `payload` is the parsed payload, where it is JSON.
    #[must_use]
    pub fn find<'a>(
        &self,
        message: &'a Message,
        envelope: &'a Envelope,
        payload: Option<&'a Value>,
    ) -> Option<Found<'a>> {
        match self {
            Self::Payload(pointer) => payload?.pointer(pointer).map(Found::Json),
            Self::Enrichment(pointer) => {
                // The map is no value of its own, so its first level is looked up here.
                let path = pointer.strip_prefix('/')?;
                let (first, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
                envelope.enrichment.get(&unescape(first))?.pointer(rest).map(Found::Json)
            }
            Self::Attribute(name) => message.attributes.get(name).map(|text| Found::Text(text)),
        }
    }

    /// Whether the payload must be parsed to find it.
    #[must_use]
    pub fn needs_payload(&self) -> bool {
        matches!(self, Self::Payload(_))
    }
}

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'a> {
    /// A JSON value.
    Json(&'a Value),
    /// An attribute's text.
    Text(&'a str),
}

impl Found<'_> {
    /// A text, or a number as text; `None` for anything else and for what is empty.
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

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('/') {
            return Ok(Self::Payload(text.to_owned()));
        }
        match text.split_once('.') {
            Some(("enrichment", path)) if !path.is_empty() => {
                let parts = path.split('.').map(|part| part.replace('~', "~0").replace('/', "~1"));
                Ok(Self::Enrichment(parts.map(|part| format!("/{part}")).collect()))
            }
            Some(("attribute", name)) if !name.is_empty() => Ok(Self::Attribute(name.to_owned())),
            _ => Err(format!(
                "`{text}` is no place: must be a JSON pointer into the payload such as /device/id, \
                 enrichment.NAME or attribute.NAME"
            )),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(pointer) => f.write_str(pointer),
            Self::Enrichment(pointer) => {
                let parts = pointer.split('/').skip(1).map(unescape).collect::<Vec<_>>();
                write!(f, "enrichment.{}", parts.join("."))
            }
            Self::Attribute(name) => write!(f, "attribute.{name}"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
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
        let payload = json!({ "device": { "id": 7 } });
        let find = |place: &str| {
            let place: Place = place.parse().expect("a place");
            assert_eq!(place.to_string().parse::<Place>(), Ok(place.clone()));
            place.find(&message, &envelope, Some(&payload)).and_then(Found::text)
        };

        assert_eq!(find("enrichment.DeviceID").as_deref(), Some("d"));
        assert_eq!(find("enrichment.place.city").as_deref(), Some("A"));
        assert_eq!(find("attribute.uid").as_deref(), Some("u"));
        assert_eq!(find("/device/id").as_deref(), Some("7"));
        assert_eq!(find("/device"), None);
        assert_eq!(find("enrichment.none"), None);
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_would_be_right() {
        for text in ["DeviceID", "enrichment.", "attribute", "payload.x"] {
            assert!(text.parse::<Place>().is_err_and(|why| why.contains("enrichment.NAME")));
        }
    }
}
