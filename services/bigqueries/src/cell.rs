//! The values of a row.

use std::ops::RangeInclusive;

use arrow_buffer::i256;
use bytes::Bytes;
use time::OffsetDateTime;

use crate::column::{Column, Kind, Mode};

/// Microseconds of a TIMESTAMP or DATETIME: 0001-01-01 00:00:00 to 9999-12-31 23:59:59.999999.
/// <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#timestamp_type>
const MICROS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
/// Days of a DATE: 0001-01-01 to 9999-12-31.
const DAYS: RangeInclusive<i32> = -719_162..=2_932_896;
/// Microseconds of a TIME.
const TIME_OF_DAY: RangeInclusive<i64> = 0..=86_399_999_999;

/// The value of a column in one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A BOOL.
    Bool(bool),
    /// An INT64.
    Int(i64),
    /// A FLOAT64.
    Float(f64),
    /// A STRING, or the text of a JSON value.
    Text(String),
    /// BYTES.
    Bytes(Bytes),
    /// A TIMESTAMP or DATETIME: microseconds since 1970-01-01.
    Micros(i64),
    /// A DATE: days since 1970-01-01.
    Days(i32),
    /// A TIME: microseconds since midnight.
    TimeOfDay(i64),
    /// A NUMERIC: billionths.
    Numeric(i128),
    /// A BIGNUMERIC: in units of 10⁻³⁸.
    Bignumeric(i256),
    /// A RECORD: its fields in the order of their columns.
    Record(Vec<Cell>),
    /// A repeated value.
    List(Vec<Cell>),
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Cell>> From<Vec<T>> for Cell {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<OffsetDateTime> for Cell {
    fn from(time: OffsetDateTime) -> Self {
        // Any year of this type fits into 64 bits of microseconds.
        Self::Micros(
            i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX),
        )
    }
}

impl Cell {
    /// Whether this is a value of a column, and within the range of its type.
    #[must_use]
    pub fn fits(&self, column: &Column) -> bool {
        match (self, column.mode) {
            (Self::Null, mode) => mode == Mode::Nullable,
            (Self::List(cells), Mode::Repeated) => {
                cells.iter().all(|cell| *cell != Self::Null && cell.fits_one(column))
            }
            (_, Mode::Repeated) => false,
            (cell, Mode::Nullable | Mode::Required) => cell.fits_one(column),
        }
    }

    /// Whether this is one value of a column, repeated or not.
    pub(crate) fn fits_one(&self, column: &Column) -> bool {
        match (self, column.kind) {
            (Self::Bool(_), Kind::Bool)
            | (Self::Int(_), Kind::Int64)
            | (Self::Float(_), Kind::Float64)
            | (Self::Text(_), Kind::String | Kind::Json)
            | (Self::Bytes(_), Kind::Bytes)
            | (Self::Numeric(_), Kind::Numeric)
            | (Self::Bignumeric(_), Kind::Bignumeric) => true,
            (Self::Micros(micros), Kind::Timestamp | Kind::Datetime) => MICROS.contains(micros),
            (Self::Days(days), Kind::Date) => DAYS.contains(days),
            (Self::TimeOfDay(micros), Kind::Time) => TIME_OF_DAY.contains(micros),
            (Self::Record(cells), Kind::Record) => all_fit(&column.fields, cells),
            _ => false,
        }
    }
}

/// Whether cells are a row of these columns.
#[must_use]
pub fn all_fit(columns: &[Column], cells: &[Cell]) -> bool {
    columns.len() == cells.len()
        && columns.iter().zip(cells).all(|(column, cell)| cell.fits(column))
}
