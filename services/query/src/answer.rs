//! Answers of `GET /data`: JSON, NDJSON or CSV.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::format::Format;
use crate::memory::AnswerMemory;
use crate::store::Page;

/// Header with the token of the next page, in every form of an answer.
pub(crate) const NEXT: &str = "x-next";

/// Text of an answer, with its headers.
pub(crate) struct Answer {
    text: String,
    format: Format,
    next: Option<String>,
}

impl Answer {
    /// Writes a page of rows.
    ///
    /// # Errors
    /// A row is no JSON object. The store wrote it, so that does not happen.
    pub(crate) fn of(page: Page, format: Format) -> Result<Self, String> {
        let next = page.next.as_ref().map(crate::token::Place::token);
        let text = match format {
            Format::Json => json(&page.rows, next.as_deref()),
            Format::Ndjson => page.rows.iter().map(|row| format!("{row}\n")).collect(),
            Format::Csv => csv(&page.rows)?,
        };
        Ok(Self { text, format, next })
    }

    /// Returns the response, or nothing while other answers take all of the memory.
    pub(crate) fn response(self, memory: &AnswerMemory) -> Option<Response> {
        let length = self.text.len();
        let mut response = memory.hold(self.text)?.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CONTENT_TYPE, self.format.media_type());
        if let Some(next) = self.next.and_then(|next| HeaderValue::from_str(&next).ok()) {
            headers.insert(NEXT, next);
        }
        Some(response)
    }
}

/// Writes rows that are JSON already, without reading them.
fn json(rows: &[String], next: Option<&str>) -> String {
    let next = Value::from(next);
    format!("{{\"data\":[{}],\"next\":{next}}}", rows.join(","))
}

/// Writes rows as CSV. Columns are those of the first row: all rows of a table have the same.
///
/// # Errors
/// A row is no JSON object. PostgreSQL wrote it, so that does not happen.
fn csv(rows: &[String]) -> Result<String, String> {
    let read = |row: &String| serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(row);
    let rows: Vec<_> =
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let Some(first) = rows.first() else { return Ok(String::new()) };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(first.keys()).map_err(|error| error.to_string())?;
    for row in &rows {
        let values = first.keys().map(|name| text(row.get(name).map(|value| value.get())));
        writer.write_record(values).map_err(|error| error.to_string())?;
    }
    let bytes = writer.into_inner().map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// Returns a value as a field. Texts lose their quotes, and numbers keep all of their digits.
fn text(json: Option<&str>) -> String {
    match json {
        None | Some("null") => String::new(),
        Some(json) => serde_json::from_str(json).unwrap_or_else(|_not_text| json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_one_object_with_the_token_of_the_next_page() {
        let rows = [r#"{"a":1}"#.to_owned(), r#"{"a":2}"#.to_owned()];

        assert_eq!(json(&rows, Some("t")), r#"{"data":[{"a":1},{"a":2}],"next":"t"}"#);
        assert_eq!(json(&[], None), r#"{"data":[],"next":null}"#);
    }

    #[test]
    fn values_cannot_end_their_field_in_csv() {
        let rows =
            [r#"{"a":"x,\"y\"\nz","b":null,"c":{"d":[1]},"e":0.12345678901234567890}"#.to_owned()];

        assert_eq!(
            csv(&rows).unwrap(),
            "a,b,c,e\n\"x,\"\"y\"\"\nz\",,\"{\"\"d\"\":[1]}\",0.12345678901234567890\n"
        );
        assert_eq!(csv(&[]).unwrap(), "");
    }
}
