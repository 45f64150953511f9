//! Types of columns in PostgreSQL, and the form in which a statement takes their values.
//!
//! | type | in PostgreSQL |
//! |---|---|
//! | STRING, STRING(n) | `text`, `varchar(n)` |
//! | INT64, FLOAT64, BOOL, BYTES | `bigint`, `double precision`, `boolean`, `bytea` |
//! | TIMESTAMP, DATETIME, DATE, TIME | `timestamptz`, `timestamp`, `date`, `time` |
//! | NUMERIC, BIGNUMERIC | `numeric(38,9)`, `numeric(76,38)`, or with the given digits |
//! | JSON, RECORD, a list of RECORD | `jsonb` |
//! | GEOGRAPHY | `text` |
//! | INTERVAL | `interval` |
//! | `RANGE<DATE>`, `RANGE<DATETIME>`, `RANGE<TIMESTAMP>` | `daterange`, `tsrange`, `tstzrange` |
//! | repeated | an array of the type |
//!
//! Most values travel in PostgreSQL's binary form. The others travel as text, and the statement
//! casts them.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use rows::cell::Cell;
use rows::column::{Column, Element, Kind, Limit, Mode};
use rows::json;
use serde_json::Value;

/// Longest `varchar` of PostgreSQL. A longer STRING becomes `text`.
const MAX_VARCHAR: u64 = 10_485_760;
/// Microseconds from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
/// First byte of a `jsonb` in its binary form: the version.
const JSONB_VERSION: u8 = 1;

/// Type of a column in PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlType {
    /// Name, as `format_type` of PostgreSQL writes it.
    pub name: String,
    /// Form of the values in a statement.
    pub(crate) parameter: Parameter,
    /// Type that a statement casts its values to, if they travel as text.
    pub(crate) cast: Option<String>,
}

/// Type of the values of a column in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    Bool,
    Bytea,
    Int8,
    Text,
    Float8,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Jsonb,
}

impl Parameter {
    /// Returns the name of the type in SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Bytea => "bytea",
            Self::Int8 => "int8",
            Self::Text => "text",
            Self::Float8 => "float8",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::Jsonb => "jsonb",
        }
    }

    /// Returns the id of the type: <https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat>.
    pub(crate) fn oid(self) -> u32 {
        match self {
            Self::Bool => 16,
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Text => 25,
            Self::Float8 => 701,
            Self::Date => 1082,
            Self::Time => 1083,
            Self::Timestamp => 1114,
            Self::Timestamptz => 1184,
            Self::Jsonb => 3802,
        }
    }
}

impl SqlType {
    /// Returns the type of a column.
    #[must_use]
    pub fn of(column: &Column) -> Self {
        let name = scalar_name(column);
        let is_list = column.mode == Mode::Repeated;
        if is_list && column.kind() != Kind::Record {
            let cast = format!("{}[]", without_parameters(&name));
            return Self {
                name: format!("{name}[]"),
                parameter: Parameter::Text,
                cast: Some(cast),
            };
        }
        let parameter = match column.kind() {
            Kind::String | Kind::Geography => Parameter::Text,
            Kind::Bytes => Parameter::Bytea,
            Kind::Int64 => Parameter::Int8,
            Kind::Float64 => Parameter::Float8,
            Kind::Bool => Parameter::Bool,
            Kind::Timestamp => Parameter::Timestamptz,
            Kind::Date => Parameter::Date,
            Kind::Time => Parameter::Time,
            Kind::Datetime => Parameter::Timestamp,
            Kind::Json | Kind::Record => Parameter::Jsonb,
            Kind::Numeric | Kind::Bignumeric | Kind::Interval | Kind::Range(_) => {
                let cast = Some(without_parameters(&name).to_owned());
                return Self { name, parameter: Parameter::Text, cast };
            }
        };
        Self { name, parameter, cast: None }
    }
}

