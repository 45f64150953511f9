//! Converts JSON values of rows to the form that SQLite stores, and back to cells of answers.
//!
//! Times are stored as text that sorts correctly, such as `2025-09-28 22:53:17.123456 UTC`. Exact
//! numbers, bytes (as base64), records and lists are also stored as text. Refusals use Google's
//! error texts.

mod bytes;
pub(super) mod default;
mod exact;
mod geography;
pub(super) mod interval;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value, json};
use time::format_description::FormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

pub(super) use self::exact::exact_number;
use self::exact::{BIGNUMERIC_DIGITS, NUMERIC_DIGITS, numeric, round};
use super::schema::{Field, FieldType, Mode, find};

const DATE: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[FormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:6]");
/// Reason why a row is refused: the field and the error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ValueError {
    pub location: String,
    pub message: String,
}

/// Returns the stored values of a row, in the order of `fields`.
pub(super) fn store_row(
    fields: &[Field],
    row: &Map<String, Value>,
    ignore_unknown: bool,
) -> Result<Vec<Sql>, ValueError> {
    check_unknown(fields, row, ignore_unknown, "")?;
    fields
        .iter()
        .map(|field| {
            let value = normal(field, lookup(row, &field.name), ignore_unknown, &field.name)?;
            Ok(to_sql(field, value))
        })
        .collect()
}

fn lookup<'a>(row: &'a Map<String, Value>, name: &str) -> &'a Value {
    lookup_given(row, name).unwrap_or(&Value::Null)
}

/// Returns the value of a field, if the row has the field.
fn lookup_given<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found = row.get(name);
    found.or_else(|| row.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

fn check_unknown(
    fields: &[Field],
    row: &Map<String, Value>,
    ignore: bool,
    path: &str,
) -> Result<(), ValueError> {
    match row.keys().find(|key| !ignore && find(fields, key).is_none()) {
        Some(key) => {
            let location = format!("{path}{key}").to_ascii_lowercase();
            Err(ValueError { message: format!("no such field: {location}."), location })
        }
        None => Ok(()),
    }
}

/// Converts the value of a field to its normal form.
fn normal(field: &Field, value: &Value, ignore: bool, path: &str) -> Result<Value, ValueError> {
    let fault = |message: String| Err(ValueError { location: path.to_owned(), message });
    match (field.mode, value) {
        (Mode::Required, Value::Null) => fault(format!("Missing required field: {path}.")),
        (Mode::Nullable, Value::Null) => Ok(Value::Null),
        (Mode::Repeated, Value::Null) => Ok(json!([])),
        (Mode::Repeated, Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::Null => fault(format!(
                    "Only optional fields can be set to NULL. Field: {path}; Value: NULL"
                )),
                item => one(field, item, ignore, path),
            })
            .collect(),
        // Google accepts a single value instead of a list of one.
        (Mode::Repeated, value) => Ok(json!([one(field, value, ignore, path)?])),
        (_, Value::Array(_)) => fault(format!("Array specified for non-repeated field: {path}.")),
        (_, value) => one(field, value, ignore, path),
    }
}

fn one(field: &Field, value: &Value, ignore: bool, path: &str) -> Result<Value, ValueError> {
    let normal = match (field.kind, value) {
        (FieldType::Record, Value::Object(row)) => {
            check_unknown(&field.fields, row, ignore, &format!("{path}."))?;
            let inner = field.fields.iter().map(|inner| {
                let path = format!("{path}.{}", inner.name);
                Ok((inner.name.clone(), normal(inner, lookup(row, &inner.name), ignore, &path)?))
            });
            return Ok(Value::Object(inner.collect::<Result<_, ValueError>>()?));
        }
        (FieldType::Range, Value::Object(ends)) => range(field, ends, path),
        (FieldType::Record, _) | (_, Value::Object(_)) => {
            Err(format!("This field: {path} is not a record."))
        }
        (_, Value::Array(_)) => Err(format!("Array specified for non-repeated field: {path}.")),
        (kind, value) => {
            scalar(kind, value, path).and_then(|value| within_limits(field, value, path))
        }
    };
    normal.map_err(|message| ValueError { location: path.to_owned(), message })
}

/// Builds a range from its ends. A missing end means unbounded.
fn range(field: &Field, ends: &Map<String, Value>, path: &str) -> Result<Value, String> {
    let kind = field.range_element().unwrap_or(FieldType::Timestamp);
    let end = |name: &str| match ends.get(name).unwrap_or(&Value::Null) {
        Value::Null => Ok(None),
        value => scalar(kind, value, path).map(|end| end.as_str().map(str::to_owned)),
    };
    let (start, end) = (end("start")?, end("end")?);
    // The text forms of times sort like the times.
    if start.as_ref().zip(end.as_ref()).is_some_and(|(start, end)| start >= end) {
        return Err(format!("Range start must be before its end. Field: {path}"));
    }
    let text = |end: Option<String>| end.unwrap_or_else(|| "UNBOUNDED".into());
    Ok(format!("[{}, {})", text(start), text(end)).into())
}

