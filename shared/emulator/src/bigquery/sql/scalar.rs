//! Scalar functions of SQLite: how they are registered, and how they convert values.

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value};

use super::super::schema::{Field, FieldType, new_field};
use super::super::value;

/// Result of a function.
pub(super) type FunctionResult = rusqlite::Result<Option<Sql>>;
/// A function that SQLite calls.
pub(super) type Function = fn(&Context<'_>) -> FunctionResult;

/// Registers a function.
pub(super) fn add(
    connection: &Connection,
    name: &str,
    arguments: i32,
    function: Function,
) -> rusqlite::Result<()> {
    let mut flags = FunctionFlags::SQLITE_UTF8;
    if name != "GENERATE_UUID" {
        flags |= FunctionFlags::SQLITE_DETERMINISTIC;
    }
    connection.create_scalar_function(name, arguments, flags, function)
}

/// Builds the error of a function.
pub(super) fn failed(message: impl Into<String>) -> rusqlite::Error {
    rusqlite::Error::UserFunctionError(message.into().into())
}

/// Returns a text as a value.
pub(super) fn text(text: String) -> Sql {
    Sql::Text(text)
}

/// Converts the argument to the stored form of a type.
pub(super) fn converted(call: &Context<'_>, kind: FieldType) -> FunctionResult {
    match call.get::<Sql>(0)? {
        Sql::Null => Ok(None),
        value => convert(kind, plain(value)).map(Some).map_err(failed),
    }
}

/// Converts a scalar value to JSON.
pub(super) fn plain(value: Sql) -> Value {
    match value {
        Sql::Null => Value::Null,
        Sql::Integer(number) => number.into(),
        Sql::Real(number) => number.into(),
        Sql::Text(text) => text.into(),
        Sql::Blob(bytes) => String::from_utf8_lossy(&bytes).into(),
    }
}

/// Converts a value to the stored form of the type.
pub(super) fn convert(kind: FieldType, value: Value) -> Result<Sql, String> {
    let value = match value {
        // An offset with hours only.
        Value::String(text)
            if kind == FieldType::Timestamp
                && text.len() > 16
                && matches!(text.as_bytes()[text.len() - 3], b'+' | b'-') =>
        {
            format!("{text}:00").into()
        }
        other => other,
    };
    let field: Field = new_field("value", kind);
    let row = Map::from_iter([("value".to_owned(), value)]);
    let mut stored = value::store_row(&[field], &row, false).map_err(|fault| fault.message)?;
    Ok(stored.pop().unwrap_or(Sql::Null))
}