/// Returns the name of a type without its list.
fn scalar_name(column: &Column) -> String {
    let name = match (column.kind(), column.data_type.limit) {
        (Kind::String, Limit::Length(length)) if length <= MAX_VARCHAR => {
            return format!("character varying({length})");
        }
        (Kind::Numeric | Kind::Bignumeric, Limit::Digits { precision, scale }) => {
            return format!("numeric({precision},{scale})");
        }
        (Kind::String | Kind::Geography, _) => "text",
        (Kind::Bytes, _) => "bytea",
        (Kind::Int64, _) => "bigint",
        (Kind::Float64, _) => "double precision",
        (Kind::Bool, _) => "boolean",
        (Kind::Timestamp, _) => "timestamp with time zone",
        (Kind::Date, _) => "date",
        (Kind::Time, _) => "time without time zone",
        (Kind::Datetime, _) => "timestamp without time zone",
        (Kind::Numeric, _) => "numeric(38,9)",
        (Kind::Bignumeric, _) => "numeric(76,38)",
        (Kind::Json | Kind::Record, _) => "jsonb",
        (Kind::Interval, _) => "interval",
        (Kind::Range(Element::Date), _) => "daterange",
        (Kind::Range(Element::Datetime), _) => "tsrange",
        (Kind::Range(Element::Timestamp), _) => "tstzrange",
    };
    name.to_owned()
}

/// Returns a type without its parameters. A cast to `varchar(3)` would cut a longer text; only the
/// assignment to the column refuses it.
fn without_parameters(name: &str) -> &str {
    name.split_once('(').map_or(name, |(name, _)| name)
}

