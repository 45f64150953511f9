//! Functions of dates and times, on the text form that SQLite stores.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::Value as Sql;
use time::{Date, Duration, Month, OffsetDateTime, Time};

use super::super::schema::FieldType;
use super::super::value::{write_date, write_datetime, write_time, write_timestamp};
use super::scalar::{FunctionResult, add, convert, converted, failed, text};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    for kind in ["TIMESTAMP", "DATE", "DATETIME", "TIME"] {
        add(connection, &format!("{kind}_ADD"), 3, |call| shift(call, 1))?;
        add(connection, &format!("{kind}_SUB"), 3, |call| shift(call, -1))?;
        add(connection, &format!("{kind}_TRUNC"), 2, trunc)?;
        add(connection, &format!("FORMAT_{kind}"), 2, format)?;
    }
    for kind in ["DATE", "DATETIME", "TIME"] {
        add(connection, &format!("{kind}_DIFF"), 3, borders)?;
    }
    add(connection, "TIMESTAMP_DIFF", 3, lengths)?;
    add(connection, "BQ_DAYS", 2, days)?;
    add(connection, "TIMESTAMP", 1, |call| converted(call, FieldType::Timestamp))?;
    add(connection, "DATE", -1, date)?;
    add(connection, "DATETIME", -1, datetime)?;
    add(connection, "TIME", -1, time)?;
    add(connection, "TIMESTAMP_SECONDS", 1, |call| from_unix(call, 1_000_000))?;
    add(connection, "TIMESTAMP_MILLIS", 1, |call| from_unix(call, 1_000))?;
    add(connection, "TIMESTAMP_MICROS", 1, |call| from_unix(call, 1))
}

/// Reads a time and its type from an argument.
fn time_at(call: &Context<'_>, at: usize) -> rusqlite::Result<Option<(OffsetDateTime, FieldType)>> {
    let Some(given) = call.get::<Option<String>>(at)? else { return Ok(None) };
    let kind = match given.as_bytes() {
        [.., b' ', b'U', b'T', b'C'] => FieldType::Timestamp,
        bytes if bytes.len() == 10 => FieldType::Date,
        bytes if bytes.get(10) == Some(&b'T') && !given.ends_with('Z') => FieldType::Datetime,
        bytes if bytes.get(2) == Some(&b':') => FieldType::Time,
        _ => FieldType::Timestamp,
    };
    let whole = if kind == FieldType::Time { format!("1970-01-01 {given}") } else { given };
    let stored = convert(FieldType::Timestamp, whole.into()).map_err(failed)?;
    let Sql::Text(stored) = stored else { return Ok(None) };
    Ok(parse(&stored).map(|time| (time, kind)))
}

/// Reads `2025-09-28 22:53:17.123456 UTC`.
pub(in super::super) fn parse(stored: &str) -> Option<OffsetDateTime> {
    let number = |range: std::ops::Range<usize>| stored.get(range)?.parse::<u32>().ok();
    let month = Month::try_from(u8::try_from(number(5..7)?).ok()?).ok()?;
    let day = u8::try_from(number(8..10)?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(number(0..4)?).ok()?, month, day).ok()?;
    let part = |range| u8::try_from(number(range)?).ok();
    let time = Time::from_hms_micro(part(11..13)?, part(14..16)?, part(17..19)?, number(20..26)?);
    Some(date.with_time(time.ok()?).assume_utc())
}

fn written(time: OffsetDateTime, kind: FieldType) -> Sql {
    text(match kind {
        FieldType::Date => write_date(time.date()),
        FieldType::Datetime => write_datetime(time),
        FieldType::Time => write_time(time.time()),
        _ => write_timestamp(time),
    })
}

fn unknown(part: &str) -> rusqlite::Error {
    failed(format!("this emulator does not support the date part {part} here"))
}

/// Returns the length of a part, if it has a fixed length.
fn length(part: &str) -> Option<Duration> {
    Some(match part {
        "MICROSECOND" => Duration::microseconds(1),
        "MILLISECOND" => Duration::milliseconds(1),
        "SECOND" => Duration::seconds(1),
        "MINUTE" => Duration::minutes(1),
        "HOUR" => Duration::hours(1),
        "DAY" => Duration::days(1),
        "WEEK" => Duration::weeks(1),
        _ => return None,
    })
}

