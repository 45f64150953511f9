//! Text of times.

use std::borrow::Cow;

use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

const MOMENT: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");

/// Writes microseconds since 1970 as a time in UTC, with six digits behind the second.
pub(super) fn of_micros(micros: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
    time.format(MOMENT).ok()
}

/// Returns a time without zeros at the end of its second.
pub(super) fn trimmed(time: &str) -> &str {
    if time.contains('.') { time.trim_end_matches('0').trim_end_matches('.') } else { time }
}

/// Returns a time with six digits behind the second.
pub(super) fn padded(time: &str) -> Cow<'_, str> {
    match time.split_once('.') {
        Some((_, fraction)) if fraction.len() >= 6 => time.into(),
        Some((second, fraction)) => format!("{second}.{fraction:0<6}").into(),
        None => format!("{time}.000000").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_a_second_are_trimmed_and_padded() {
        assert_eq!(of_micros(1_500_000).as_deref(), Some("1970-01-01T00:00:01.500000"));
        assert_eq!(of_micros(i64::MAX), None);
        assert_eq!(trimmed("10:00:00.120000"), "10:00:00.12");
        assert_eq!(trimmed("10:00:00.000000"), "10:00:00");
        assert_eq!(trimmed("10:00:00"), "10:00:00");
        assert_eq!(padded("10:00:00.12"), "10:00:00.120000");
        assert_eq!(padded("10:00:00"), "10:00:00.000000");
    }
}
