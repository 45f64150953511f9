//! Exact numbers as text.

use serde_json::Value;

/// Most digits of an exact number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Digits {
    /// Most digits before the point.
    whole: usize,
    /// Most digits after the point.
    fraction: usize,
}

/// Most digits of a NUMERIC.
pub(super) const NUMERIC_DIGITS: Digits = Digits { whole: 29, fraction: 9 };
/// Most digits of a BIGNUMERIC.
pub(super) const BIGNUMERIC_DIGITS: Digits = Digits { whole: 38, fraction: 38 };

/// Returns an exact number as text without superfluous zeros; `None` if it has too many digits.
pub(super) fn numeric(text: &str, most: Digits) -> Option<Value> {
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
    if all.is_empty()
        || !all.bytes().all(|byte| byte.is_ascii_digit())
        || exponent.unsigned_abs() > 100
    {
        return None;
    }
    let point = i32::try_from(whole.len()).ok()? + exponent;
    let zeros = usize::try_from(-point.min(0)).ok()?;
    let all = format!("{}{all}", "0".repeat(zeros));
    let point = usize::try_from(point.max(0)).ok()?;
    let all = format!("{all:0<point$}");
    let (whole, fraction) = all.split_at(point);
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() > most.whole || fraction.len() > most.fraction {
        return None;
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let is_zero = whole == "0" && fraction.is_empty();
    let sign = if is_zero { "" } else { sign };
    Some(match fraction {
        "" => format!("{sign}{whole}").into(),
        fraction => format!("{sign}{whole}.{fraction}").into(),
    })
}

/// Returns a computed NUMERIC as text, rounded to nine digits after the point.
pub(in crate::bigquery) fn exact_number(number: f64) -> Value {
    let shortest = number.to_string();
    let rounded = || numeric(&format!("{number:.9}"), NUMERIC_DIGITS);
    numeric(&shortest, NUMERIC_DIGITS).or_else(rounded).unwrap_or_else(|| shortest.into())
}

/// Rounds a decimal number to at most `scale` digits after the point.
pub(super) fn round(text: &str, scale: usize) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() <= scale {
        return text.to_owned();
    }
    let is_up = fraction.as_bytes()[scale] >= b'5';
    let mut digits: Vec<u8> = format!("0{whole}{}", &fraction[..scale]).into_bytes();
    let mut carry = is_up;
    for digit in digits.iter_mut().rev() {
        if !carry {
            break;
        }
        carry = *digit == b'9';
        *digit = if carry { b'0' } else { *digit + 1 };
    }
    let digits = String::from_utf8(digits).unwrap_or_default();
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let sign = if whole == "0" && fraction.is_empty() { "" } else { sign };
    format!("{sign}{whole}{point}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_half_away_from_zero() {
        for (text, scale, expected) in [
            ("1.005", 2, "1.01"),
            ("-1.005", 2, "-1.01"),
            ("1.0049", 2, "1"),
            ("0.999", 2, "1"),
            ("99.5", 0, "100"),
            ("-0.4", 0, "0"),
            ("1.25", 2, "1.25"),
        ] {
            assert_eq!(round(text, scale), expected, "{text}");
        }
    }
}
