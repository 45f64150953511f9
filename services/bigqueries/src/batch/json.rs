//! Rows as JSON, for `insertAll`.

use std::io::Write as _;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, Time};

use rows::cell::Cell;
use rows::column::{Column, Kind, Mode};

const DATE: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[FormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:6]");
/// Maximum bytes of an `insertId`.
const MAX_INSERT_ID_BYTES: usize = 128;

/// Encoded rows of a request.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    text: Vec<u8>,
    /// End of each row in `text`.
    ends: Vec<usize>,
}

impl Lines {
    pub(crate) fn push(&mut self, columns: &[Column], cells: &[Cell], insert_id: &str) {
        let row: serde_json::Map<String, Value> = columns
            .iter()
            .zip(cells)
            .filter(|(_, cell)| **cell != Cell::Null)
            .map(|(column, cell)| (column.name.clone(), value(column, cell)))
            .collect();
        let mut line = json!({ "json": row });
        if !insert_id.is_empty() && insert_id.len() <= MAX_INSERT_ID_BYTES {
            line["insertId"] = insert_id.into();
        }
        // Writing into memory cannot fail, and these values always have a form in JSON.
        drop(serde_json::to_writer(&mut self.text, &line));
        self.ends.push(self.text.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.ends.len()
    }

    /// Returns the bytes of some of the rows.
    pub(crate) fn bytes_of(&self, rows: &[usize]) -> usize {
        rows.iter().map(|row| self.range(*row).len() + 1).sum()
    }

    fn range(&self, index: usize) -> Range<usize> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[index]
    }

    /// Returns the gzip body of a request for some of the rows. The request asks BigQuery to write
    /// the good rows even if others are invalid.
    pub(crate) fn body(&self, rows: &[usize]) -> std::io::Result<Vec<u8>> {
        let mut body = GzEncoder::new(Vec::new(), Compression::fast());
        body.write_all(br#"{"skipInvalidRows":true,"rows":["#)?;
        for (place, row) in rows.iter().enumerate() {
            if place > 0 {
                body.write_all(b",")?;
            }
            body.write_all(&self.text[self.range(*row)])?;
        }
        body.write_all(b"]}")?;
        body.finish()
    }

    pub(crate) fn split(&self, at: usize) -> (Self, Self) {
        let middle = self.range(at).start;
        let first = Self { text: self.text[..middle].to_vec(), ends: self.ends[..at].to_vec() };
        let ends = self.ends[at..].iter().map(|end| end - middle).collect();
        (first, Self { text: self.text[middle..].to_vec(), ends })
    }
}

/// Converts a cell to JSON. A value becomes text if a JSON number could lose some of it.
pub(crate) fn value(column: &Column, cell: &Cell) -> Value {
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
    fn rows_are_split_where_they_end() {
        let columns = [Column::new("n", Kind::Int64)];
        let mut lines = Lines::default();
        for number in 0..3 {
            lines.push(&columns, &[Cell::Int(number)], "id");
        }

        let (first, second) = lines.split(1);

        assert_eq!((first.len(), second.len()), (1, 2));
        assert_eq!(first.text, br#"{"insertId":"id","json":{"n":"0"}}"#);
        assert_eq!(&second.text[second.range(1)], br#"{"insertId":"id","json":{"n":"2"}}"#);
    }

    #[test]
    fn exact_numbers_keep_their_digits() {
        assert_eq!(point("1500000000", 9), "1.5");
        assert_eq!(point("-1", 9), "-0.000000001");
        assert_eq!(point("0", 9), "0");
        assert_eq!(point("100000000000", 9), "100");
    }
}
