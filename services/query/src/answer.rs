//! Answers of `GET /data`: JSON, NDJSON or CSV.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::format::Format;
use crate::store::Page;

/// Header with the token of the next page, in every form of an answer.
pub(crate) const NEXT: &str = "x-next";

/// Writes a page of rows.
#[must_use]
pub fn of(page: &Page, format: Format) -> Response {
    let next = page.next.as_ref().map(crate::token::Place::token);
    let body = match format {
        Format::Json => json(&page.rows, next.as_deref()),
        Format::Ndjson => page.rows.iter().map(|row| format!("{row}\n")).collect(),
        Format::Csv => csv(&page.rows),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, format.media_type());
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        headers.insert(NEXT, next);
    }
    response
}

/// Writes rows that are JSON already, without reading them.
fn json(rows: &[String], next: Option<&str>) -> String {
    let next = Value::from(next);
    format!("{{\"data\":[{}],\"next\":{next}}}", rows.join(","))
}

/// Writes rows as CSV. Columns are those of the first row: all rows of a table have the same.
fn csv(rows: &[String]) -> String {
    let rows: Vec<Map<String, Value>> =
        rows.iter().filter_map(|row| serde_json::from_str(row).ok()).collect();
    let Some(first) = rows.first() else { return String::new() };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names: Vec<_> = first.keys().cloned().collect();
    // Writing into memory cannot fail, and each line has the same number of fields.
    let _ = writer.write_record(&names);
    for row in &rows {
        let _ = writer.write_record(names.iter().map(|name| text(row.get(name))));
    }
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
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
        let rows = [r#"{"a":"x,\"y\"\nz","b":null,"c":{"d":[1]}}"#.to_owned()];

        assert_eq!(csv(&rows), "a,b,c\n\"x,\"\"y\"\"\nz\",,\"{\"\"d\"\":[1]}\"\n");
        assert_eq!(csv(&[]), "");
    }
}
