//! Cells as JSON, in the form of BigQuery's REST API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, Time};

use crate::cell::Cell;
use crate::column::{Column, Kind, Mode};

const DATE: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[FormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:6]");

/// Converts a cell to JSON. A value becomes text if a JSON number could lose some of it.
#[must_use]
pub fn value(column: &Column, cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(value) => (*value).into(),
        Cell::Int(value) => value.to_string().into(),
        Cell::Float(value) if value.is_finite() => (*value).into(),
        Cell::Float(value) if value.is_nan() => "NaN".into(),
        Cell::Float(value) => if *value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Cell::Text(value) => value.as_str().into(),
        Cell::Bytes(value) => STANDARD.encode(value).into(),
        Cell::Micros(micros) => moment(*micros, column.kind()).into(),
        Cell::Days(days) => {
            let epoch = OffsetDateTime::UNIX_EPOCH.date();
            let date = epoch.checked_add(Duration::days((*days).into()));
            // A day out of range is sent as plain digits, and BigQuery refuses it.
            date.map_or_else(|| days.to_string(), write_date).into()
        }
        Cell::TimeOfDay(micros) => {
            write_time(Time::MIDNIGHT + Duration::microseconds(*micros)).into()
        }
        Cell::Numeric(units) => point(&units.to_string(), 9).into(),
        Cell::Bignumeric(units) => point(&units.to_string(), 38).into(),
        Cell::Record(cells) => {
            let parts = column.parts();
            let fields = parts.iter().zip(cells).filter(|(_, cell)| **cell != Cell::Null);
            fields.map(|(field, cell)| (field.name.clone(), value(field, cell))).collect()
        }
        Cell::List(cells) => {
            let item = Column { mode: Mode::Nullable, ..column.clone() };
            cells.iter().map(|cell| value(&item, cell)).collect()
        }
    }
}

/// Writes a row as a JSON object, for people.
#[must_use]
pub fn row(columns: &[Column], cells: &[Cell]) -> String {
    let cells = columns.iter().zip(cells);
    let row = cells.map(|(column, cell)| (column.name.clone(), value(column, cell)));
    Value::Object(row.collect()).to_string()
}

fn moment(micros: i64, kind: Kind) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000);
    // A time out of range is sent as plain digits, and BigQuery refuses it.
    let Ok(time) = time else { return micros.to_string() };
    let zone = if kind == Kind::Datetime { "" } else { "Z" };
    format!("{}T{}{zone}", write_date(time.date()), write_time(time.time()))
}

fn write_date(date: Date) -> String {
    date.format(DATE).unwrap_or_default()
}

fn write_time(time: Time) -> String {
    time.format(TIME).unwrap_or_default()
}

/// Writes a count of smallest units as a number with `scale` digits behind the point.
///
/// For example, `1500000000` with a scale of 9 is `1.5`.
fn point(units: &str, scale: usize) -> String {
    let (sign, digits) = match units.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", units),
    };
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{fraction}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_numbers_keep_their_digits() {
        assert_eq!(point("1500000000", 9), "1.5");
        assert_eq!(point("-1", 9), "-0.000000001");
        assert_eq!(point("0", 9), "0");
        assert_eq!(point("100000000000", 9), "100");
    }
}
