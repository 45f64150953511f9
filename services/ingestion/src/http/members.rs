//! Members of a JSON object, with values as they were sent.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::refusal::Refusal;

/// Maximum number of members of an item.
const MAX_MEMBERS: usize = 100;

/// Members of an item, in their order. No two have the same name.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object. Nothing in its values is parsed, so their depth and size do not matter.
    pub(super) fn read(json: &'a str) -> Result<Self, Refusal> {
        serde_json::from_str(json).map_err(|error| {
            Refusal::invalid("body", format!("an item must be a JSON object: {error}"))
        })
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (String, &'a RawValue)> {
        self.0.into_iter()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format_args!("`{name}` stands twice")));
                    }
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom("there are more than 100 members"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Reads a text. `None` is `null`.
pub(super) fn text(field: &str, value: &RawValue) -> Result<Option<String>, Refusal> {
    let text = serde_json::from_str(value.get());
    text.map_err(|_| Refusal::invalid(field, format!("{field} must be a text")))
}
