//! Days of partitions: their names and bounds in SQL.

use time::Date;
use time::macros::format_description;

/// Returns the day that is this many days later. Days outside of the calendar do not happen.
pub(crate) fn after(day: Date, days: i64) -> Date {
    day.saturating_add(time::Duration::days(days))
}

/// Returns the first moment of a day in UTC, as SQL.
pub(crate) fn start(day: Date) -> String {
    format!("{:04}-{:02}-{:02} 00:00:00+00", day.year(), u8::from(day.month()), day.day())
}

/// Returns the bounds of a day's partition, as PostgreSQL writes them in UTC.
pub(crate) fn bounds(day: Date) -> String {
    format!("FROM ('{}') TO ('{}')", start(day), start(after(day, 1)))
}

/// Returns the end of a partition's name.
pub(crate) fn suffix(day: Date) -> String {
    format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

/// Reads the end of a partition's name.
pub(crate) fn parse(suffix: &str) -> Option<Date> {
    Date::parse(suffix, format_description!("[year][month][day]")).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    #[test]
    fn a_partition_is_named_by_its_day() {
        assert_eq!(suffix(date!(2025 - 06 - 05)), "20250605");
        assert_eq!(parse("20250605"), Some(date!(2025 - 06 - 05)));
        for other in ["default", "2025060", "20251301", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(start(date!(2025 - 06 - 05)), "2025-06-05 00:00:00+00");
    }
}
