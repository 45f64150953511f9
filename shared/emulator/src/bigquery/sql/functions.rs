//! Functions of BigQuery that SQLite lacks, or that have another meaning there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::functions::Context;
use rusqlite::types::Value as Sql;
use serde_json::Value;

use super::super::schema::{FieldType, kind_named};
use super::super::value::exact_number;
use super::scalar::{Function, FunctionResult, add, convert, converted, failed, plain, text};
use super::{dates, numbers, strings};

/// Registers the functions, and sets names and patterns to BigQuery's rules.
pub(in super::super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    // A quoted name is never a text.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    let functions: [(&'static str, i32, Function); 24] = [
        ("JSON_VALUE", 2, |call| json_value(call)),
        ("JSON_QUERY", 2, |call| Ok(at(call)?.map(|value| text(value.to_string())))),
        ("ARRAY_LENGTH", 1, |call| Ok(list(call, 0)?.map(|list| integer(list.len())))),
        ("ARRAY_TO_STRING", -1, array_to_string),
        ("BQ_CAST", 4, cast),
        ("CONCAT", -1, concat),
        ("STARTS_WITH", 2, |call| compare(call, |text, part| text.starts_with(part))),
        ("ENDS_WITH", 2, |call| compare(call, |text, part| text.ends_with(part))),
        ("CONTAINS_SUBSTR", 2, |call| {
            compare(call, |text, part| text.to_lowercase().contains(&part.to_lowercase()))
        }),
        ("SPLIT", -1, split),
        ("SAFE_DIVIDE", 2, |call| {
            let (Some(left), Some(right)) =
                (call.get::<Option<f64>>(0)?, call.get::<Option<f64>>(1)?)
            else {
                return Ok(None);
            };
            Ok((right != 0.0).then(|| Sql::Real(left / right)))
        }),
        ("BQ_DIVISOR", 1, divisor),
        ("DIV", 2, |call| whole(call, i64::checked_div)),
        ("MOD", 2, |call| whole(call, i64::checked_rem)),
        ("TO_JSON_STRING", 1, |call| Ok(Some(text(json_of(call.get(0)?).to_string())))),
        ("TO_JSON", 1, |call| Ok(Some(text(json_of(call.get(0)?).to_string())))),
        ("PARSE_JSON", 1, |call| converted(call, FieldType::Json)),
        ("GENERATE_ARRAY", -1, generate_array),
        ("GENERATE_UUID", 0, |_| Ok(Some(text(uuid::Uuid::new_v4().to_string())))),
        ("UNIX_SECONDS", 1, |call| dates::unix(call, 1_000_000)),
        ("UNIX_MILLIS", 1, |call| dates::unix(call, 1_000)),
        ("UNIX_MICROS", 1, |call| dates::unix(call, 1)),
        ("UNIX_DATE", 1, |call| dates::unix(call, 86_400_000_000)),
        ("BQ_EXTRACT", 2, dates::extract),
    ];
    for (name, arguments, function) in functions {
        add(connection, name, arguments, function)?;
    }
    numbers::register(connection)?;
    strings::register(connection)?;
    dates::register(connection)
}

