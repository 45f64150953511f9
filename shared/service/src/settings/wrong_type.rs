//! Error texts, in plain words, for values of a wrong type.

use serde_json::{Value, json};

/// Maximum number of characters of a value that are shown.
const MAX_SHOWN: usize = 40;
/// Words in keys whose values are not shown.
const SECRETIVE: [&str; 5] = ["url", "endpoint", "password", "secret", "token"];
/// Words of serde for an expected duration.
const DURATION: &str = "a duration";
/// Words of serde for an expected enum, which is one of several words.
const WORD: &str = "string or map";

/// Value that cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    /// Key of the value.
    pub(super) key: String,
    /// The value.
    pub(super) value: Value,
    /// Error text of serde.
    pub(super) error: String,
}

impl Unreadable {
    /// Returns whether both values should have had the same type.
    pub(super) fn lacks_same(&self, other: &Self) -> bool {
        expected(&self.error) == expected(&other.error)
    }

    /// Returns values of the right type that are outside of every range. The fault reported for
    /// such a value contains the range.
    pub(super) fn probes(&self) -> Vec<Value> {
        match expected(&self.error) {
            Some("u8") => vec![json!(0), json!(u8::MAX)],
            Some("u16") => vec![json!(0), json!(u16::MAX)],
            Some("u32") => vec![json!(0), json!(u32::MAX)],
            Some("u64" | "usize") => vec![json!(0), json!(u64::MAX)],
            Some(DURATION) => vec![json!("0s"), json!("9999999999s")],
            Some(WORD) => vec![json!("")],
            _ => Vec::new(),
        }
    }

    /// Returns what is wrong with the value. `range` is the fault of a value of the right type that
    /// is out of range, such as `must be 1 to 16, is 0`.
    pub(super) fn explain(&self, range: Option<&str>) -> String {
        let Some(expected) = expected(&self.error) else {
            // This error text comes from one of our own types.
            let is_said = |shown| self.value.is_string() && self.error.contains(shown);
            return match shown(&self.key, &self.value) {
                Some(shown) if !self.value.is_object() && !is_said(&shown) => {
                    format!("{}, is {shown}", self.error)
                }
                _ => self.error.clone(),
            };
        };
        let right = range.map(|range| range.split(", is ").next().unwrap_or(range).to_owned());
        let right = right.unwrap_or_else(|| format!("must be {}", plain(expected)));
        let is_said = range.is_none() && expected == DURATION && self.value.is_string();
        let confusion = confusion(expected, &self.value).filter(|_| !is_said);
        // In place of a section there may be any of its values, such as a password.
        let is_shown = !(is_section(expected) && self.value.is_string());
        let shown = shown(&self.key, &self.value).filter(|_| is_shown);
        match (shown, confusion) {
            (Some(shown), Some(confusion)) => format!("{right}, is {shown}, {confusion}"),
            (Some(shown), None) => format!("{right}, is {shown}"),
            (None, Some(confusion)) => format!("{right}, is {confusion}"),
            (None, None) => right,
        }
    }
}

/// Returns the type that serde expected, in serde's words.
pub(super) fn expected(error: &str) -> Option<&str> {
    error.rsplit_once(", expected ").map(|(_, expected)| expected)
}

/// Returns true for a section with keys, in serde's words.
fn is_section(expected: &str) -> bool {
    expected == "a map" || expected.starts_with("struct ")
}

/// Returns the name of a type for people.
fn plain(expected: &str) -> String {
    let whole = |min: &str, max: &str| format!("a whole number from {min} to {max}");
    match expected {
        "u8" => whole("0", "255"),
        "u16" => whole("0", "65535"),
        "u32" => whole("0", "4294967295"),
        "u64" | "usize" => whole("0", "18446744073709551615"),
        "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "string" | "path string" => "a text".into(),
        "a sequence" => "a list".into(),
        DURATION => "a duration such as 60s, 5m or 1h30m".into(),
        section if is_section(section) => "a section with keys".into(),
        other => other.to_owned(),
    }
}

/// Returns which type was found in place of the expected one, and how to correct it.
fn confusion(expected: &str, value: &Value) -> Option<&'static str> {
    let is_number = ["u8", "u16", "u32", "u64", "usize", "i32", "i64", "isize", "f32", "f64"]
        .contains(&expected);
    let is_text = ["a string", "string", "path string", WORD].contains(&expected)
        || expected.starts_with('`')
        || expected.starts_with("one of `");
    Some(match value {
        Value::String(text) if is_number && is_number_in_quotes(text) => {
            "a text where a number belongs: leave the quotes out"
        }
        Value::String(_) if is_number => "a text where a number belongs",
        Value::String(text) if expected == "a boolean" && ["true", "false"].contains(&&**text) => {
            "a text where true or false belongs: leave the quotes out"
        }
        Value::String(_) if is_section(expected) => "a text where keys with values belong",
        Value::Number(number) if is_number && number.is_f64() => "which is no whole number",
        Value::Number(_) if is_text => "a number where a text belongs: put it in quotes",
        Value::Bool(_) if is_text => "true or false where a text belongs: put it in quotes",
        Value::Number(_) if expected == DURATION => {
            "a number where a duration belongs: add its unit, as in 60s"
        }
        Value::String(_) if expected == DURATION => "which is no duration such as 60s, 5m or 1h30m",
        _ => return None,
    })
}

/// Returns true for a text that would be a whole number without quotes. YAML reads `08080` as text.
fn is_number_in_quotes(text: &str) -> bool {
    text.parse::<i128>().is_ok_and(|number| number.to_string() == text)
}

/// Returns the value as a person would write it. Returns nothing if it could be a secret.
fn shown(key: &str, value: &Value) -> Option<String> {
    let name = key.rsplit('.').next().unwrap_or(key);
    match value {
        // A text with `@` may be a URL with a user, or an address. The parameters of a URL may hold a
        // password.
        Value::String(text) if text.contains('@') || text.contains("://") => None,
        Value::Null => Some("empty".into()),
        Value::Array(_) => Some("a list".into()),
        Value::Object(_) => Some("a section".into()),
        _ if SECRETIVE.iter().any(|word| name.contains(word)) => None,
        Value::String(text) => {
            Some(format!("`{}`", text.chars().take(MAX_SHOWN).collect::<String>()))
        }
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_the_error_names_is_not_said_again() {
        let explained = |error: &str| {
            let (key, value) = ("type".into(), json!("STRNG"));
            Unreadable { key, value, error: error.into() }.explain(None)
        };

        assert_eq!(explained("`STRNG` is no type"), "`STRNG` is no type");
        assert_eq!(explained("must be a type"), "must be a type, is `STRNG`");
    }
}
