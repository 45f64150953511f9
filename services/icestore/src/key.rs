//! Batch keys. Messages with the same key share an object.

use std::str::FromStr;

use message::{Envelope, Message, timestamp};
use serde_json::Value;
use time::OffsetDateTime;

/// Maximum bytes of a value in a key. The whole name of an object has at most 1,024.
const MAX_VALUE_BYTES: usize = 200;
/// Text in the place of a missing value.
const MISSING: &str = "unknown";

/// Finds the batch key of a message: the folder of its object, which consists of safe levels.
///
/// Must give the same key for the same message. Values that come from data must go through
/// [`safe`]. A folder and S3 take no other levels: such a message becomes a dead letter there.
///
/// A function of a message and its envelope is a batch key, too.
pub trait BatchKey: Send + Sync + 'static {
    /// Returns the key, such as `2025/06/15/loc-a`.
    fn key(&self, message: &Message, envelope: &Envelope) -> String;
}

impl<F> BatchKey for F
where
    F: Fn(&Message, &Envelope) -> String + Send + Sync + 'static,
{
    fn key(&self, message: &Message, envelope: &Envelope) -> String {
        self(message, envelope)
    }
}

/// Key as settings describe it, such as `{yyyy}/{mm}/{dd}[/{location}]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    /// Attribute whose time takes the place of the event time.
    time_attribute: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Field),
    /// Left out if a value in it is missing.
    Optional(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Year,
    Month,
    Day,
    Hour,
    Location,
    Enrichment(String),
    Attribute(String),
}

impl Template {
    /// Default template: by day, and by location if it is known.
    pub const DEFAULT: &'static str = "{yyyy}/{mm}/{dd}[/{location}]";

    /// Takes the time from an attribute in RFC 3339. A message without it, or with another text in it,
    /// keeps its event time.
    #[must_use]
    pub fn with_time_attribute(self, name: Option<String>) -> Self {
        Self { time_attribute: name, ..self }
    }

    /// Returns the time of a message's folder.
    fn time(&self, message: &Message, envelope: &Envelope) -> OffsetDateTime {
        let given = self.time_attribute.as_ref().and_then(|name| message.attributes.get(name));
        let given = given.and_then(|text| timestamp::parse_rfc3339(text));
        given.or(envelope.publish_time).unwrap_or(message.publish_time)
    }
}

impl FromStr for Template {
    type Err = String;

    /// Parses a template. The error says what is wrong with it, and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('[') {
            pieces.extend(parse_plain(&rest[..at])?);
            let (inner, after) = rest[at + 1..].split_once(']').ok_or("`[` without `]`")?;
            pieces.push(Piece::Optional(parse_plain(inner)?));
            rest = after;
        }
        pieces.extend(parse_plain(rest)?);
        // No level of a key may be empty, with all values present or with all of them missing.
        let shortest = fill(&pieces, &|_| Some("x".into()));
        let without = fill(&pieces, &|_| None);
        if is_safe_path(&shortest) && is_safe_path(&without) {
            Ok(Self { pieces, time_attribute: None })
        } else {
            Err(format!("`{text}` must be levels between `/`, none of them empty, `.` or `..`"))
        }
    }
}

impl Default for Template {
    fn default() -> Self {
        let slash = || Piece::Text("/".into());
        let location = Piece::Optional(vec![slash(), Piece::Value(Field::Location)]);
        let [year, month, day] = [Field::Year, Field::Month, Field::Day].map(Piece::Value);
        let pieces = vec![year, slash(), month, slash(), day, location];
        Self { pieces, time_attribute: None }
    }
}

impl BatchKey for Template {
    fn key(&self, message: &Message, envelope: &Envelope) -> String {
        let time = self.time(message, envelope);
        fill(&self.pieces, &|field| field.value(time, message, envelope))
    }
}