/// Appends a value in the binary form of an array's item: its length, then its bytes.
pub(crate) fn encode(column: &Column, cell: &Cell, out: &mut BytesMut) {
    if *cell == Cell::Null {
        out.put_i32(-1);
        return;
    }
    let start = out.len();
    out.put_i32(0);
    encode_value(column, cell, out);
    // A message is smaller than 2 GiB.
    let length = i32::try_from(out.len() - start - 4).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn encode_value(column: &Column, cell: &Cell, out: &mut BytesMut) {
    match cell {
        Cell::Null => {}
        Cell::Bool(value) => out.put_u8((*value).into()),
        Cell::Int(value) => out.put_i64(*value),
        Cell::Float(value) => out.put_f64(*value),
        Cell::Bytes(bytes) => out.put_slice(bytes),
        Cell::Micros(micros) => out.put_i64(micros - EPOCH_MICROS),
        Cell::Days(days) => out.put_i32(days - EPOCH_DAYS),
        Cell::TimeOfDay(micros) => out.put_i64(*micros),
        Cell::Text(text) => {
            if column.kind() == Kind::Json {
                out.put_u8(JSONB_VERSION);
            }
            out.put_slice(text.as_bytes());
        }
        Cell::Record(_) if column.kind() == Kind::Record => put_jsonb(column, cell, out),
        Cell::List(_) if column.kind() == Kind::Record => put_jsonb(column, cell, out),
        Cell::List(cells) => out.put_slice(array(column, cells).as_bytes()),
        Cell::Numeric(_) | Cell::Bignumeric(_) | Cell::Record(_) => {
            out.put_slice(text(column, cell).as_bytes());
        }
    }
}

fn put_jsonb(column: &Column, cell: &Cell, out: &mut BytesMut) {
    out.put_u8(JSONB_VERSION);
    out.put_slice(json::value(column, cell).to_string().as_bytes());
}

/// Returns a value in PostgreSQL's text form.
fn text(column: &Column, cell: &Cell) -> String {
    match (cell, column.kind()) {
        (Cell::Bytes(bytes), _) => {
            bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
                // Writing to a text cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
        }
        (Cell::Record(ends), Kind::Range(element)) => {
            let part = Column::new("", element.kind());
            let end = |index: usize| {
                ends.get(index).filter(|end| **end != Cell::Null).map(|end| text(&part, end))
            };
            let (start, end) = (end(0).unwrap_or_default(), end(1).unwrap_or_default());
            format!("[{start},{end})")
        }
        _ => match json::value(column, cell) {
            Value::String(text) => text,
            other => other.to_string(),
        },
    }
}

/// Returns a list as the literal of an array. Every item is quoted, so its text has no meaning there.
fn array(column: &Column, cells: &[Cell]) -> String {
    let mut literal = String::from("{");
    for (index, cell) in cells.iter().enumerate() {
        literal.push_str(if index > 0 { ",\"" } else { "\"" });
        for char in text(column, cell).chars() {
            if matches!(char, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(char);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data_type: &str, mode: Mode) -> Column {
        Column::new("c", data_type.parse::<rows::column::Type>().unwrap()).with_mode(mode)
    }

    #[test]
    fn every_type_has_its_name_in_postgresql() {
        for (data_type, name, list) in [
            ("STRING", "text", "text[]"),
            ("STRING(10)", "character varying(10)", "character varying(10)[]"),
            ("STRING(10485761)", "text", "text[]"),
            ("BYTES(3)", "bytea", "bytea[]"),
            ("INT64", "bigint", "bigint[]"),
            ("FLOAT64", "double precision", "double precision[]"),
            ("BOOL", "boolean", "boolean[]"),
            ("TIMESTAMP", "timestamp with time zone", "timestamp with time zone[]"),
            ("DATETIME", "timestamp without time zone", "timestamp without time zone[]"),
            ("DATE", "date", "date[]"),
            ("TIME", "time without time zone", "time without time zone[]"),
            ("NUMERIC", "numeric(38,9)", "numeric(38,9)[]"),
            ("NUMERIC(10,2)", "numeric(10,2)", "numeric(10,2)[]"),
            ("BIGNUMERIC", "numeric(76,38)", "numeric(76,38)[]"),
            ("JSON", "jsonb", "jsonb[]"),
            ("GEOGRAPHY", "text", "text[]"),
            ("INTERVAL", "interval", "interval[]"),
            ("RANGE<DATE>", "daterange", "daterange[]"),
            ("RANGE<DATETIME>", "tsrange", "tsrange[]"),
            ("RANGE<TIMESTAMP>", "tstzrange", "tstzrange[]"),
        ] {
            assert_eq!(SqlType::of(&column(data_type, Mode::Nullable)).name, name);
            assert_eq!(SqlType::of(&column(data_type, Mode::Repeated)).name, list);
        }
        let record = Column::record("r", vec![Column::new("a", Kind::Int64)]);
        assert_eq!(SqlType::of(&record).name, "jsonb");
        assert_eq!(SqlType::of(&record.with_mode(Mode::Repeated)).name, "jsonb");
    }

    #[test]
    fn a_cast_never_cuts_a_value() {
        let list = SqlType::of(&column("STRING(3)", Mode::Repeated));
        assert_eq!(list.cast.as_deref(), Some("character varying[]"));
        let number = SqlType::of(&column("NUMERIC(4,2)", Mode::Nullable));
        assert_eq!(number.cast.as_deref(), Some("numeric"));
        assert_eq!(SqlType::of(&column("STRING(3)", Mode::Nullable)).cast, None);
    }

    #[test]
    fn items_of_an_array_cannot_end_their_quotes() {
        let cells = [r#"a"b"#, r"c\d", "", "NULL", "{e,f}"].map(Cell::from);

        let literal = array(&column("STRING", Mode::Repeated), &cells);

        assert_eq!(literal, r#"{"a\"b","c\\d","","NULL","{e,f}"}"#);
        assert_eq!(array(&column("STRING", Mode::Repeated), &[]), "{}");
    }

    #[test]
    fn values_that_travel_as_text_have_postgresqls_form() {
        let range = column("RANGE<DATE>", Mode::Nullable);
        for (column, cell, form) in [
            (column("NUMERIC", Mode::Nullable), Cell::Numeric(-1_500_000_000), "-1.5"),
            (range.clone(), Cell::Record(vec![Cell::Days(0), Cell::Null]), "[1970-01-01,)"),
            (range, Cell::Record(vec![Cell::Null, Cell::Days(1)]), "[,1970-01-02)"),
            (column("BYTES", Mode::Nullable), Cell::Bytes(vec![0, 255].into()), "\\x00ff"),
            (column("FLOAT64", Mode::Nullable), Cell::Float(f64::NEG_INFINITY), "-Infinity"),
        ] {
            assert_eq!(text(&column, &cell), form);
        }
    }
}
