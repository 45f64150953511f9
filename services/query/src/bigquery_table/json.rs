//! Text of JSON in the form of PostgreSQL's `jsonb`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// Largest exponent that is written out. A `FLOAT64` has none above 308.
const MAX_EXPONENT: i32 = 400;

/// Writes a finite number without an exponent, with as few digits as it needs.
pub(super) fn float(number: f64) -> String {
    // Zero has no sign there.
    if number == 0.0 { "0".to_owned() } else { number.to_string() }
}

/// Writes a finite number as `jsonb` shows it after it was stored as JSON.
pub(super) fn stored_float(float: f64) -> String {
    number(&Value::from(float).to_string())
}

/// Compares keys as `jsonb` orders them.
pub(super) fn key_order(one: &str, other: &str) -> Ordering {
    (one.len(), one.as_bytes()).cmp(&(other.len(), other.as_bytes()))
}

/// Writes a text as JSON.
pub(super) fn quoted(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

/// Writes an exact number with this many digits behind the point.
pub(super) fn scaled(text: &str, scale: usize) -> String {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}.{fraction:0<scale$}")
}

/// Writes JSON in the form of `jsonb`. Text that is no JSON stays as it is, in quotes.
pub(super) fn normal(text: &str, out: &mut String) {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => write_value(value.get(), out),
        Err(_) => quoted(text, out),
    }
}

fn write_value(text: &str, out: &mut String) {
    match text.as_bytes().first() {
        Some(b'{') => match serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
            Ok(members) => write_object(members, out),
            Err(_) => quoted(text, out),
        },
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
            out.push('[');
            for (index, item) in items.into_iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_value(item.get(), out);
            }
            out.push(']');
        }
        Some(b'"') => {
            // Escapes that need not be there go away.
            let read: String = serde_json::from_str(text).unwrap_or_default();
            quoted(&read, out);
        }
        Some(b'-' | b'0'..=b'9') => out.push_str(&number(text)),
        _ => out.push_str(text),
    }
}

fn write_object(members: BTreeMap<String, &RawValue>, out: &mut String) {
    let mut members: Vec<_> = members.into_iter().collect();
    members.sort_by(|(one, _), (other, _)| key_order(one, other));
    out.push('{');
    for (index, (key, value)) in members.into_iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        quoted(&key, out);
        out.push_str(": ");
        write_value(value.get(), out);
    }
    out.push('}');
}

/// Writes a number without an exponent, and with all of its digits.
fn number(text: &str) -> String {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa),
    };
    let exponent = exponent.parse::<i32>().ok().filter(|it| it.abs() <= MAX_EXPONENT);
    let Some(exponent) = exponent else { return text.to_owned() };
    let sign = if digits.bytes().all(|byte| matches!(byte, b'0' | b'.')) { "" } else { negative };
    if exponent == 0 {
        return format!("{sign}{digits}");
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).unwrap_or(i32::MAX).saturating_add(exponent);
    let point = usize::try_from(point).map_err(|_| point.unsigned_abs() as usize);
    match point {
        Ok(point) if point >= all.len() => {
            let written = format!("{all:0<point$}");
            let written = written.trim_start_matches('0');
            format!("{sign}{}", if written.is_empty() { "0" } else { written })
        }
        Ok(point) if point > 0 => {
            let whole = all[..point].trim_start_matches('0');
            let whole = if whole.is_empty() { "0" } else { whole };
            format!("{sign}{whole}.{}", &all[point..])
        }
        Ok(_) => format!("{sign}0.{all}"),
        Err(zeros) => format!("{sign}0.{}{all}", "0".repeat(zeros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_form_of_jsonb() {
        let of = |text: &str| {
            let mut out = String::new();
            normal(text, &mut out);
            out
        };

        assert_eq!(
            of(r#" {"bb":1,"c":{"z":[],"y":{}},"aa":"\u00fc\/"} "#),
            r#"{"c": {"y": {}, "z": []}, "aa": "ü/", "bb": 1}"#
        );
        assert_eq!(of(r#"{"a":1,"a":2}"#), r#"{"a": 2}"#);
        assert_eq!(of("[true,null,\"\\u0001\"]"), "[true, null, \"\\u0001\"]");
        assert_eq!(of("no json"), "\"no json\"");
    }

    #[test]
    fn numbers_keep_their_digits_and_lose_their_exponent() {
        for (text, form) in [
            ("12345678901234567890.50", "12345678901234567890.50"),
            ("1e3", "1000"),
            ("1.5E+2", "150"),
            ("1.25e1", "12.5"),
            ("12e-1", "1.2"),
            ("1e-3", "0.001"),
            ("5e-1", "0.5"),
            ("-0", "0"),
            ("-0.0", "0.0"),
            ("-1e0", "-1"),
            ("0e5", "0"),
            ("1e999", "1e999"),
        ] {
            assert_eq!(number(text), form, "{text}");
        }
    }
}
