//! Times as users write them on a command line.

use humantime_serde::re::humantime;
use message::timestamp::parse_rfc3339;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, Time};

/// Accepted forms of a time, with examples.
const RIGHT: &str = "must be how long ago (1h, 30m, 2d), a date (2026-11-20, from 00:00 UTC), or a time \
                     (2026-11-20T10:00:00Z)";

/// Parses a time: a duration before now, a date, or RFC 3339.
///
/// # Errors
/// Fails when the text has none of these forms. The error text lists them.
pub fn parse(text: &str) -> Result<OffsetDateTime, String> {
    if let Some(time) = parse_rfc3339(text) {
        return Ok(time);
    }
    if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return Ok(date.with_time(Time::MIDNIGHT).assume_utc());
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| Duration::try_from(ago).ok());
    ago.and_then(|ago| OffsetDateTime::now_utc().checked_sub(ago)).ok_or_else(|| RIGHT.to_owned())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_is_given_as_a_span_a_date_or_a_moment() {
        let begun = OffsetDateTime::now_utc();
        let hour_ago = parse("1h").unwrap();
        let ended = OffsetDateTime::now_utc();

        assert!((begun..=ended).contains(&(hour_ago + Duration::HOUR)), "{hour_ago}");
        assert_eq!(parse("2026-11-20").unwrap(), datetime!(2026-11-20 00:00 UTC));
        assert_eq!(parse("2026-11-20T10:00:00+02:00").unwrap(), datetime!(2026-11-20 8:00 UTC));
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in ["", "yesterday", "1", "-1h", "2026-13-01", "2026-11-20T10", "99999999999y"] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains("1h") && error.contains("2026-11-20T10:00:00Z"),
                "{text}: {error}"
            );
        }
    }
}
