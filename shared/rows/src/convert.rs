//! Converts JSON values to cells. A value is converted by these rules, or refused.
//!
//! | type | from |
//! |---|---|
//! | any | `null`, or no value at all: NULL; an empty list for a repeated column; refused for a required one |
//! | STRING | text; a number or a boolean in its JSON form |
//! | STRING(n), BYTES(n) | the same, up to n characters or bytes |
//! | INT64 | a whole number of 64 bits; the same as text; a number such as `5.0` up to 2⁵³ |
//! | FLOAT64 | a number, rounded to 64 bits, but none that would become infinite or zero by that; the same as text; `NaN`, `Infinity` and `-Infinity` |
//! | BOOL | `true`, `false`; the same as text |
//! | NUMERIC, BIGNUMERIC | a number or text with no more digits than the type holds: nothing is rounded |
//! | NUMERIC(p,s), BIGNUMERIC(p,s) | the same, up to s digits behind the point and p - s before it |
//! | BYTES | base64, standard or URL-safe |
//! | TIMESTAMP | RFC 3339 to the microsecond, finer digits are cut; epoch seconds, or milliseconds from 10¹¹ on, rounded to the microsecond; years 1 to 9999 in UTC |
//! | DATE | `2025-06-15`; years 1 to 9999 |
//! | TIME | `10:30:00`, `10:30:00.123456` |
//! | DATETIME | a date and a time with `T` or a space between, without a zone; years 1 to 9999 |
//! | JSON | anything |
//! | GEOGRAPHY | text in WKT; GeoJSON as text or as an object |
//! | INTERVAL | text in the canonical form, such as `1-2 3 4:5:6.789`, or in that of ISO 8601 |
//! | RANGE | an object with `start` and `end`, or text such as `[2025-06-15, UNBOUNDED)`; an end that is missing, `null` or `UNBOUNDED` is no bound; the start must be before the end |
//! | RECORD | an object; what its fields do not take goes to the rest column |
//! | repeated | a list without `null` in it |
//!
//! A number of a payload that 64 bits cannot hold becomes text with the same digits: see
//! [`message::json::parse`].

mod geography;
mod interval;
mod number;

use arrow_buffer::i256;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use message::json::wide_number;
use pipeline::Reason;
use serde_json::Value;
use time::format_description::FormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

use crate::cell::Cell;
use crate::column::{Column, Element, Kind, Mode, Type};
use crate::reasons;

