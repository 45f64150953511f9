//! Columns of Rust types, for row types that are derived.
//!
//! | Rust | column |
//! |---|---|
//! | `bool` | BOOL |
//! | `i8`, `i16`, `i32`, `i64`, `u16`, `u32` | INT64 |
//! | `f32`, `f64` | FLOAT64 |
//! | `String` | STRING |
//! | `bytes::Bytes`, `Vec<u8>` | BYTES |
//! | `time::OffsetDateTime` | TIMESTAMP |
//! | `time::Date`, `time::Time`, `time::PrimitiveDateTime` | DATE, TIME, DATETIME |
//! | [`Numeric`] | NUMERIC |
//! | `serde_json::Value` | JSON |
//! | a struct with `#[derive(Record)]` | RECORD |
//! | `Option<T>` | the column of `T`, nullable |
//! | `Vec<T>` | the column of `T`, repeated |
//!
//! All others are required. Other types do not compile: `u64`, because INT64 does not hold all of its
//! values, `u8` outside of `Vec<u8>`, a list of lists, and a list of options. For those, and for other
//! types of BigQuery, implement [`Scalar`] or [`crate::Row`].

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde_json::Value;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

use crate::cell::Cell;
use crate::column::{Column, Kind, Mode};
use crate::convert;

/// Type of a single value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is the type of no column",
    note = "the table of `rows::field` lists the types that are"
)]
pub trait Scalar: Sized {
    /// Returns the column of such values, with this name. Its mode does not matter.
    fn column(name: &str) -> Column;

    /// Returns the value.
    fn cell(self) -> Cell;
}

/// Type of a field, from which the mode of its column follows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is the type of no column",
    note = "the table of `rows::field` lists the types that are"
)]
pub trait Field: Sized {
    /// Returns the column of the field, with this name.
    fn column(name: &str) -> Column;

    /// Returns the value of the field.
    fn cell(self) -> Cell;
}

/// Struct whose fields are columns. `#[derive(Row)]` and `#[derive(Record)]` implement it.
pub trait Fields: Sized {
    /// Returns the columns, in the order of the fields.
    fn columns() -> Vec<Column>;

    /// Returns the values, in the order of the fields.
    fn cells(self) -> Vec<Cell>;
}

impl<T: Scalar> Field for T {
    fn column(name: &str) -> Column {
        <T as Scalar>::column(name).with_mode(Mode::Required)
    }

    fn cell(self) -> Cell {
        Scalar::cell(self)
    }
}

impl<T: Scalar> Field for Option<T> {
    fn column(name: &str) -> Column {
        <T as Scalar>::column(name).with_mode(Mode::Nullable)
    }

    fn cell(self) -> Cell {
        self.map_or(Cell::Null, Scalar::cell)
    }
}

impl<T: Scalar> Field for Vec<T> {
    fn column(name: &str) -> Column {
        <T as Scalar>::column(name).with_mode(Mode::Repeated)
    }

    fn cell(self) -> Cell {
        Cell::List(self.into_iter().map(Scalar::cell).collect())
    }
}

/// Implements [`Scalar`] for types whose values become cells by a function.
macro_rules! scalars {
    ($($type:ty => $kind:ident, $cell:expr;)+) => {$(
        impl Scalar for $type {
            fn column(name: &str) -> Column {
                Column::new(name, Kind::$kind)
            }

            fn cell(self) -> Cell {
                let cell: fn($type) -> Cell = $cell;
                cell(self)
            }
        }
    )+};
}

scalars! {
    bool => Bool, Cell::Bool;
    i8 => Int64, |value| Cell::Int(value.into());
    i16 => Int64, |value| Cell::Int(value.into());
    i32 => Int64, |value| Cell::Int(value.into());
    i64 => Int64, Cell::Int;
    u16 => Int64, |value| Cell::Int(value.into());
    u32 => Int64, |value| Cell::Int(value.into());
    f32 => Float64, |value| Cell::Float(value.into());
    f64 => Float64, Cell::Float;
    String => String, Cell::Text;
    Bytes => Bytes, Cell::Bytes;
    Vec<u8> => Bytes, |value| Cell::Bytes(value.into());
    OffsetDateTime => Timestamp, Cell::from;
    PrimitiveDateTime => Datetime, |value| value.assume_utc().into();
    Date => Date, |value| Cell::Days(convert::days(value));
    Time => Time, |value| Cell::TimeOfDay(convert::micros_of(value));
    Numeric => Numeric, |value| Cell::Numeric(value.billionths);
    Value => Json, |value| Cell::Text(value.to_string());
}

/// Exact decimal number of a NUMERIC column: up to 29 digits before the point, and 9 behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Numeric {
    billionths: i128,
}

/// Text that is no [`Numeric`]. Nothing is rounded, so a number with too many digits is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNumeric;

impl fmt::Display for NoNumeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a number with at most 29 digits before the point and 9 behind it")
    }
}

impl std::error::Error for NoNumeric {}

impl Numeric {
    /// Creates a number of this many billionths: 1,500,000,000 is 1.5. Returns nothing for a number
    /// that NUMERIC does not hold.
    #[must_use]
    pub fn of_billionths(billionths: i128) -> Option<Self> {
        // 29 digits before the point and 9 behind it.
        let has_digits = billionths.unsigned_abs() < 10_u128.pow(38);
        has_digits.then_some(Self { billionths })
    }
}

impl FromStr for Numeric {
    type Err = NoNumeric;

    fn from_str(text: &str) -> Result<Self, NoNumeric> {
        let column = <Self as Scalar>::column("");
        match convert::convert(&column, Some(&text.into())) {
            Ok(Cell::Numeric(billionths)) => Ok(Self { billionths }),
            Ok(_) | Err(_) => Err(NoNumeric),
        }
    }
}

impl From<i64> for Numeric {
    fn from(number: i64) -> Self {
        // 19 digits before the point fit.
        Self { billionths: i128::from(number) * 1_000_000_000 }
    }
}
