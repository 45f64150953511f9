//! Times from outside, converted to UTC and limited to the years that RFC 3339 can write.

use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use time::{OffsetDateTime, UtcOffset};

/// First time that RFC 3339 can write.
const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00:00 UTC);
/// Last time that RFC 3339 can write.
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999_999_999 UTC);

/// Returns the time in UTC. Returns `None` if its year in UTC is not 0 to 9999, because RFC 3339
/// cannot write such a year. For example, `9999-12-31T23:59:59-01:00` is in the year 10000.
#[must_use]
pub fn in_utc(time: OffsetDateTime) -> Option<OffsetDateTime> {
    time.checked_to_offset(UtcOffset::UTC).filter(|time| (FIRST..=LAST).contains(time))
}

/// Returns the time in UTC, or the nearest one that RFC 3339 can write.
#[must_use]
pub fn nearest_in_utc(time: OffsetDateTime) -> OffsetDateTime {
    in_utc(time).unwrap_or_else(|| time.clamp(FIRST, LAST))
}

/// Parses an RFC 3339 time and converts it to UTC. Returns `None` for any other text, and outside
/// the years 0 to 9999.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().and_then(in_utc)
}

/// Returns the time in a UUID of version 7, as text with hyphens. Returns `None` for any other text.
#[must_use]
pub fn of_uuid(text: &str) -> Option<OffsetDateTime> {
    let bytes = text.as_bytes();
    let is_hyphen = |index: usize| bytes.get(index) == Some(&b'-');
    let has_form = bytes.len() == 36 && [8, 13, 18, 23].into_iter().all(is_hyphen);
    if !has_form || bytes.get(14) != Some(&b'7') {
        return None;
    }
    // The first 48 bits are the milliseconds since 1970-01-01 [RFC 9562, 5.7].
    let digits = bytes[..8].iter().chain(&bytes[9..13]);
    let millis = digits.map(|digit| char::from(*digit).to_digit(16)).try_fold(0, |sum, digit| {
        Some(sum * 16 + i128::from(digit?))
    })?;
    OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).ok().and_then(in_utc)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uuid_of_version_7_has_its_time() {
        let at = |text| of_uuid(text).map(|time| time.unix_timestamp_nanos() / 1_000_000);

        // The example of RFC 9562, A.6.
        assert_eq!(at("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), Some(1_645_557_742_000));
        for other in [
            "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
            "017f22e279b07cc398c4dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "017f22e2-79g0-7cc3-98c4-dc0c0c07398f",
            "äöüäöüäöüäöüäöüäöü",
            "",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
    }

    #[test]
    fn times_beyond_the_years_of_rfc_3339_are_refused() {
        for text in [
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:59-23:59",
            "0000-01-01T00:00:00+00:01",
            "0000-01-01T00:00:00+23:59",
            "yesterday",
            "",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn times_at_the_edges_are_written_again() {
        for (text, written) in [
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
            ("9999-12-31T23:59:59+01:00", "9999-12-31T22:59:59Z"),
            ("0000-01-01T00:00:00-01:00", "0000-01-01T01:00:00Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999999999Z"),
        ] {
            let time = parse_rfc3339(text).unwrap();

            assert_eq!(time.format(&Rfc3339).unwrap(), written, "{text}");
        }
    }

    #[test]
    fn the_nearest_time_stands_for_one_that_cannot_be_written() {
        let late = OffsetDateTime::parse("9999-12-31T23:59:59-01:00", &Rfc3339).unwrap();
        let early = OffsetDateTime::parse("0000-01-01T00:00:00+01:00", &Rfc3339).unwrap();

        assert_eq!(nearest_in_utc(late), LAST);
        assert_eq!(nearest_in_utc(early), FIRST);
    }

    proptest! {
        #[test]
        fn what_is_read_can_be_written(text in almost_rfc3339()) {
            if let Some(time) = parse_rfc3339(&text) {
                prop_assert_eq!(parse_rfc3339(&time.format(&Rfc3339).unwrap()), Some(time));
            }
        }
    }

    fn almost_rfc3339() -> impl Strategy<Value = String> {
        let parts = (prop_oneof![Just(0), Just(9999), 0..10_000], 0..14, 0..33, 0..25, -25..25);
        parts.prop_map(|(year, month, day, hour, zone)| {
            let sign = if zone < 0 { '-' } else { '+' };
            let zone: i32 = zone;
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:59:60{sign}{:02}:59", zone.abs())
        })
    }
}