impl Piece {
    /// Writes the piece with its values. Returns false if a value is missing.
    fn fill(&self, key: &mut String, value: &dyn Fn(&Field) -> Option<String>) -> bool {
        match self {
            Self::Text(text) => {
                key.push_str(text);
                true
            }
            Self::Value(field) => {
                let value = value(field);
                key.push_str(value.as_deref().unwrap_or(MISSING));
                value.is_some()
            }
            Self::Optional(pieces) => {
                let start = key.len();
                if !pieces.iter().all(|piece| piece.fill(key, value)) {
                    key.truncate(start);
                }
                true
            }
        }
    }
}

/// Writes all pieces with their values.
fn fill(pieces: &[Piece], value: &dyn Fn(&Field) -> Option<String>) -> String {
    let mut key = String::with_capacity(64);
    for piece in pieces {
        piece.fill(&mut key, value);
    }
    key
}

impl Field {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "yyyy" => Self::Year,
            "mm" => Self::Month,
            "dd" => Self::Day,
            "hh" => Self::Hour,
            "location" => Self::Location,
            _ => match name.split_once('.') {
                Some(("enrichment", name)) if !name.is_empty() => Self::Enrichment(name.into()),
                Some(("attribute", name)) if !name.is_empty() => Self::Attribute(name.into()),
                _ => {
                    return Err(format!(
                        "`{{{name}}}` is not one of yyyy, mm, dd, hh, location, enrichment.NAME, \
                         attribute.NAME"
                    ));
                }
            },
        })
    }

    fn value(
        &self,
        time: OffsetDateTime,
        message: &Message,
        envelope: &Envelope,
    ) -> Option<String> {
        let enrichment = |name: &str| match envelope.enrichment.get(name)? {
            Value::String(text) => safe(text),
            value @ (Value::Number(_) | Value::Bool(_)) => safe(&value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let attribute = |name: &str| safe(message.attributes.get(name)?);
        match self {
            Self::Year => Some(format!("{:04}", time.year())),
            Self::Month => Some(format!("{:02}", u8::from(time.month()))),
            Self::Day => Some(format!("{:02}", time.day())),
            Self::Hour => Some(format!("{:02}", time.hour())),
            Self::Location => enrichment("location").or_else(|| attribute("location")),
            Self::Enrichment(name) => enrichment(name),
            Self::Attribute(name) => attribute(name),
        }
    }
}

fn parse_plain(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("`{` without `}`")?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        pieces.push(Piece::Value(Field::parse(name)?));
        rest = after;
    }
    if rest.contains([']', '}', '[']) {
        return Err(format!("`{rest}` has a bracket without its other half"));
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// Makes a value from data safe as a part of an object's name. It replaces `..`, `/`, control
/// characters, and the characters that Cloud Storage advises against. Long values are cut. Returns
/// `None` if nothing is left.
#[must_use]
pub fn safe(value: &str) -> Option<String> {
    let is_unsafe =
        |c: char| c.is_control() || matches!(c, '/' | '\\' | '#' | '[' | ']' | '*' | '?');
    let value: String = value.trim().chars().map(|c| if is_unsafe(c) { '_' } else { c }).collect();
    let value = value.replace("..", "__");
    let value = pipeline::dead_letter::cut(value, MAX_VALUE_BYTES);
    match value.as_str() {
        "" => None,
        "." => Some("_".into()),
        _ => Some(value),
    }
}

/// Returns true if a text consists of safe levels between `/`. A safe level is not empty, `.` or
/// `..`, and it has no control characters.
pub(crate) fn is_safe_path(text: &str) -> bool {
    text.split('/')
        .all(|level| !matches!(level, "" | "." | "..") && !level.contains(char::is_control))
}

/// Returns true if a batch key can be the folder of an object. Slashes around it do not count. The
/// objects of an empty key are directly in the folder of the prefix.
pub(crate) fn is_folder(key: &str) -> bool {
    let key = key.trim_matches('/');
    key.is_empty() || is_safe_path(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn key(template: &str, message: &Message) -> String {
        let envelope = Envelope::of(message, message::envelope::Input::Auto).unwrap();
        template.parse::<Template>().unwrap().key(message, &envelope)
    }

    fn enveloped(enrichment: &str) -> Message {
        let json = format!(
            r#"{{"id":"1","payload":null,"publishTime":"2025-06-15T10:30:00Z","enrichmentData":{enrichment}}}"#
        );
        Message::new(json)
    }

    #[test]
    fn the_default_is_by_day_and_location() {
        let message = enveloped(r#"{"location":"loc-a"}"#);

        assert_eq!(key(Template::DEFAULT, &message), "2025/06/15/loc-a");
        assert_eq!(key(Template::DEFAULT, &enveloped("{}")), "2025/06/15");
        assert_eq!(Template::DEFAULT.parse::<Template>().unwrap(), Template::default());
    }

    #[test]
    fn a_raw_message_uses_its_publish_time_and_attributes() {
        let mut message = Message::new("raw").with_attribute("location", "loc-b");
        message.publish_time = datetime!(2024-01-02 03:04:05 UTC);

        assert_eq!(key(Template::DEFAULT, &message), "2024/01/02/loc-b");
    }

    #[test]
    fn hive_style_and_own_fields_work() {
        let message = enveloped(r#"{"site":7}"#).with_attribute("tenant", "acme");
        let template =
            "date={yyyy}-{mm}-{dd}/hour={hh}/{enrichment.site}/{attribute.tenant}/{location}";

        assert_eq!(key(template, &message), "date=2025-06-15/hour=10/7/acme/unknown");
    }

    #[test]
    fn an_attribute_decides_on_the_folder_where_the_settings_allow_it() {
        let key = |attribute: Option<&str>, message: &Message| {
            let envelope = Envelope::of(message, message::envelope::Input::Auto).unwrap();
            let template = Template::default().with_time_attribute(attribute.map(Into::into));
            template.key(message, &envelope)
        };
        let name = "test_publish_time";
        let with = |time: &str| enveloped("{}").with_attribute(name, time);
        let raw = Message::new("raw").with_attribute(name, "2024-02-29T23:59:59Z");

        // In UTC, it is the day before.
        let given = with("2024-01-02T00:30:00+01:00");
        assert_eq!(key(Some(name), &given), "2024/01/01");
        assert_eq!(key(Some(name), &raw), "2024/02/29");
        assert_eq!(key(None, &given), "2025/06/15");
        for other in ["yesterday", "", "2024-01-02", "9999-12-31T23:59:59-01:00"] {
            assert_eq!(key(Some(name), &with(other)), "2025/06/15", "{other}");
        }
        assert_eq!(key(Some(name), &enveloped("{}")), "2025/06/15");
    }

    #[test]
    fn wrong_templates_say_what_would_be_right() {
        for wrong in
            ["", "a//b", "/a", "a/", "{x}", "{yyyy", "a]", "[a", "..", "a/../b", "{enrichment.}"]
        {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_location_cannot_escape() {
        let hostile = enveloped(r#"{"location":"../../x"}"#);

        assert_eq!(key(Template::DEFAULT, &hostile), "2025/06/15/______x");
    }

    #[test]
    fn every_store_can_take_a_folder_of_safe_levels() {
        for right in ["a", "a/b=1", "/a/", "", ".a", "v1..v2", "...", "ä b"] {
            assert!(is_folder(right), "{right:?}");
        }
        for wrong in ["a//b", "..", ".", "a/..", "../a", "a/./b", "a\n", "a/\0"] {
            assert!(!is_folder(wrong), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_value_gives_a_safe_key(location in ".{0,300}") {
            let message = Message::new("raw").with_attribute("location", location);

            let key = key(Template::DEFAULT, &message);

            prop_assert!(is_safe_path(&key), "{}", key);
            prop_assert!(key.split('/').count() <= 4);
        }
    }
}
