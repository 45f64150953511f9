//! Conversion of JSON values to numbers.

use serde_json::Value;

/// Whole numbers up to this one, 2⁵³, are exact in a 64-bit float.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64().filter(|_| number.is_f64())?;
            let is_whole = float.fract() == 0.0 && float.abs() <= MAX_EXACT;
            is_whole.then_some(float as i64)
        }),
        _ => None,
    }
}

/// Returns the nearest 64-bit float. Returns `None` if digits become infinite, or if digits other
/// than zero become zero.
pub(super) fn float(value: &Value) -> Option<f64> {
    let text = match value {
        Value::Number(number) => return number.as_f64(),
        Value::String(text) => text,
        _ => return None,
    };
    let float: f64 = text.parse().ok()?;
    let mut digits = text.split(['e', 'E']).next()?.bytes().filter(u8::is_ascii_digit).peekable();
    // Words such as `inf` have no digits, so they may be infinite.
    let has_digits = digits.peek().is_some();
    let is_lost = float == 0.0 && digits.any(|digit| digit != b'0');
    let is_beyond = float.is_infinite() && has_digits;
    (!is_lost && !is_beyond).then_some(float)
}

fn number_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Returns a number as a count of its smallest units, with `scale` digits behind the point. Returns
/// `None` if that would lose digits.
///
/// For example, `1.5` with a scale of 9 is `1500000000`.
pub(super) fn decimal(value: &Value, most_whole: usize, scale: usize) -> Option<String> {
    let text = number_text(value)?;
    let text = text.as_str();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let is_number = !all.is_empty() && all.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || all.len() > 200 || exponent.unsigned_abs() > 200 {
        return None;
    }
    let all = all.trim_end_matches('0');
    // Digits behind the point. A negative count means zeros before the point.
    let behind = i32::try_from(fraction.len()).ok()? - exponent;
    let cut = i32::try_from(whole.len() + fraction.len() - all.len()).ok()?;
    let zeros = usize::try_from(i32::try_from(scale).ok()? - (behind - cut)).ok()?;
    let scaled = format!("{all}{}", "0".repeat(zeros));
    let scaled = scaled.trim_start_matches('0');
    match scaled.len() {
        0 => Some("0".into()),
        len if len > most_whole + scale => None,
        _ => Some(format!("{sign}{scaled}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: &str) -> Value {
        message::json::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn digits_that_a_float_would_lose_are_refused() {
        for lost in ["1e400", "-1e400", "1e-400", "-0.1e-400", "1.8e308", "1e-324"] {
            assert_eq!(float(&read(lost)), None, "{lost}");
            assert_eq!(float(&json!(lost)), None, "{lost} as text");
        }
        for (kept, expected) in
            [("0e400", 0.0), ("-0.0", 0.0), ("1.7e308", 1.7e308), ("5e-324", 5e-324)]
        {
            assert_eq!(float(&read(kept)), Some(expected), "{kept}");
            assert_eq!(float(&json!(kept)), Some(expected), "{kept} as text");
        }
        assert_eq!(float(&read("9007199254740993")), Some(9_007_199_254_740_992.0), "is rounded");
    }

    #[test]
    fn words_for_what_is_no_number_are_taken() {
        for word in ["inf", "+inf", "Infinity", "INFINITY"] {
            assert_eq!(float(&json!(word)), Some(f64::INFINITY), "{word}");
        }
        assert_eq!(float(&json!("-inf")), Some(f64::NEG_INFINITY));
        assert!(float(&json!("NaN")).is_some_and(f64::is_nan));
        for refused in [json!("infinite"), json!(""), json!(true), json!("e5")] {
            assert_eq!(float(&refused), None, "{refused}");
        }
    }
}