fn shift(call: &Context<'_>, sign: i64) -> FunctionResult {
    let (Some((time, kind)), Some(count)) = (time_at(call, 0)?, call.get::<Option<i64>>(1)?) else {
        return Ok(None);
    };
    let (part, count) = (call.get::<String>(2)?, count.saturating_mul(sign));
    let months = match part.as_str() {
        "MONTH" => Some(count),
        "QUARTER" => Some(count.saturating_mul(3)),
        "YEAR" => Some(count.saturating_mul(12)),
        _ => None,
    };
    let moved = match (months, length(&part)) {
        (Some(months), _) => add_months(time, months),
        (None, Some(length)) => {
            let micros = i64::try_from(length.whole_microseconds()).unwrap_or(i64::MAX);
            micros.checked_mul(count).and_then(|all| time.checked_add(Duration::microseconds(all)))
        }
        (None, None) => return Err(unknown(&part)),
    };
    let moved = moved.filter(|time| super::super::value::is_known(time.date()));
    moved.map(|time| Some(written(time, kind))).ok_or_else(|| failed("the time is out of range"))
}

/// Adds days to a date.
fn days(call: &Context<'_>) -> FunctionResult {
    let (Some((date, kind)), Some(days)) = (time_at(call, 0)?, call.get::<Option<i64>>(1)?) else {
        return Ok(None);
    };
    // Longer than all dates, and far from an overflow.
    let days = days.clamp(-10_000_000, 10_000_000);
    let moved = date.checked_add(Duration::days(days));
    let moved = moved.filter(|time| super::super::value::is_known(time.date()));
    moved.map(|time| Some(written(time, kind))).ok_or_else(|| failed("the date is out of range"))
}

fn add_months(time: OffsetDateTime, months: i64) -> Option<OffsetDateTime> {
    let all = i64::from(time.year()) * 12 + i64::from(u8::from(time.month())) - 1;
    let all = all.checked_add(months)?;
    let year = i32::try_from(all.div_euclid(12)).ok()?;
    let month = Month::try_from(u8::try_from(all.rem_euclid(12) + 1).ok()?).ok()?;
    let day = time.day().min(month.length(year));
    Some(time.replace_date(Date::from_calendar_date(year, month, day).ok()?))
}

/// Reads the arguments of a difference: two times and a part.
fn ends(call: &Context<'_>) -> rusqlite::Result<Option<(OffsetDateTime, OffsetDateTime, String)>> {
    let (Some((left, _)), Some((right, _))) = (time_at(call, 0)?, time_at(call, 1)?) else {
        return Ok(None);
    };
    Ok(Some((left, right, call.get(2)?)))
}

/// Returns the number of whole lengths of a part between two timestamps.
fn lengths(call: &Context<'_>) -> FunctionResult {
    let Some((left, right, part)) = ends(call)? else { return Ok(None) };
    let length = length(&part).filter(|_| part != "WEEK").ok_or_else(|| unknown(&part))?;
    counted((left - right).whole_microseconds() / length.whole_microseconds())
}

/// Returns the number of borders of a part between two times without a zone.
fn borders(call: &Context<'_>) -> FunctionResult {
    let Some((left, right, part)) = ends(call)? else { return Ok(None) };
    let months =
        |time: OffsetDateTime| i64::from(time.year()) * 12 + i64::from(u8::from(time.month())) - 1;
    let between = |months_of_part: i64| {
        months(left).div_euclid(months_of_part) - months(right).div_euclid(months_of_part)
    };
    match part.as_str() {
        "MONTH" => Ok(Some(Sql::Integer(between(1)))),
        "QUARTER" => Ok(Some(Sql::Integer(between(3)))),
        "YEAR" => Ok(Some(Sql::Integer(between(12)))),
        part => {
            let unit = if part == "ISOWEEK" { "WEEK" } else { part };
            let length = length(unit).ok_or_else(|| unknown(part))?.whole_microseconds();
            let between = truncated(left, part)? - truncated(right, part)?;
            counted(between.whole_microseconds() / length)
        }
    }
}