/// Checks a value against the parameters of its type.
fn within_limits(field: &Field, value: Value, path: &str) -> Result<Value, String> {
    let text = value.as_str().unwrap_or_default();
    let length = match field.kind {
        FieldType::String => text.chars().count(),
        FieldType::Bytes => STANDARD.decode(text).unwrap_or_default().len(),
        FieldType::Numeric | FieldType::Bignumeric => return within_digits(field, value, path),
        _ => return Ok(value),
    };
    match field.parameter("maxLength").filter(|most| length as u64 > *most) {
        Some(most) => Err(format!(
            "Field {path}: {:?}({most}) has maximum length {most} but got a value with length {length}",
            field.kind
        )),
        None => Ok(value),
    }
}

/// Checks the digits of an exact number, rounded to the scale of its type, half away from zero.
fn within_digits(field: &Field, value: Value, path: &str) -> Result<Value, String> {
    let (Some(precision), Some(text)) = (field.parameter("precision"), value.as_str()) else {
        return Ok(value);
    };
    let scale = field.parameter("scale").unwrap_or(0);
    let rounded = usize::try_from(scale).ok().map(|scale| round(text, scale));
    let rounded = rounded.unwrap_or_else(|| text.to_owned());
    let whole = rounded.trim_start_matches('-').split('.').next().unwrap_or_default();
    if whole.trim_start_matches('0').len() as u64 > precision - scale.min(precision) {
        return Err(format!(
            "Field {path}: {:?}({precision}, {scale}) has precision {precision} and scale {scale} but \
             got a value that is not in range: {text}",
            field.kind
        ));
    }
    Ok(rounded.into())
}

fn scalar(kind: FieldType, value: &Value, path: &str) -> Result<Value, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match kind {
        FieldType::String => Ok(text.into()),
        FieldType::Integer => match text.parse::<i64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => match text.parse::<f64>() {
                Ok(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                    Ok((number as i64).into())
                }
                _ => Err(format!("Cannot convert value to integer (bad value): {text}")),
            },
        },
        FieldType::Float => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number.into()),
            // JSON has no NaN or infinity.
            Ok(number) => Ok(number.to_string().into()),
            Err(_) => Err(format!("Cannot convert value to floating point (bad value): {text}")),
        },
        FieldType::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "1" => Ok(true.into()),
            "false" | "f" | "no" | "0" => Ok(false.into()),
            _ => Err(format!("Cannot convert value to boolean (bad value): {text}")),
        },
        FieldType::Bytes => match bytes::decode(&text) {
            Some(bytes) => Ok(STANDARD.encode(bytes).into()),
            None => Err(format!(
                "Could not decode base64 string to bytes. Field: {path}; Value: {text}"
            )),
        },
        FieldType::Json => match serde_json::from_str::<Value>(&text) {
            Ok(value) => Ok(value.to_string().into()),
            Err(error) => Err(format!("Invalid JSON value for field {path}: {error}")),
        },
        FieldType::Numeric => numeric(&text, NUMERIC_DIGITS)
            .ok_or_else(|| format!("Invalid NUMERIC value: {text} Field: {path}; Value: {text}")),
        FieldType::Bignumeric => numeric(&text, BIGNUMERIC_DIGITS).ok_or_else(|| {
            format!("Invalid BIGNUMERIC value: {text} Field: {path}; Value: {text}")
        }),
        FieldType::Timestamp | FieldType::Date | FieldType::Time | FieldType::Datetime => {
            time_scalar(kind, &text, value.is_number(), path)
        }
        FieldType::Geography => geography::normal(&text)
            .map(Value::from)
            .ok_or_else(|| format!("Invalid geography value for field {path}: {text}")),
        FieldType::Interval => interval::normal(&text)
            .map(Value::from)
            .ok_or_else(|| format!("Invalid INTERVAL value: {text} Field: {path}; Value: {text}")),
        FieldType::Range => Err(format!("Field {path}: a RANGE is an object with start and end")),
        FieldType::Record => Err(format!("This field: {path} is not a record.")),
    }
}

fn time_scalar(kind: FieldType, text: &str, is_number: bool, path: &str) -> Result<Value, String> {
    let fault = |what: &str| format!("Invalid {what} '{text}' Field: {path}; Value: {text}");
    let parsed = match kind {
        FieldType::Date => {
            Date::parse(text, DATE).ok().filter(|date| is_known(*date)).map(write_date)
        }
        FieldType::Time => parse_time(text).map(write_time),
        FieldType::Datetime => {
            let time = parse_datetime(text).map(PrimitiveDateTime::assume_utc);
            time.filter(|time| is_known(time.date())).map(write_datetime)
        }
        _ => {
            let time = timestamp(text, is_number).filter(|time| is_known(time.date()));
            time.map(write_timestamp)
        }
    };
    parsed.map(Value::from).ok_or_else(|| match kind {
        FieldType::Date => fault("date:"),
        FieldType::Time => fault("time string"),
        FieldType::Datetime => fault("datetime string"),
        _ => format!(
            "Could not parse '{text}' as a timestamp. Required format is YYYY-MM-DD \
             HH:MM[:SS[.SSSSSS]] or YYYY/MM/DD HH:MM[:SS[.SSSSSS]]"
        ),
    })
}

