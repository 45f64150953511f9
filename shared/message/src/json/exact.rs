//! Reads JSON without loss of digits.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::Value;

/// Length in characters up to which every number without an exponent is exact in 64 bits.
const ALWAYS_EXACT: usize = 15;
/// Length of the longest number whose digits are compared. A longer number becomes a text.
const MAX_COMPARED: usize = 400;

/// Parses JSON without loss of digits.
///
/// A number that 64 bits cannot hold becomes a text of its digits. An ICCID of 20 digits is an
/// example: after rounding it would be the number of another card.
///
/// # Errors
/// The text is not valid JSON.
pub fn parse(json: &[u8]) -> Result<Value, serde_json::Error> {
    let quoted = quote_wide_numbers(json);
    if matches!(quoted, Cow::Owned(_)) {
        // A quoted number may be in a position where a number is invalid: as a key.
        serde_json::from_slice::<IgnoredAny>(json)?;
    }
    serde_json::from_slice(&quoted)
}

/// Returns the number in a text that [`parse`] made from a number, rounded to 64 bits. Returns `None`
/// for any other text.
///
/// Use it where only the size of a number counts, as in a time.
#[must_use]
pub fn wide_number(text: &str) -> Option<f64> {
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<IgnoredAny>(text).is_ok();
    (is_number && is_wide(text.as_bytes())).then(|| text.parse().ok()).flatten()
}

/// Puts quotes around the numbers that 64 bits cannot hold.
fn quote_wide_numbers(json: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_text(json, at),
            b'-' | b'0'..=b'9' => {
                let end = end_of_number(json, at);
                if is_wide(&json[at..end]) {
                    quoted.extend_from_slice(&json[copied..at]);
                    quoted.push(b'"');
                    quoted.extend_from_slice(&json[at..end]);
                    quoted.push(b'"');
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    quoted.extend_from_slice(&json[copied..]);
    Cow::Owned(quoted)
}

/// Returns the position after the JSON string that begins at `start`.
fn end_of_text(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

fn end_of_number(json: &[u8], start: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = json[start..].iter().position(|byte| !is_part(byte));
    length.map_or(json.len(), |length| start + length)
}

/// Returns true for a JSON number that neither 64-bit integers nor doubles can hold.
///
/// A double may have more digits than it needs and still count as held. For example, C prints 0.1
/// as `0.10000000000000001`.
fn is_wide(number: &[u8]) -> bool {
    let has_exponent = number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    if number.len() <= ALWAYS_EXACT && !has_exponent {
        return false;
    }
    let Ok(text) = std::str::from_utf8(number) else { return false };
    if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        return false;
    }
    if number.len() > MAX_COMPARED {
        return true;
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_start_matches('0');
    match text.parse::<f64>() {
        // A real zero. A number that was rounded to zero has digits.
        Ok(_) if digits.is_empty() => false,
        Ok(float) => {
            let held = format!("{float:.*e}", digits.len() - 1);
            let held = held.split('e').next().unwrap_or_default();
            !held.chars().filter(char::is_ascii_digit).eq(digits.chars())
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_64_bits_hold_are_numbers() {
        for number in [
            "0",
            "-1",
            "0.1",
            "1e5",
            "1E+5",
            "-0.0",
            "0e999",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "0.10000000000000001",
            "1.7976931348623157e308",
            "100000000000000000000",
            "1234567890123456.8",
            &format!("1.{}", "0".repeat(MAX_COMPARED - 2)),
        ] {
            assert!(parse(number.as_bytes()).unwrap().is_number(), "{number}");
        }
    }

    #[test]
    fn numbers_that_64_bits_do_not_hold_are_the_texts_of_their_digits() {
        let long = format!("1.{}", "0".repeat(MAX_COMPARED - 1));
        for number in [
            "89490200001234567890",
            "-18446744073709551616.5",
            "1234567890123456.789",
            "3.14159265358979323846",
            "1e400",
            "-1E400",
            "1e-400",
            &long,
        ] {
            assert_eq!(parse(number.as_bytes()).unwrap(), json!(number));
        }
    }

    #[test]
    fn a_text_that_was_a_wide_number_is_told_from_others() {
        assert_eq!(wide_number("1749981600.123456789"), Some(1_749_981_600.123_456_7));
        assert_eq!(wide_number("1e400"), Some(f64::INFINITY));
        for other in ["1749981600.5", "2025", "123-456-789-012-345", " 89490200001234567890", ""] {
            assert_eq!(wide_number(other), None, "{other}");
        }
    }

    #[test]
    fn numbers_are_found_wherever_they_stand() {
        let wide = "89490200001234567890";
        let text =
            format!(r#"{{"{wide}":"{wide}","a\"{wide}":[{wide},-1,{{"b":{wide}}}],"c\\":{wide}}}"#);

        let found = parse(text.as_bytes()).unwrap();

        let key = format!("a\"{wide}");
        assert_eq!(found, json!({ wide: wide, key: [wide, -1, { "b": wide }], "c\\": wide }));
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in [
            "894902000012345678900-",
            "--89490200001234567890",
            "089490200001234567890",
            "8949020000123456789.",
            "1e",
            "{89490200001234567890:1}",
            "\"89490200001234567890",
            "\"\\",
            "[89490200001234567890",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn values_are_read_as_serde_json_reads_them(
            integer: i64, float: f64, text in ".{0,30}", key in ".{0,10}"
        ) {
            let value = json!({ key: [integer, float, text] });

            prop_assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
        }

        #[test]
        fn all_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let ours = parse(&bytes);

            prop_assert_eq!(ours.is_ok(), serde_json::from_slice::<IgnoredAny>(&bytes).is_ok());
        }
    }
}
