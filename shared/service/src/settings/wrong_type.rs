//! Says in plain words what is wrong with a value of a wrong type.

use serde_json::Value;

/// Longest part of a value that is shown.
const MAX_SHOWN: usize = 40;
/// Words in keys whose values are not shown.
const SECRETIVE: [&str; 5] = ["url", "endpoint", "password", "secret", "token"];

/// What is wrong with `value` at `key`, of which serde says `error`.
pub(super) fn explain(key: &str, value: Option<&Value>, error: &str) -> String {
    let Some(expected) = error.rsplit_once(", expected ").map(|(_, expected)| expected) else {
        // The words of a type of our own.
        return error.to_owned();
    };
    let expected = plain(expected);
    match value.and_then(|value| shown(key, value)) {
        Some(shown) => format!("must be {expected}, is {shown}"),
        None => format!("must be {expected}"),
    }
}

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
        "a map" => "a section with keys".into(),
        "a duration" => "a duration such as 60s, 5m or 1h30m".into(),
        other if other.starts_with("struct ") => "a section with keys".into(),
        other => other.to_owned(),
    }
}

/// The value as a person wrote it; nothing for what could be a secret.
fn shown(key: &str, value: &Value) -> Option<String> {
    let name = key.rsplit('.').next().unwrap_or(key);
    match value {
        Value::Null => Some("empty".into()),
        Value::Array(_) => Some("a list".into()),
        Value::Object(_) => Some("a section".into()),
        _ if SECRETIVE.iter().any(|word| name.contains(word)) => None,
        Value::String(text) => {
            Some(format!("`{}`", text.chars().take(MAX_SHOWN).collect::<String>()))
        }
        Value::Bool(_) | Value::Number(_) => Some(format!("`{value}`")),
    }
}