fn parse_time(text: &str) -> Option<Time> {
    const WHOLE: &[FormatItem<'_>] = format_description!("[hour]:[minute]:[second]");
    const PARTS: &[FormatItem<'_>] = format_description!("[hour]:[minute]:[second].[subsecond]");
    Time::parse(text, PARTS).or_else(|_| Time::parse(text, WHOLE)).ok()
}

fn parse_datetime(text: &str) -> Option<PrimitiveDateTime> {
    let text = text.replace('/', "-");
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((&text, "00:00:00"));
    let date = Date::parse(date, DATE).ok()?;
    let time = if time.len() == 5 { format!("{time}:00") } else { time.to_owned() };
    Some(PrimitiveDateTime::new(date, parse_time(&time)?))
}

fn timestamp(text: &str, is_number: bool) -> Option<OffsetDateTime> {
    if is_number {
        let micros = text.parse::<f64>().ok()? * 1e6;
        let nanos = (micros.round() as i128).checked_mul(1000)?;
        return OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    }
    if let Ok(time) = OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339) {
        // Unlike a change of the offset, this cannot leave the range of the type.
        return OffsetDateTime::from_unix_timestamp_nanos(time.unix_timestamp_nanos()).ok();
    }
    let local = text.trim_end_matches("UTC").trim_end_matches(['Z', 'z']).trim_end();
    Some(parse_datetime(local)?.assume_utc())
}

/// Returns true for a day that BigQuery supports: 0001-01-01 to 9999-12-31.
pub(super) fn is_known(date: Date) -> bool {
    (1..=9999).contains(&date.year())
}

/// Returns the text that SQLite stores. It sorts in the order of time.
pub(super) fn write_timestamp(time: OffsetDateTime) -> String {
    format!("{} {} UTC", write_date(time.date()), write_time(time.time()))
}

pub(super) fn write_datetime(time: OffsetDateTime) -> String {
    format!("{}T{}", write_date(time.date()), write_time(time.time()))
}

pub(super) fn write_date(date: Date) -> String {
    date.format(DATE).unwrap_or_default()
}

pub(super) fn write_time(time: Time) -> String {
    time.format(TIME).unwrap_or_default()
}

fn to_sql(field: &Field, value: Value) -> Sql {
    match value {
        Value::Null => Sql::Null,
        Value::Bool(value) => Sql::Integer(value.into()),
        Value::Number(number) if field.kind == FieldType::Integer => {
            Sql::Integer(number.as_i64().unwrap_or_default())
        }
        Value::Number(number) => Sql::Real(number.as_f64().unwrap_or_default()),
        Value::String(text) => Sql::Text(text),
        nested @ (Value::Array(_) | Value::Object(_)) => Sql::Text(nested.to_string()),
    }
}

/// Returns the cell of a column in an answer: `{"v": ...}`.
pub(super) fn cell(field: &Field, stored: &Sql) -> Value {
    let value = match stored {
        Sql::Null => Value::Null,
        Sql::Integer(number) if field.kind == FieldType::Boolean => (*number != 0).into(),
        Sql::Integer(number) => (*number).into(),
        Sql::Real(number) => (*number).into(),
        Sql::Text(text) if field.mode == Mode::Repeated || field.kind == FieldType::Record => {
            serde_json::from_str(text).unwrap_or(Value::Null)
        }
        Sql::Text(text) => text.clone().into(),
        Sql::Blob(bytes) => STANDARD.encode(bytes).into(),
    };
    json!({ "v": cell_value(field, &value) })
}

fn cell_value(field: &Field, value: &Value) -> Value {
    if let (Mode::Repeated, Value::Array(items)) = (field.mode, value) {
        return items.iter().map(|item| json!({ "v": one_cell(field, item) })).collect();
    }
    one_cell(field, value)
}

fn one_cell(field: &Field, value: &Value) -> Value {
    match (field.kind, value) {
        (_, Value::Null) => Value::Null,
        (FieldType::Record, Value::Object(row)) => {
            let cells = field.fields.iter().map(|inner| {
                json!({ "v": cell_value(inner, row.get(&inner.name).unwrap_or(&Value::Null)) })
            });
            json!({ "f": cells.collect::<Vec<_>>() })
        }
        (FieldType::Timestamp, Value::String(text)) => match timestamp(text, false) {
            Some(time) => {
                let micros = time.unix_timestamp_nanos() / 1000;
                let sign = if micros < 0 { "-" } else { "" };
                let micros = micros.unsigned_abs();
                format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000).into()
            }
            None => text.clone().into(),
        },
        // SQLite has no BOOL, so the lists and records that it builds hold numbers.
        (FieldType::Boolean, Value::Number(number)) => {
            (number.as_f64() != Some(0.0)).to_string().into()
        }
        (FieldType::Numeric | FieldType::Bignumeric, Value::Number(number)) if number.is_f64() => {
            exact_number(number.as_f64().unwrap_or_default())
        }
        (_, Value::String(text)) => text.clone().into(),
        (_, other) => other.to_string().into(),
    }
}
