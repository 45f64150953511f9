//! Intervals: a count of months, a count of days, and a count of microseconds.
//!
//! Two forms are read: BigQuery's canonical form, such as `1-2 3 4:5:6.789`, and ISO 8601, such as
//! `P1Y2M3DT4H5M6.789S`. Each part of the canonical form may have its own sign. The canonical form
//! is the one that is written.

/// Maximum months, days and microseconds, also for negative counts:
/// <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#interval_type>.
const MOST: [i64; 3] = [10_000 * 12, 3_660_000, 87_840_000 * 3_600 * 1_000_000];

/// Returns the canonical form of an interval, or `None` if the text is not an interval.
pub(super) fn canonical(text: &str) -> Option<String> {
    let parts = text.strip_prefix('P').map_or_else(|| read_canonical(text), read_iso)?;
    let fits = parts.iter().zip(MOST).all(|(part, most)| (-most..=most).contains(part));
    fits.then(|| write(parts))
}

fn write([months, days, micros]: [i64; 3]) -> String {
    let sign = |number: i64| if number < 0 { "-" } else { "" };
    let (months, days_sign) = ((sign(months), months.unsigned_abs()), sign(days));
    let (seconds, fraction) =
        (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    let fraction = match fraction {
        0 => String::new(),
        some => format!(".{some:06}").trim_end_matches('0').to_owned(),
    };
    format!(
        "{}{}-{} {days_sign}{} {}{}:{}:{}{fraction}",
        months.0,
        months.1 / 12,
        months.1 % 12,
        days.unsigned_abs(),
        sign(micros),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
    )
}

fn read_canonical(text: &str) -> Option<[i64; 3]> {
    let mut parts = text.split(' ');
    let (months, days, time) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (sign, months) = signed(months);
    let (years, months) = months.split_once('-')?;
    let months = number(years)?.checked_mul(12)?.checked_add(number(months)?)?;
    let (days_sign, days) = signed(days);
    let (time_sign, time) = signed(time);
    let mut units = time.split(':');
    let (hours, minutes, seconds) = (units.next()?, units.next()?, units.next()?);
    if units.next().is_some() {
        return None;
    }
    let minutes = number(hours)?.checked_mul(60)?.checked_add(number(minutes)?)?;
    let micros = minutes.checked_mul(60_000_000)?.checked_add(micros(seconds)?)?;
    Some([sign * months, days_sign * number(days)?, time_sign * micros])
}

fn read_iso(text: &str) -> Option<[i64; 3]> {
    let (date, time) = match text.split_once('T') {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None if text.is_empty() => return None,
        None => (text, ""),
    };
    let mut parts = [0_i64; 3];
    let mut add = |part: usize, count: i64, unit: i64| {
        parts[part] = parts[part].checked_add(count.checked_mul(unit)?)?;
        Some(())
    };
    for (text, unit) in units(date)? {
        let (sign, digits) = signed(text);
        let count = sign * number(digits)?;
        match unit {
            'Y' => add(0, count, 12)?,
            'M' => add(0, count, 1)?,
            'W' => add(1, count, 7)?,
            'D' => add(1, count, 1)?,
            _ => return None,
        }
    }
    for (text, unit) in units(time)? {
        let (sign, digits) = signed(text);
        match unit {
            'H' => add(2, sign * number(digits)?, 3_600_000_000)?,
            'M' => add(2, sign * number(digits)?, 60_000_000)?,
            'S' => add(2, sign * micros(digits)?, 1)?,
            _ => return None,
        }
    }
    Some(parts)
}

/// Splits text into numbers, each with the letter behind it.
fn units(text: &str) -> Option<Vec<(&str, char)>> {
    let mut units = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(|char: char| char.is_ascii_alphabetic())?;
        let unit = rest[at..].chars().next()?;
        units.push((&rest[..at], unit));
        rest = &rest[at + 1..];
    }
    Some(units)
}

fn signed(text: &str) -> (i64, &str) {
    match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn number(digits: &str) -> Option<i64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Converts seconds to microseconds. Returns `None` if there are finer digits.
fn micros(seconds: &str) -> Option<i64> {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let fraction = fraction.trim_end_matches('0');
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    if fraction.len() > 6 {
        return None;
    }
    number(whole)?.checked_mul(1_000_000)?.checked_add(number(&format!("{fraction:0<6}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_in_one_form() {
        for (text, expected) in [
            ("1-2 3 4:5:6.789", "1-2 3 4:5:6.789"),
            ("-1-2 -3 -4:5:6.5", "-1-2 -3 -4:5:6.5"),
            ("0-14 0 0:90:00.000", "1-2 0 1:30:0"),
            ("+0-0 +1 0:0:0", "0-0 1 0:0:0"),
            ("P1Y2M3DT4H5M6.789S", "1-2 3 4:5:6.789"),
            ("P2W", "0-0 14 0:0:0"),
            ("PT-90S", "0-0 0 -0:1:30"),
            ("PT0.000001S", "0-0 0 0:0:0.000001"),
            ("10000-0 3660000 87840000:0:0", "10000-0 3660000 87840000:0:0"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_interval_is_refused() {
        for text in [
            "",
            "P",
            "PT",
            "P1",
            "PY",
            "P1H",
            "PT1Y",
            "1",
            "1-2",
            "1-2 3",
            "1-2 3 4:5",
            "1-2 3 4:5:6:7",
            "1-2 3 4:5:6 7",
            "x-2 3 4:5:6",
            "1-2 3 4:5:6.1234567",
            "--1-2 3 4:5:6",
            "10000-1 0 0:0:0",
            "0-0 3660001 0:0:0",
            "0-0 0 87840000:0:0.1",
            "P99999999999999999999D",
            "PT9223372036854775807H",
            "P1Dé",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
