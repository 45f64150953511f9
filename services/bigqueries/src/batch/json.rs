//! Rows as JSON, for `insertAll`.

use std::io::Write as _;
use std::ops::Range;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use rows::cell::Cell;
use rows::column::Column;
use rows::json::value;

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

#[cfg(test)]
mod tests {
    use rows::column::Kind;

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
}