const DATE: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[FormatItem<'_>] = format_description!("[hour]:[minute]:[second]");
const FINE_TIME: &[FormatItem<'_>] = format_description!("[hour]:[minute]:[second].[subsecond]");
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);
/// Smallest number that is read as milliseconds; smaller ones are seconds. Ingestion reads event
/// times in the same way.
const FIRST_MILLISECONDS: f64 = 1e11;
/// End of the numbers that are read as times if they have more digits than 64 bits hold. It is in
/// the year 2286. A larger number is rather a date such as `20250615103000.123456`.
const WIDE_TIME_END: f64 = 1e13;
/// Maximum characters of a value in an error.
const MAX_SHOWN: usize = 100;

/// Error for a value that does not fit its column.
#[derive(Debug, PartialEq, Eq)]
pub struct ConversionError {
    /// Either `row_type_mismatch` or `row_missing_value`.
    pub reason: Reason,
    /// Path of the column, with dots between the levels.
    pub column: String,
    /// Expected type or values.
    pub expected: String,
    /// Actual value, possibly shortened.
    pub actual: String,
}

/// Converts a value to the cell of a column.
///
/// # Errors
/// For a value that does not fit, and for a required value that is missing.
pub fn convert(column: &Column, value: Option<&Value>) -> Result<Cell, ConversionError> {
    let expected = |what: &str| format!("{what} {}", column.data_type);
    let error = |expected: String, value: &Value| ConversionError {
        reason: reasons::ROW_TYPE_MISMATCH,
        column: column.name.clone(),
        expected,
        actual: show(value),
    };
    match (column.mode, value) {
        (Mode::Required, None | Some(Value::Null)) => Err(ConversionError {
            reason: reasons::ROW_MISSING_VALUE,
            column: column.name.clone(),
            expected: expected("required"),
            actual: "nothing".into(),
        }),
        (Mode::Nullable, None | Some(Value::Null)) => Ok(Cell::Null),
        (Mode::Repeated, None | Some(Value::Null)) => Ok(Cell::List(Vec::new())),
        (Mode::Repeated, Some(Value::Array(items))) => {
            let cells = items.iter().map(|item| match item {
                Value::Null => Err(error(expected("a list without null of"), item)),
                item => one(column, item),
            });
            Ok(Cell::List(cells.collect::<Result<_, _>>()?))
        }
        (Mode::Repeated, Some(value)) => Err(error(expected("a list of"), value)),
        (Mode::Nullable | Mode::Required, Some(value)) => one(column, value),
    }
}

fn one(column: &Column, value: &Value) -> Result<Cell, ConversionError> {
    if let (Kind::Record, Value::Object(map)) = (column.kind(), value) {
        let cells = column.fields.iter().map(|field| {
            convert(field, map.get(&field.name)).map_err(|inner| ConversionError {
                column: format!("{}.{}", column.name, inner.column),
                ..inner
            })
        });
        return Ok(Cell::Record(cells.collect::<Result<_, _>>()?));
    }
    let cell = scalar(column.kind(), value).filter(|cell| cell.fits_one(column));
    cell.ok_or_else(|| ConversionError {
        reason: reasons::ROW_TYPE_MISMATCH,
        column: column.name.clone(),
        expected: expected(column.data_type),
        actual: show(value),
    })
}

/// Describes a type, with its range if it has one.
pub fn expected(data_type: impl Into<Type>) -> String {
    let data_type = data_type.into();
    let range = match data_type.kind {
        Kind::Timestamp => " from 0001-01-01 00:00:00 to 9999-12-31 23:59:59.999999 UTC",
        Kind::Datetime => " from 0001-01-01 00:00:00 to 9999-12-31 23:59:59.999999",
        Kind::Date => " from 0001-01-01 to 9999-12-31",
        Kind::Geography => " in WKT or GeoJSON",
        Kind::Interval => " such as 1-2 3 4:5:6.789 or P1Y2M3DT4H5M6.789S",
        Kind::Range(_) => " with its start before its end",
        _ => "",
    };
    format!("{data_type}{range}")
}

fn scalar(kind: Kind, value: &Value) -> Option<Cell> {
    let text = match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    };
    match kind {
        Kind::Json => Some(Cell::Text(value.to_string())),
        Kind::String => match value {
            Value::String(text) => Some(Cell::Text(text.clone())),
            Value::Number(_) | Value::Bool(_) => Some(Cell::Text(value.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        },
        Kind::Int64 => number::integer(value).map(Cell::Int),
        Kind::Float64 => number::float(value).map(Cell::Float),
        Kind::Bool => match value {
            Value::Bool(value) => Some(Cell::Bool(*value)),
            _ => text?.to_ascii_lowercase().parse().ok().map(Cell::Bool),
        },
        Kind::Numeric => number::decimal(value, 29, 9)?.parse().ok().map(Cell::Numeric),
        Kind::Bignumeric => {
            i256::from_string(&number::decimal(value, 38, 38)?).map(Cell::Bignumeric)
        }
        Kind::Bytes => {
            let text = text?;
            let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
            bytes.ok().map(|bytes| Cell::Bytes(bytes.into()))
        }
        Kind::Timestamp => timestamp(value).map(Cell::from),
        Kind::Date => Date::parse(text?, DATE).ok().map(|date| Cell::Days(days(date))),
        Kind::Time => time_of_day(text?).map(|time| Cell::TimeOfDay(micros_of(time))),
        Kind::Datetime => {
            let (date, time) = text?.split_once(['T', ' '])?;
            let date = Date::parse(date, DATE).ok()?;
            let datetime = PrimitiveDateTime::new(date, time_of_day(time)?);
            Some(datetime.assume_utc().into())
        }
        Kind::Geography => geography::text(value).map(Cell::Text),
        Kind::Interval => interval::canonical(text?).map(Cell::Text),
        Kind::Range(element) => range(element, value),
        Kind::Record => None,
    }
}

/// Converts an object with the two ends, or a text, to a range.
fn range(element: Element, value: &Value) -> Option<Cell> {
    let ends = match value {
        Value::Object(ends) => {
            let is_known = ends.keys().all(|key| key == "start" || key == "end");
            let end = |key: &str| ends.get(key).cloned().unwrap_or_default();
            is_known.then(|| [end("start"), end("end")])?
        }
        Value::String(text) => {
            let (start, end) = text.trim().strip_prefix('[')?.strip_suffix(')')?.split_once(',')?;
            [start, end].map(|end| Value::from(end.trim()))
        }
        _ => return None,
    };
    let one = |end: Value| match &end {
        Value::Null => Some(Cell::Null),
        Value::String(text)
            if ["UNBOUNDED", "NULL"].iter().any(|no| text.eq_ignore_ascii_case(no)) =>
        {
            Some(Cell::Null)
        }
        end => scalar(element.kind(), end),
    };
    let [start, end] = ends;
    Some(Cell::Record(vec![one(start)?, one(end)?]))
}

fn timestamp(value: &Value) -> Option<OffsetDateTime> {
    match value {
        Value::String(text) => {
            if let Some(number) = wide_number(text) {
                return (number.abs() < WIDE_TIME_END).then(|| epoch_time(number)).flatten();
            }
            let text = text.strip_suffix(" UTC").map_or(text.clone(), |text| format!("{text}Z"));
            OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339).ok()
        }
        Value::Number(number) => epoch_time(number.as_f64()?),
        _ => None,
    }
}

/// Returns the time of epoch seconds or milliseconds.
fn epoch_time(number: f64) -> Option<OffsetDateTime> {
    let seconds = if number.abs() < FIRST_MILLISECONDS { number } else { number / 1000.0 };
    let nanos = ((seconds * 1e6).round() as i128).checked_mul(1000)?;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

/// Returns the days since 1970-01-01. All years of the type fit into 32 bits.
pub(crate) fn days(date: Date) -> i32 {
    date.to_julian_day() - OffsetDateTime::UNIX_EPOCH.date().to_julian_day()
}

fn time_of_day(text: &str) -> Option<Time> {
    Time::parse(text, FINE_TIME).or_else(|_| Time::parse(text, TIME)).ok()
}

/// Returns the microseconds since midnight.
pub(crate) fn micros_of(time: Time) -> i64 {
    let (hour, minute, second, micro) = time.as_hms_micro();
    let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second);
    seconds * 1_000_000 + i64::from(micro)
}

/// Describes a value by its kind and its text, short enough for an error.
fn show(value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    let text: String = value.to_string().chars().take(MAX_SHOWN).collect();
    format!("{kind} {text}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cell(kind: Kind, value: Value) -> Option<Cell> {
        convert(&Column::new("c", kind), Some(&value)).ok()
    }

    #[test]
    fn whole_numbers_keep_all_64_bits() {
        assert_eq!(cell(Kind::Int64, json!(i64::MAX)), Some(Cell::Int(i64::MAX)));
        assert_eq!(cell(Kind::Int64, json!(i64::MIN.to_string())), Some(Cell::Int(i64::MIN)));
        assert_eq!(cell(Kind::Int64, json!(5.0)), Some(Cell::Int(5)));
        for refused in [json!(5.5), json!(u64::MAX), json!("5.0"), json!(true), json!(1e300)] {
            assert_eq!(cell(Kind::Int64, refused.clone()), None, "{refused}");
        }
    }

    #[test]
    fn numbers_keep_every_digit() {
        let read = |digits: &str| message::json::parse(digits.as_bytes()).unwrap();
        for digits in ["89490200001234567890", "1234567890123456.789"] {
            assert_eq!(cell(Kind::String, read(digits)), Some(digits.into()));
            assert_eq!(
                cell(Kind::Json, read(digits)),
                Some(format!("\"{digits}\"").as_str().into())
            );
        }
        let numeric = |digits: &str| cell(Kind::Numeric, read(digits));
        let units = |units: i128| Some(Cell::Numeric(units));
        assert_eq!(numeric("89490200001234567890"), units(89_490_200_001_234_567_890_000_000_000));
        assert_eq!(numeric("1234567890123456.789"), units(1_234_567_890_123_456_789_000_000));
        // The 64-bit float 0.1, as C prints it.
        assert_eq!(numeric("0.10000000000000001"), units(100_000_000));
        assert_eq!(cell(Kind::Int64, read("89490200001234567890")), None);
        // `date +%s.%N`, and the same in milliseconds.
        for digits in ["1749981600.500000123", "1749981600500.000123456"] {
            let micros = Some(Cell::Micros(1_749_981_600_500_000));
            assert_eq!(cell(Kind::Timestamp, read(digits)), micros, "{digits}");
        }
        assert_eq!(cell(Kind::Timestamp, json!("1749981600.5")), None, "a text is no epoch time");
        for other in ["1e400", "20250615103000.123456"] {
            assert_eq!(cell(Kind::Timestamp, json!(other)), None, "{other}");
        }
        let point = |digits| read(&format!(r#"{{"type":"Point","coordinates":[{digits},52.5]}}"#));
        let written = cell(Kind::Geography, point("13.404953999999998888"));
        assert_eq!(written, cell(Kind::Geography, point("13.404953999999999")));
    }

    #[test]
    fn booleans_come_as_such_and_as_text() {
        for (value, expected) in [
            (json!(true), Some(true)),
            (json!(false), Some(false)),
            (json!("True"), Some(true)),
            (json!("false"), Some(false)),
            (json!("yes"), None),
            (json!(1), None),
        ] {
            assert_eq!(cell(Kind::Bool, value.clone()), expected.map(Cell::Bool), "{value}");
        }
    }

    #[test]
    fn numbers_of_absurd_length_are_refused() {
        let zeros = |count| format!("0.{}", "0".repeat(count));
        let zero = Some(Cell::Numeric(0));

        for taken in [zeros(199), "0e200".into()] {
            assert_eq!(cell(Kind::Numeric, json!(taken)), zero, "{taken}");
        }
        for refused in [zeros(200), "0e201".into(), "1e29".into()] {
            assert_eq!(cell(Kind::Numeric, json!(refused)), None, "{refused}");
        }
    }

    #[test]
    fn exact_numbers_are_never_rounded() {
        let numeric = |value| match cell(Kind::Numeric, value) {
            Some(Cell::Numeric(units)) => Some(units),
            _ => None,
        };

        assert_eq!(numeric(json!("1.5")), Some(1_500_000_000));
        assert_eq!(numeric(json!(-0.1)), Some(-100_000_000));
        assert_eq!(numeric(json!("1e3")), Some(1_000_000_000_000));
        assert_eq!(numeric(json!("100e-11")), Some(1));
        assert_eq!(numeric(json!("-0")), Some(0));
        assert_eq!(
            numeric(json!("9".repeat(29))),
            "9".repeat(29).parse().ok().map(|n: i128| n * 1_000_000_000)
        );
        for refused in [
            "0.0000000001",
            &"9".repeat(30),
            "x",
            "",
            "1e",
            "--1",
            "1e99999",
            "1e-2147483648",
            "1e2147483647",
        ] {
            assert_eq!(numeric(json!(refused)), None, "{refused}");
        }
        assert!(cell(Kind::Bignumeric, json!(format!("0.{}1", "0".repeat(37)))).is_some());
        assert!(cell(Kind::Bignumeric, json!(format!("0.{}1", "0".repeat(38)))).is_none());
    }

    #[test]
    fn times_come_in_their_written_forms() {
        let micros = Some(Cell::Micros(1_749_981_600_500_000));
        assert_eq!(cell(Kind::Timestamp, json!("2025-06-15T12:00:00.5+02:00")), micros);
        assert_eq!(cell(Kind::Timestamp, json!("2025-06-15 10:00:00.5 UTC")), micros);
        assert_eq!(cell(Kind::Timestamp, json!(1_749_981_600.5)), micros);
        assert_eq!(cell(Kind::Timestamp, json!(1_749_981_600_500_i64)), micros);
        assert_eq!(cell(Kind::Datetime, json!("2025-06-15T10:00:00.5")), micros);
        assert_eq!(cell(Kind::Timestamp, json!(-1.5)), Some(Cell::Micros(-1_500_000)));
        assert_eq!(cell(Kind::Date, json!("1970-01-02")), Some(Cell::Days(1)));
        assert_eq!(cell(Kind::Date, json!("1969-12-30")), Some(Cell::Days(-2)));
        assert_eq!(cell(Kind::Time, json!("00:00:01.5")), Some(Cell::TimeOfDay(1_500_000)));
        for refused in [json!("yesterday"), json!("2025-06-15"), json!(1e30), json!(true)] {
            assert_eq!(cell(Kind::Timestamp, refused.clone()), None, "{refused}");
        }
        assert_eq!(cell(Kind::Date, json!("2025-02-30")), None);
        assert_eq!(cell(Kind::Datetime, json!("2025-06-15T10:00:00Z")), None);
    }

    #[test]
    fn times_out_of_range_are_refused_with_the_range() {
        let timestamp = Column::new("t", Kind::Timestamp);
        for (time, micros) in [
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59.999999999Z", 253_402_300_799_999_999),
            ("9999-12-31T22:59:59-01:00", 253_402_300_799_000_000),
        ] {
            assert_eq!(convert(&timestamp, Some(&json!(time))), Ok(Cell::Micros(micros)), "{time}");
        }
        for time in [
            json!("9999-12-31T23:59:59-01:00"),
            json!("0000-01-01T00:00:00+23:59"),
            json!("0001-01-01T00:00:00+00:01"),
            json!("0000-12-31T23:59:59.9999999Z"),
            json!(-62_135_596_801_000_i64),
            json!(253_402_300_800_000_i64),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(f64::MAX),
        ] {
            let error = convert(&timestamp, Some(&time)).unwrap_err();
            assert_eq!(error.reason, reasons::ROW_TYPE_MISMATCH, "{time}");
            assert!(error.expected.contains("to 9999-12-31 23:59:59.999999 UTC"), "{time}");
        }
        for (kind, refused, last) in [
            (Kind::Date, json!("0000-12-31"), "to 9999-12-31"),
            (Kind::Date, json!("-0001-01-01"), "to 9999-12-31"),
            (Kind::Datetime, json!("0000-12-31T23:59:59"), "to 9999-12-31 23:59:59.999999"),
            (Kind::Datetime, json!("-0001-12-31 00:00:00"), "to 9999-12-31 23:59:59.999999"),
        ] {
            let error = convert(&Column::new("t", kind), Some(&refused)).unwrap_err();
            assert!(error.expected.ends_with(last), "{refused}: {}", error.expected);
        }
        assert_eq!(cell(Kind::Date, json!("0001-01-01")), Some(Cell::Days(-719_162)));
        assert_eq!(cell(Kind::Date, json!("9999-12-31")), Some(Cell::Days(2_932_896)));
    }

    #[test]
    fn large_numbers_are_milliseconds() {
        let last_second = Some(Cell::Micros(99_999_999_999_000_000));

        assert_eq!(cell(Kind::Timestamp, json!(99_999_999_999_i64)), last_second);
        assert_eq!(
            cell(Kind::Timestamp, json!(100_000_000_000_i64)),
            Some(Cell::Micros(100_000_000_000_000))
        );
    }

    #[test]
    fn a_time_of_day_counts_from_midnight() {
        let expected = ((13 * 60 + 14) * 60 + 15) * 1_000_000 + 16_017;

        assert_eq!(cell(Kind::Time, json!("13:14:15.016017")), Some(Cell::TimeOfDay(expected)));
    }

    #[test]
    fn a_misfit_names_column_expected_and_actual() {
        let place = Column::record("place", vec![Column::new("floor", Kind::Int64)]);

        let error = convert(&place, Some(&json!({ "floor": "third" }))).unwrap_err();

        assert_eq!(error.column, "place.floor");
        assert_eq!(error.expected, "INT64");
        assert_eq!(error.actual, "text \"third\"");
    }

    #[test]
    fn modes_decide_on_what_is_missing() {
        let column = |mode| Column::new("c", Kind::Int64).with_mode(mode);
        let list = Some(json!([1, "2"]));

        assert_eq!(convert(&column(Mode::Nullable), None), Ok(Cell::Null));
        assert_eq!(convert(&column(Mode::Repeated), None), Ok(Cell::List(Vec::new())));
        let cells = Cell::List(vec![Cell::Int(1), Cell::Int(2)]);
        assert_eq!(convert(&column(Mode::Repeated), list.as_ref()), Ok(cells));
        assert!(convert(&column(Mode::Repeated), Some(&json!([null]))).is_err());
        assert!(convert(&column(Mode::Repeated), Some(&json!(1))).is_err());
        assert!(convert(&column(Mode::Nullable), list.as_ref()).is_err());
        let missing = convert(&column(Mode::Required), None).unwrap_err();
        assert_eq!(missing.reason, reasons::ROW_MISSING_VALUE);
    }
}
