//! CSV as load jobs read it.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::bigquery::schema::{Field, Mode};
use crate::status::Status;

/// Options of a load job for CSV.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::bigquery) struct CsvFormat {
    /// Number of lines before the first row. Clients may send the number as text.
    #[serde(deserialize_with = "number")]
    pub skip_leading_rows: Option<usize>,
    field_delimiter: Option<String>,
    quote: Option<String>,
    null_marker: Option<String>,
    allow_jagged_rows: bool,
    encoding: Option<String>,
    /// Refused because it is not supported, like the options below.
    column_name_character_map: Option<String>,
    hive_partitioning_options: Option<Value>,
    json_extension: Option<String>,
    source_column_match: Option<String>,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(number) => {
            let rows = number.as_u64().and_then(|one| usize::try_from(one).ok());
            rows.map(Some).ok_or_else(|| D::Error::custom("skipLeadingRows must not be negative"))
        }
        Value::String(text) => text.parse().map(Some).map_err(D::Error::custom),
        _ => Ok(None),
    }
}

/// A value between delimiters. An unquoted value that equals the null marker is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub text: String,
    pub is_quoted: bool,
}

impl CsvFormat {
    /// Checks that all options are supported.
    ///
    /// # Errors
    /// Fails for an option that is not supported, and names it.
    pub(super) fn check(&self, is_csv: bool) -> Result<(), Status> {
        let refused = [
            ("hivePartitioningOptions", self.hive_partitioning_options.is_some()),
            ("jsonExtension", self.json_extension.is_some()),
            ("sourceColumnMatch", self.source_column_match.is_some()),
            ("columnNameCharacterMap", self.column_name_character_map.is_some()),
            ("encoding other than UTF-8", self.encoding.as_ref().is_some_and(|one| one != "UTF-8")),
            ("fieldDelimiter of several bytes", is_csv && self.delimiter().is_none()),
        ];
        match refused.iter().find(|(_, is_there)| *is_there) {
            Some((name, _)) => Err(Status::unimplemented(&format!("load jobs with {name}"))),
            None => Ok(()),
        }
    }

    fn delimiter(&self) -> Option<char> {
        match self.field_delimiter.as_deref() {
            None | Some("") => Some(','),
            Some("\\t" | "tab") => Some('\t'),
            Some(one) => one.chars().next().filter(|first| first.len_utf8() == one.len()),
        }
    }

    /// Splits lines into cells, without the first lines.
    pub(super) fn lines(&self, body: &[u8], skipped: usize) -> Vec<Result<Vec<Cell>, String>> {
        let text = String::from_utf8_lossy(body);
        let delimiter = self.delimiter().unwrap_or(',');
        let quote = self.quote.as_deref().map_or(Some('"'), |quote| quote.chars().next());
        let lines = lines(text.trim_start_matches('\u{feff}'), delimiter, quote);
        lines.into_iter().skip(skipped).collect()
    }

    /// Returns rows as JSON, or the error of each.
    pub(super) fn rows(
        &self,
        body: &[u8],
        fields: &[Field],
        ignores_more: bool,
    ) -> Vec<Result<Map<String, Value>, String>> {
        let marker = self.null_marker.as_deref().unwrap_or_default();
        let row = |cells: Vec<Cell>| {
            if cells.len() > fields.len() && !ignores_more {
                return Err(format!(
                    "Too many values in row: {} for {} columns",
                    cells.len(),
                    fields.len()
                ));
            }
            if cells.len() < fields.len() && !self.allow_jagged_rows {
                return Err(format!(
                    "Too few values in row: {} for {} columns",
                    cells.len(),
                    fields.len()
                ));
            }
            let cells = fields.iter().zip(cells).map(|(field, cell)| {
                if field.mode == Mode::Repeated || !field.fields.is_empty() {
                    return Err(format!("CSV has no lists and records: {}", field.name));
                }
                let is_null = !cell.is_quoted && cell.text == marker;
                let value = if is_null { Value::Null } else { cell.text.into() };
                Ok((field.name.clone(), value))
            });
            cells.collect()
        };
        let skipped = self.skip_leading_rows.unwrap_or(0);
        self.lines(body, skipped).into_iter().map(|cells| row(cells?)).collect()
    }
}

fn lines(text: &str, delimiter: char, quote: Option<char>) -> Vec<Result<Vec<Cell>, String>> {
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    let mut cell = Cell { text: String::new(), is_quoted: false };
    let mut is_open = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let is_quote = Some(char) == quote;
        if is_open {
            match is_quote {
                true if chars.peek() == Some(&char) => cell.text.extend(chars.next()),
                true => is_open = false,
                false => cell.text.push(char),
            }
        } else if is_quote && cell.text.is_empty() {
            (is_open, cell.is_quoted) = (true, true);
        } else if char == delimiter {
            line.push(std::mem::replace(&mut cell, Cell { text: String::new(), is_quoted: false }));
        } else if char == '\n' || char == '\r' && chars.peek() == Some(&'\n') {
            if char == '\r' {
                chars.next();
            }
            let is_blank = line.is_empty() && cell.text.is_empty() && !cell.is_quoted;
            let last = std::mem::replace(&mut cell, Cell { text: String::new(), is_quoted: false });
            if !is_blank {
                line.push(last);
                lines.push(Ok(std::mem::take(&mut line)));
            }
        } else {
            cell.text.push(char);
        }
    }
    if is_open {
        lines.push(Err("Missing close quote character".to_owned()));
    } else if !line.is_empty() || !cell.text.is_empty() || cell.is_quoted {
        line.push(cell);
        lines.push(Ok(line));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_delimiters_line_ends_and_quotes() {
        let format = CsvFormat::default();

        let lines = format.lines(b"a,\"b,\"\"c\"\"\n d\",\r\n\"\",2", 0);

        let texts = |line: &Result<Vec<Cell>, String>| {
            line.iter().flatten().map(|cell| cell.text.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            lines.iter().map(texts).collect::<Vec<_>>(),
            [vec!["a", "b,\"c\"\n d", ""], vec!["", "2"]]
        );
        assert!(format.lines(b"\"open", 0).iter().any(Result::is_err));
    }
}
