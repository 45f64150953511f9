//! Intervals in their canonical form: `1-2 3 4:5:6.789`.

/// Most months, days and microseconds in both directions.
const MOST: [i64; 3] = [120_000, 3_660_000, 316_224_000_000_000_000];

/// Converts an interval in the canonical form or in that of ISO 8601 to the canonical form.
pub(in super::super) fn normal(text: &str) -> Option<String> {
    let parts = match text.strip_prefix('P') {
        Some(iso) => from_iso(iso)?,
        None => from_canonical(text)?,
    };
    canonical(parts)
}

/// Writes months, days and microseconds in the canonical form; `None` if they are out of range.
pub(in super::super) fn canonical([months, days, micros]: [i64; 3]) -> Option<String> {
    let is_known = [months, days, micros].iter().zip(MOST).all(|(part, most)| part.abs() <= most);
    let sign = |part: i64| if part < 0 { "-" } else { "" };
    let (month, second) = (months.abs(), micros.abs() / 1_000_000);
    let fraction = match micros.abs() % 1_000_000 {
        0 => String::new(),
        fraction => format!(".{fraction:06}").trim_end_matches('0').to_owned(),
    };
    is_known.then(|| {
        format!(
            "{}{}-{} {days} {}{}:{}:{}{fraction}",
            sign(months),
            month / 12,
            month % 12,
            sign(micros),
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    })
}

fn from_canonical(text: &str) -> Option<[i64; 3]> {
    let [months, days, time] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let (sign, months) = sign_of(months);
    let (year, month) = months.split_once('-')?;
    let months = sign * (whole(year)? * 12 + whole(month)?);
    let (sign, days) = sign_of(days);
    let days = sign * whole(days)?;
    let (sign, time) = sign_of(time);
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    let micros = (whole(hour)? * 60 + whole(minute)?) * 60_000_000 + micros(second)?;
    Some([months, days, sign * micros])
}

fn from_iso(text: &str) -> Option<[i64; 3]> {
    let mut parts = [0; 3];
    let (mut digits, mut is_time, mut has_any) = (String::new(), false, false);
    for char in text.chars() {
        if char == 'T' && !is_time && digits.is_empty() {
            (is_time, has_any) = (true, false);
            continue;
        }
        if !char.is_ascii_alphabetic() {
            digits.push(char);
            continue;
        }
        let (sign, count) = sign_of(&digits);
        let (part, value) = match (is_time, char) {
            (false, 'Y') => (0, whole(count)? * 12),
            (false, 'M') => (0, whole(count)?),
            (false, 'W') => (1, whole(count)? * 7),
            (false, 'D') => (1, whole(count)?),
            (true, 'H') => (2, whole(count)? * 3_600_000_000),
            (true, 'M') => (2, whole(count)? * 60_000_000),
            (true, 'S') => (2, micros(count)?),
            _ => return None,
        };
        parts[part] += sign * value;
        digits.clear();
        has_any = true;
    }
    (digits.is_empty() && has_any).then_some(parts)
}

fn sign_of(text: &str) -> (i64, &str) {
    match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Parses a count of units. A count with more than nine digits is out of range.
fn whole(digits: &str) -> Option<i64> {
    let is_count = (1..=9).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
    if is_count { digits.parse().ok() } else { None }
}

fn micros(seconds: &str) -> Option<i64> {
    let (second, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let fraction = if fraction.len() <= 6 { format!("{fraction:0<6}") } else { return None };
    Some(whole(second)? * 1_000_000 + whole(&fraction)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_one_form() {
        for (text, expected) in [
            ("1-2 3 4:5:6.789", Some("1-2 3 4:5:6.789")),
            ("-0-14 -3 -0:0:90", Some("-1-2 -3 -0:1:30")),
            ("P1Y2M3DT4H5M6.5S", Some("1-2 3 4:5:6.5")),
            ("P-1W", Some("0-0 -7 0:0:0")),
            ("10000-1 0 0:0:0", None),
            ("0-0 3660001 0:0:0", None),
            ("PT", None),
            ("P1", None),
            ("1 day", None),
            ("", None),
        ] {
            assert_eq!(normal(text).as_deref(), expected, "{text}");
        }
    }
}