fn counted(count: i128) -> FunctionResult {
    let count = i64::try_from(count).map_err(|_| failed("the difference is out of range"))?;
    Ok(Some(Sql::Integer(count)))
}

fn trunc(call: &Context<'_>) -> FunctionResult {
    let Some((time, kind)) = time_at(call, 0)? else { return Ok(None) };
    let part = call.get::<String>(1)?;
    Ok(Some(written(truncated(time, &part)?, kind)))
}

/// Returns the start of the part that a time is in.
fn truncated(time: OffsetDateTime, part: &str) -> rusqlite::Result<OffsetDateTime> {
    let date = time.date();
    let first = |date: Date, month: u8| {
        let month = Month::try_from(month).unwrap_or(Month::January);
        Date::from_calendar_date(date.year(), month, 1).unwrap_or(date)
    };
    let back = |days: u8| Some(date - Duration::days(days.into()));
    let date = match part {
        "WEEK" => back(date.weekday().number_days_from_sunday()),
        "ISOWEEK" => back(date.weekday().number_days_from_monday()),
        "MONTH" => Some(first(date, date.month().into())),
        "QUARTER" => Some(first(date, (u8::from(date.month()) - 1) / 3 * 3 + 1)),
        "YEAR" => Some(first(date, 1)),
        _ => None,
    };
    match date {
        Some(date) => Ok(date.midnight().assume_utc()),
        None => {
            let length = length(part).ok_or_else(|| unknown(part))?.whole_nanoseconds();
            let nanos = time.unix_timestamp_nanos().div_euclid(length) * length;
            OffsetDateTime::from_unix_timestamp_nanos(nanos)
                .map_err(|error| failed(error.to_string()))
        }
    }
}

pub(super) fn extract(call: &Context<'_>) -> FunctionResult {
    let Some((time, kind)) = time_at(call, 1)? else { return Ok(None) };
    let part = call.get::<String>(0)?;
    let number = match part.as_str() {
        "MICROSECOND" => i64::from(time.microsecond()),
        "MILLISECOND" => i64::from(time.millisecond()),
        "SECOND" => time.second().into(),
        "MINUTE" => time.minute().into(),
        "HOUR" => time.hour().into(),
        "DAY" => time.day().into(),
        "DAYOFWEEK" => i64::from(time.weekday().number_from_sunday()),
        "DAYOFYEAR" => time.ordinal().into(),
        "ISOWEEK" => time.iso_week().into(),
        "WEEK" => time.sunday_based_week().into(),
        "MONTH" => i64::from(u8::from(time.month())),
        "QUARTER" => i64::from((u8::from(time.month()) - 1) / 3 + 1),
        "YEAR" => time.year().into(),
        "DATE" if kind != FieldType::Time => return Ok(Some(text(write_date(time.date())))),
        other => return Err(unknown(other)),
    };
    Ok(Some(Sql::Integer(number)))
}

/// Reads numbers from the argument `at` on. Returns `None` if one of them is NULL.
fn numbers<const COUNT: usize>(
    call: &Context<'_>,
    at: usize,
) -> rusqlite::Result<Option<[i64; COUNT]>> {
    let mut numbers = [0; COUNT];
    for (index, number) in numbers.iter_mut().enumerate() {
        let Some(given) = call.get(at + index)? else { return Ok(None) };
        *number = given;
    }
    Ok(Some(numbers))
}

fn clock([hour, minute, second]: [i64; 3]) -> rusqlite::Result<Time> {
    let part = |number: i64| u8::try_from(number).unwrap_or(u8::MAX);
    Time::from_hms(part(hour), part(minute), part(second))
        .map_err(|error| failed(error.to_string()))
}

fn calendar_date([year, month, day]: [i64; 3]) -> rusqlite::Result<Date> {
    let wrong = |error: time::error::ComponentRange| failed(error.to_string());
    let month = Month::try_from(u8::try_from(month).unwrap_or(u8::MAX)).map_err(wrong)?;
    let (year, day) = (i32::try_from(year).unwrap_or(0), u8::try_from(day).unwrap_or(0));
    let date = Date::from_calendar_date(year, month, day).map_err(wrong)?;
    let is_known = super::super::value::is_known(date);
    is_known.then_some(date).ok_or_else(|| failed("the date is out of range"))
}

