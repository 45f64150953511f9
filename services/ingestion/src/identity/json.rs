//! Finds values in a payload by JSON pointer, without building a tree of the payload in memory.

use std::borrow::Cow;
use std::fmt;

use message::field_path::position;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Maximum nesting of lists and objects, as in `serde_json`.
const MAX_DEPTH: usize = 127;
/// Maximum length of one byte of text in JSON: `\u0000`.
const MAX_ESCAPE_BYTES: usize = 6;

/// Payload that is valid JSON. Only its syntax is checked. Nothing is copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    /// Checks a payload. Returns `None` if it is no JSON or is nested too deeply.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        if depth(payload) > MAX_DEPTH {
            return None;
        }
        // A payload that does not parse contains no id and no time, which is no fault.
        serde_json::from_str(std::str::from_utf8(payload).ok()?).ok().map(Self)
    }

    /// Returns the JSON text at a pointer (RFC 6901). If an object has several members of one name,
    /// the last one counts.
    pub(super) fn find(self, pointer: &str) -> Option<&'a str> {
        let mut value = self.0;
        if !pointer.is_empty() {
            for name in pointer.strip_prefix('/')?.split('/') {
                value = member(value, &unescape(name))?;
            }
        }
        Some(value.get())
    }
}

/// Returns the maximum nesting of lists and objects. For a text that is no JSON, the result has no
/// meaning.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn unescape(name: &str) -> Cow<'_, str> {
    if name.contains('~') { name.replace("~1", "/").replace("~0", "~").into() } else { name.into() }
}

/// Returns the member of a list or object.
fn member<'a>(of: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let mut json = serde_json::Deserializer::from_str(of.get());
    // An error is impossible, because the syntax was checked.
    match of.get().as_bytes().first() {
        Some(b'{') => json.deserialize_map(Member(name)).ok()?,
        Some(b'[') => json.deserialize_seq(AtPosition(position(name)?)).ok()?,
        _ => None,
    }
}

/// Visitor that finds a member of an object.
struct Member<'n>(&'n str);

impl<'a> Visitor<'a> for Member<'_> {
    type Value = Option<&'a RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<&RawValue>()? {
            if is_name(key.get(), self.0) {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Returns whether a key in JSON is this name.
fn is_name(key: &str, name: &str) -> bool {
    let inner = key.get(1..key.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains('\\') {
        return inner == name;
    }
    // A longer key cannot be equal, so its text is not worth the memory.
    inner.len() <= name.len() * MAX_ESCAPE_BYTES
        && serde_json::from_str::<String>(key).is_ok_and(|key| key == name)
}

/// Visitor that finds an item of a list.
struct AtPosition(usize);

impl<'a> Visitor<'a> for AtPosition {
    type Value = Option<&'a RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = items.next_element()?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn find(json: &str, pointer: &str) -> Option<Value> {
        let found = Json::read(json.as_bytes())?.find(pointer)?;
        Some(serde_json::from_str(found).unwrap())
    }

    fn in_tree(json: &str, pointer: &str) -> Option<Value> {
        serde_json::from_str::<Value>(json).ok()?.pointer(pointer).cloned()
    }

    #[test]
    fn the_last_member_of_a_name_counts() {
        let json = r#"{"a":{"id":1},"\u0061":{"id":2},"a":{"x":3}}"#;

        assert_eq!(find(json, "/a/x"), Some(3.into()));
        assert_eq!(find(json, "/a/id"), None);
    }

    #[test]
    fn names_with_escapes_and_positions_are_found() {
        for (json, pointer) in [
            (r#"{"a/b~":[5,{"":6}]}"#, "/a~1b~0/1/"),
            (r#"{"~1":7}"#, "/~01"),
            (r#"{"\u00e9\ud83d\ude00":8}"#, "/é😀"),
            ("[1,[2,3]]", "/1/0"),
        ] {
            assert!(find(json, pointer).is_some(), "{json} {pointer}");
            assert_eq!(find(json, pointer), in_tree(json, pointer));
        }
    }

    #[test]
    fn nesting_is_read_as_deep_as_in_a_tree() {
        for depth in [1, 126, 127, 128, 129, 1_000_000] {
            let json = format!("{}{}", "[".repeat(depth), "]".repeat(depth));

            assert_eq!(find(&json, "/0").is_some(), in_tree(&json, "/0").is_some(), "{depth}");
        }
        let brackets = format!(r#"{{"text":"\"{}","id":1}}"#, "[".repeat(1000));
        assert_eq!(find(&brackets, "/id"), Some(1.into()));
    }

    /// Returns JSON in various forms: with spaces, escapes, repeated names and missing pieces.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("-0".to_owned()),
            "-?[1-9][0-9]{0,25}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
            "[ab/~]{0,3}".prop_map(|text| format!("\"{text}\"")),
            Just(r#""\u0061\n\"[{""#.to_owned()),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            let key = prop_oneof![Just(r#""\u0061""#.to_owned()), "\"[ab/~01]{0,2}\""];
            let pair = (key, inner.clone()).prop_map(|(key, value)| format!("{key} :{value} "));
            prop_oneof![
                vec(inner, 0..5).prop_map(|items| format!("[ {}]", items.join(","))),
                vec(pair, 0..5).prop_map(|pairs| format!("{{ {}}}", pairs.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_is_found_as_in_a_tree(
            json in json(),
            pointer in "(/([ab/~01]{0,2}|[0-3])){0,4}",
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let json = cut.map_or(json.clone(), |cut| json[..cut.index(json.len())].to_owned());

            prop_assert_eq!(find(&json, &pointer), in_tree(&json, &pointer));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..60), pointer in ".{0,10}") {
            let _found = Json::read(&bytes).and_then(|json| json.find(&pointer));
        }
    }
}