fn integer(number: usize) -> Sql {
    Sql::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Returns the value at the path in the second argument within the JSON of the first.
fn at(call: &Context<'_>) -> rusqlite::Result<Option<Value>> {
    let (Some(json), Some(path)) = (call.get::<Option<String>>(0)?, call.get::<Option<String>>(1)?)
    else {
        return Ok(None);
    };
    let Ok(json) = serde_json::from_str::<Value>(&json) else { return Ok(None) };
    let Some(pointer) = path.strip_prefix('$') else { return Ok(None) };
    let pointer = pointer.replace(['.', '['], "/").replace([']', '"', '\''], "");
    Ok(json.pointer(&pointer).cloned().filter(|value| !value.is_null()))
}

fn json_value(call: &Context<'_>) -> FunctionResult {
    Ok(at(call)?.and_then(|value| match value {
        Value::String(text) => Some(Sql::Text(text)),
        Value::Array(_) | Value::Object(_) => None,
        other => Some(text(other.to_string())),
    }))
}

fn list(call: &Context<'_>, at: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    let json = call.get::<Option<String>>(at)?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

fn array_to_string(call: &Context<'_>) -> FunctionResult {
    let (Some(list), Some(between)) = (list(call, 0)?, call.get::<Option<String>>(1)?) else {
        return Ok(None);
    };
    let words = list.into_iter().filter_map(|value| match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    });
    Ok(Some(text(words.collect::<Vec<_>>().join(&between))))
}

/// Casts a value. Its arguments are the value, the type, a flag, and the type of the value.
///
/// The flag makes a wrong value NULL. The type of the value is empty if it is not known.
fn cast(call: &Context<'_>) -> FunctionResult {
    let kind = kind_named(&call.get::<String>(1)?.to_ascii_uppercase());
    let kind = kind.ok_or_else(|| failed("unknown type"))?;
    let value = match (call.get::<Sql>(0)?, kind) {
        (Sql::Null, _) => return Ok(None),
        (Sql::Text(base64), FieldType::String) if call.get::<String>(3)? == "Bytes" => {
            let bytes = STANDARD.decode(base64).unwrap_or_default();
            match String::from_utf8(bytes) {
                Ok(text) => return Ok(Some(Sql::Text(text))),
                Err(_) if call.get::<bool>(2)? => return Ok(None),
                Err(_) => return Err(failed("Invalid cast of bytes to UTF8 string")),
            }
        }
        (Sql::Text(text), FieldType::Bytes) if call.get::<String>(3)? != "Bytes" => {
            STANDARD.encode(text).into()
        }
        (Sql::Integer(number), FieldType::String) if call.get::<String>(3)? == "Boolean" => {
            (number != 0).to_string().into()
        }
        (Sql::Real(number), FieldType::Numeric | FieldType::Bignumeric) => exact_number(number),
        (Sql::Real(number), FieldType::String) if call.get::<String>(3)? == "Numeric" => {
            exact_number(number)
        }
        // Whole numbers have no point.
        (Sql::Real(number), FieldType::String) if number.abs() < 1e15 => number.to_string().into(),
        (Sql::Real(number), FieldType::Integer) => (number.round() as i64).into(),
        (Sql::Text(time), FieldType::Date) => time.get(..10).unwrap_or(&time).into(),
        (Sql::Text(time), FieldType::Datetime | FieldType::Time) => {
            let time = time.trim_end_matches(" UTC").to_owned();
            if kind == FieldType::Time {
                time.rsplit([' ', 'T']).next().unwrap_or_default().into()
            } else {
                time.into()
            }
        }
        (Sql::Text(time), FieldType::String) if time.ends_with(" UTC") => {
            // A TIMESTAMP as text has its offset, and no trailing zeros.
            let digits = time.trim_end_matches(" UTC");
            let short = digits.strip_suffix(".000000").unwrap_or(digits.trim_end_matches('0'));
            format!("{short}+00").into()
        }
        (other, _) => plain(other),
    };
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match convert(kind, value) {
        Ok(stored) => Ok(Some(stored)),
        Err(_) if call.get::<bool>(2)? => Ok(None),
        Err(_) if kind == FieldType::Integer => Err(failed(format!("Bad int64 value: {shown}"))),
        Err(_) if kind == FieldType::Float => Err(failed(format!("Bad double value: {shown}"))),
        Err(why) => Err(failed(why)),
    }
}

/// Converts a value that may be a record or a list to JSON.
fn json_of(value: Sql) -> Value {
    match value {
        Sql::Text(text) if text.starts_with(['{', '[']) => {
            serde_json::from_str(&text).unwrap_or_else(|_| text.into())
        }
        other => plain(other),
    }
}

fn concat(call: &Context<'_>) -> FunctionResult {
    let mut joined = String::new();
    for at in 0..call.len() {
        match call.get::<Sql>(at)? {
            Sql::Null => return Ok(None),
            Sql::Integer(number) => joined.push_str(&number.to_string()),
            Sql::Real(number) => joined.push_str(&number.to_string()),
            Sql::Text(text) => joined.push_str(&text),
            Sql::Blob(bytes) => joined.push_str(&String::from_utf8_lossy(&bytes)),
        }
    }
    Ok(Some(text(joined)))
}

fn compare(call: &Context<'_>, holds: fn(&str, &str) -> bool) -> FunctionResult {
    let (Some(text), Some(part)) = (call.get::<Option<String>>(0)?, call.get::<Option<String>>(1)?)
    else {
        return Ok(None);
    };
    Ok(Some(Sql::Integer(holds(&text, &part).into())))
}

fn split(call: &Context<'_>) -> FunctionResult {
    let Some(whole) = call.get::<Option<String>>(0)? else { return Ok(None) };
    let between = if call.len() > 1 { call.get::<String>(1)? } else { ",".into() };
    let words: Vec<Value> = whole.split(&between).map(Value::from).collect();
    Ok(Some(text(Value::from(words).to_string())))
}

/// Returns the argument, unless it is 0.
fn divisor(call: &Context<'_>) -> FunctionResult {
    match call.get::<Sql>(0)? {
        Sql::Integer(0) | Sql::Real(0.0) => Err(failed("division by zero")),
        divisor => Ok(Some(divisor)),
    }
}

fn whole(call: &Context<'_>, divide: fn(i64, i64) -> Option<i64>) -> FunctionResult {
    let (Some(left), Some(right)) = (call.get::<Option<i64>>(0)?, call.get::<Option<i64>>(1)?)
    else {
        return Ok(None);
    };
    divide(left, right)
        .map(|number| Some(Sql::Integer(number)))
        .ok_or_else(|| failed(format!("division by zero: {left} / {right}")))
}

fn generate_array(call: &Context<'_>) -> FunctionResult {
    const MOST: i64 = 1_000_000;
    let (from, to) = (call.get::<i64>(0)?, call.get::<i64>(1)?);
    let step = if call.len() > 2 { call.get::<i64>(2)? } else { 1 };
    if step == 0 {
        return Err(failed("Sequence step cannot be 0."));
    }
    let (mut numbers, mut number) = (Vec::new(), from);
    while (step > 0 && number <= to) || (step < 0 && number >= to) {
        if numbers.len() as i64 >= MOST {
            return Err(failed("an array of more than a million numbers"));
        }
        numbers.push(Value::from(number));
        let Some(next) = number.checked_add(step) else { break };
        number = next;
    }
    Ok(Some(text(Value::from(numbers).to_string())))
}