fn date(call: &Context<'_>) -> FunctionResult {
    match call.len() {
        1 => Ok(time_at(call, 0)?.map(|(time, _)| text(write_date(time.date())))),
        3 => numbers(call, 0)?
            .map(|parts| calendar_date(parts).map(|date| text(write_date(date))))
            .transpose(),
        _ => Err(arguments("DATE")),
    }
}

fn time(call: &Context<'_>) -> FunctionResult {
    match call.len() {
        1 => Ok(time_at(call, 0)?.map(|(time, _)| text(write_time(time.time())))),
        3 => numbers(call, 0)?
            .map(|parts| clock(parts).map(|time| text(write_time(time))))
            .transpose(),
        _ => Err(arguments("TIME")),
    }
}

fn datetime(call: &Context<'_>) -> FunctionResult {
    match call.len() {
        1 => Ok(time_at(call, 0)?.map(|(time, _)| text(write_datetime(time)))),
        2 => {
            let (Some((date, _)), Some((time, kind))) = (time_at(call, 0)?, time_at(call, 1)?)
            else {
                return Ok(None);
            };
            // The other form has a time zone.
            if kind != FieldType::Time {
                return Err(arguments("DATETIME"));
            }
            Ok(Some(text(write_datetime(date.replace_time(time.time())))))
        }
        6 => {
            let (Some(date), Some(time)) = (numbers(call, 0)?, numbers(call, 3)?) else {
                return Ok(None);
            };
            let datetime = calendar_date(date)?.with_time(clock(time)?);
            Ok(Some(text(write_datetime(datetime.assume_utc()))))
        }
        _ => Err(arguments("DATETIME")),
    }
}

fn arguments(name: &str) -> rusqlite::Error {
    failed(format!("this emulator does not support these arguments of {name}"))
}

fn from_unix(call: &Context<'_>, unit: i64) -> FunctionResult {
    let Some(number) = call.get::<Option<i64>>(0)? else { return Ok(None) };
    let nanos = i128::from(number) * i128::from(unit) * 1000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let time = time.filter(|time| super::super::value::is_known(time.date()));
    time.map(|time| Some(text(write_timestamp(time))))
        .ok_or_else(|| failed("the time is out of range"))
}

pub(super) fn unix(call: &Context<'_>, unit: i128) -> FunctionResult {
    let Some((time, _)) = time_at(call, 0)? else { return Ok(None) };
    let count = (time.unix_timestamp_nanos() / 1000).div_euclid(unit);
    Ok(Some(Sql::Integer(i64::try_from(count).map_err(|error| failed(error.to_string()))?)))
}

/// Formats a time by the pattern in the first argument. It supports the common elements.
fn format(call: &Context<'_>) -> FunctionResult {
    let (Some(pattern), Some((time, _))) = (call.get::<Option<String>>(0)?, time_at(call, 1)?)
    else {
        return Ok(None);
    };
    let mut written = String::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            written.push(char);
            continue;
        }
        let (date, clock) = (write_date(time.date()), write_time(time.time()));
        written.push_str(&match chars.next() {
            Some('F') => date,
            Some('T') => clock[..8].to_owned(),
            Some('Y') => date[..4].to_owned(),
            Some('y') => date[2..4].to_owned(),
            Some('m') => date[5..7].to_owned(),
            Some('d') => date[8..].to_owned(),
            Some('H') => clock[..2].to_owned(),
            Some('M') => clock[3..5].to_owned(),
            Some('S') => clock[6..8].to_owned(),
            Some('j') => format!("{:03}", time.ordinal()),
            Some('A') => time.weekday().to_string(),
            Some('a') => time.weekday().to_string()[..3].to_owned(),
            Some('B') => time.month().to_string(),
            Some('b') => time.month().to_string()[..3].to_owned(),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('s') => time.unix_timestamp().to_string(),
            Some('%') => "%".to_owned(),
            other => {
                let element = other.map(String::from).unwrap_or_default();
                return Err(failed(format!(
                    "this emulator does not support the format %{element}"
                )));
            }
        });
    }
    Ok(Some(text(written)))
}
