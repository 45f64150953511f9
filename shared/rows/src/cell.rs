//! Values of a row.

use std::ops::RangeInclusive;

use arrow_buffer::i256;
use bytes::Bytes;
use time::OffsetDateTime;

use crate::column::{Column, Kind, Limit, Mode};

/// Microseconds of a TIMESTAMP or DATETIME: 0001-01-01 00:00:00 to 9999-12-31 23:59:59.999999.
/// <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#timestamp_type>
const MICROS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
/// Days of a DATE: 0001-01-01 to 9999-12-31.
const DAYS: RangeInclusive<i32> = -719_162..=2_932_896;
/// Microseconds of a TIME.
const TIME_OF_DAY: RangeInclusive<i64> = 0..=86_399_999_999;

/// Value of a column in one row.
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
    /// A STRING, or the text of a JSON value, a GEOGRAPHY or an INTERVAL.
    Text(String),
    /// BYTES.
    Bytes(Bytes),
    /// A TIMESTAMP or DATETIME: microseconds since 1970-01-01.
    Micros(i64),
    /// A DATE: days since 1970-01-01.
    Days(i32),
    /// A TIME: microseconds since midnight.
    TimeOfDay(i64),
    /// A NUMERIC: a count of billionths (10⁻⁹).
    Numeric(i128),
    /// A BIGNUMERIC: a count of units of 10⁻³⁸.
    Bignumeric(i256),
    /// A RECORD holds its fields in the order of their columns. A RANGE holds its start and its
    /// end; NULL means no bound.
    Record(Vec<Cell>),
    /// A list, for a repeated column.
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
        // Microseconds of all years of this type fit into 64 bits.
        Self::Micros(
            i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX),
        )
    }
}

impl Cell {
    /// Returns true if the column can hold this value and the value is in the range of its type.
    #[must_use]
    pub fn fits(&self, column: &Column) -> bool {
        match (self, column.mode) {
            (Self::Null, mode) => {
                // BigQuery replaces a missing value by the default of the column.
                mode == Mode::Nullable || (mode == Mode::Required && column.default.is_some())
            }
            (Self::List(cells), Mode::Repeated) => {
                cells.iter().all(|cell| *cell != Self::Null && cell.fits_one(column))
            }
            (_, Mode::Repeated) => false,
            (cell, Mode::Nullable | Mode::Required) => cell.fits_one(column),
        }
    }

    /// Returns true if this is a single value of the column. The mode of the column does not
    /// matter.
    pub fn fits_one(&self, column: &Column) -> bool {
        let limit = column.data_type.limit;
        match (self, column.kind()) {
            (Self::Bool(_), Kind::Bool)
            | (Self::Int(_), Kind::Int64)
            | (Self::Float(_), Kind::Float64)
            | (Self::Text(_), Kind::Json | Kind::Geography | Kind::Interval) => true,
            (Self::Text(text), Kind::String) => is_within(limit, || text.chars().count()),
            (Self::Bytes(bytes), Kind::Bytes) => is_within(limit, || bytes.len()),
            (Self::Numeric(units), Kind::Numeric) => {
                has_digits(i256::from_i128(*units), limit, column.kind())
            }
            (Self::Bignumeric(units), Kind::Bignumeric) => has_digits(*units, limit, column.kind()),
            (Self::Micros(micros), Kind::Timestamp | Kind::Datetime) => MICROS.contains(micros),
            (Self::Days(days), Kind::Date) => DAYS.contains(days),
            (Self::TimeOfDay(micros), Kind::Time) => TIME_OF_DAY.contains(micros),
            (Self::Record(cells), Kind::Record) => all_fit(&column.fields, cells),
            (Self::Record(cells), Kind::Range(_)) => {
                all_fit(&column.parts(), cells) && is_ascending(cells)
            }
            _ => false,
        }
    }
}

fn is_within(limit: Limit, length: impl FnOnce() -> usize) -> bool {
    match limit {
        Limit::Length(most) => length() as u64 <= most,
        Limit::None | Limit::Digits { .. } => true,
    }
}

/// Returns true if an exact number has no more digits than its type allows.
fn has_digits(units: i256, limit: Limit, kind: Kind) -> bool {
    let (Limit::Digits { precision, scale }, Some((_, all_behind))) = (limit, kind.digits()) else {
        return true;
    };
    let ten = i256::from_i128(10);
    let behind = all_behind.saturating_sub(scale);
    let fits =
        ten.checked_pow(behind).zip(ten.checked_pow(precision + behind)).and_then(|(one, end)| {
            let rest = units.checked_rem(one)?;
            Some(rest == i256::ZERO && units < end && units > end.checked_neg()?)
        });
    fits.unwrap_or(false)
}

/// Returns true if the start of a range is before its end, or one of them is missing.
fn is_ascending(ends: &[Cell]) -> bool {
    match ends {
        [Cell::Days(start), Cell::Days(end)] => start < end,
        [Cell::Micros(start), Cell::Micros(end)] => start < end,
        _ => true,
    }
}

/// Returns true if the cells form a row of these columns.
#[must_use]
pub fn all_fit(columns: &[Column], cells: &[Cell]) -> bool {
    columns.len() == cells.len()
        && columns.iter().zip(cells).all(|(column, cell)| cell.fits(column))
}

/// Returns the path of the first required column without a value.
///
/// [`Cell::fits`] accepts such a cell if the column has a default that BigQuery can fill in.
pub fn unfilled(columns: &[Column], cells: &[Cell]) -> Option<String> {
    columns.iter().zip(cells).find_map(|(column, cell)| {
        let inner = |cells: &[Cell]| {
            unfilled(&column.fields, cells).map(|path| format!("{}.{path}", column.name))
        };
        match cell {
            Cell::Null => (column.mode == Mode::Required).then(|| column.name.clone()),
            Cell::Record(cells) => inner(cells),
            Cell::List(items) => items.iter().find_map(|item| match item {
                Cell::Record(cells) => inner(cells),
                _ => None,
            }),
            _ => None,
        }
    })
}
