//! Rows of BigQuery as JSON, in the form that PostgreSQL gives to the same rows.
//!
//! That is the form of `jsonb`: short keys before long ones, and numbers without an exponent. In
//! records, values have the form in which postgres stores them.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::json;
use super::moment;
use crate::store::Failure;
use crate::token::Place;

/// Name of the column that counts the copies of a row. No answer shows it.
pub(super) const COPY: &str = "dataflow_copy";

/// Column as the REST API describes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SchemaField {
    name: String,
    r#type: String,
    mode: String,
    fields: Vec<SchemaField>,
}

/// Columns of the rows in the order of their text, and those that are the place of a row.
#[derive(Debug)]
pub(super) struct RowShape {
    fields: Vec<ShownField>,
    publish_time: Option<usize>,
    ingest_id: Option<usize>,
    message_id: Option<usize>,
}

/// Column or field with its position in the answer.
#[derive(Debug)]
struct ShownField {
    position: usize,
    /// Name as JSON.
    key: String,
    kind: String,
    is_repeated: bool,
    fields: Vec<ShownField>,
}

#[derive(Deserialize)]
struct RawRow {
    #[serde(default)]
    f: Vec<RawCell>,
}

#[derive(Deserialize)]
struct RawCell {
    #[serde(default)]
    v: Value,
}

/// Depth of a value: the forms differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Column,
    InRecord,
}

impl RowShape {
    /// Reads the schema of an answer.
    ///
    /// # Errors
    /// It is no schema.
    pub(super) fn of(schema: &Value) -> Result<Self, Failure> {
        let fields = Vec::<SchemaField>::deserialize(&schema["fields"]);
        let fields = fields.map_err(|error| unreadable(&error))?;
        let position = |name: &str| fields.iter().position(|field| field.name == name);
        let (publish_time, ingest_id, message_id) =
            (position("publish_time"), position("ingest_id"), position("message_id"));
        Ok(Self { fields: shown(fields), publish_time, ingest_id, message_id })
    }

    /// Reads a row. Returns its text and its place.
    ///
    /// # Errors
    /// It is no row of this schema.
    pub(super) fn read(&self, row: &RawValue) -> Result<(String, Place), Failure> {
        let row: RawRow = serde_json::from_str(row.get()).map_err(|error| unreadable(&error))?;
        let cells: Vec<Value> = row.f.into_iter().map(|cell| cell.v).collect();
        let cell = |position: Option<usize>| position.and_then(|position| cells.get(position));
        let text = |position| cell(position).and_then(Value::as_str);
        let micros = text(self.publish_time).and_then(|micros| micros.parse().ok());
        let micros = micros.ok_or_else(|| unreadable(&"publish_time is no TIMESTAMP"))?;
        let ingest_id = text(self.ingest_id).or_else(|| text(self.message_id));
        let place = Place { micros, ingest_id: ingest_id.unwrap_or_default().to_owned() };
        let mut out = String::new();
        write_record(&self.fields, &cells, Depth::Column, &mut out);
        Ok((out, place))
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Failure::Differs(format!("its rows cannot be read: {error}"))
}

/// Returns fields in the order of `jsonb`: by the length of their names, then by their bytes.
fn shown(fields: Vec<SchemaField>) -> Vec<ShownField> {
    let fields = fields.into_iter().enumerate();
    let mut fields: Vec<_> = fields.filter(|(_, field)| field.name != COPY).collect();
    fields.sort_by(|(_, one), (_, other)| json::key_order(&one.name, &other.name));
    let fields = fields.into_iter().map(|(position, field)| ShownField {
        position,
        key: Value::from(field.name).to_string(),
        kind: field.r#type,
        is_repeated: field.mode == "REPEATED",
        fields: shown(field.fields),
    });
    fields.collect()
}

fn write_record(fields: &[ShownField], cells: &[Value], depth: Depth, out: &mut String) {
    out.push('{');
    let start = out.len();
    for field in fields {
        let cell = cells.get(field.position).unwrap_or(&Value::Null);
        // A record that postgres stores has no fields without a value.
        let is_absent = cell.is_null() || cell.as_array().is_some_and(Vec::is_empty);
        if depth == Depth::InRecord && is_absent {
            continue;
        }
        if out.len() > start {
            out.push_str(", ");
        }
        out.push_str(&field.key);
        out.push_str(": ");
        match cell.as_array().filter(|_| field.is_repeated) {
            Some(items) => write_list(field, items, depth, out),
            None => write_value(field, cell, depth, out),
        }
    }
    out.push('}');
}

fn write_list(field: &ShownField, items: &[Value], depth: Depth, out: &mut String) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_value(field, &item["v"], depth, out);
    }
    out.push(']');
}

fn write_value(field: &ShownField, cell: &Value, depth: Depth, out: &mut String) {
    if let Some(cells) = cell["f"].as_array() {
        let cells: Vec<Value> = cells.iter().map(|cell| cell["v"].clone()).collect();
        return write_record(&field.fields, &cells, Depth::InRecord, out);
    }
    let Some(text) = cell.as_str() else {
        out.push_str("null");
        return;
    };
    match depth {
        Depth::Column => write_column(&field.kind, text, out),
        Depth::InRecord => write_in_record(&field.kind, text, out),
    }
}

/// Writes a value in the form of `to_jsonb` of PostgreSQL.
fn write_column(kind: &str, text: &str, out: &mut String) {
    match kind {
        "INTEGER" | "INT64" | "BOOLEAN" | "BOOL" => out.push_str(text),
        "FLOAT" | "FLOAT64" => write_float(text, json::float, out),
        "NUMERIC" => out.push_str(&json::scaled(text, 9)),
        "BIGNUMERIC" => out.push_str(&json::scaled(text, 38)),
        "JSON" => json::normal(text, out),
        "TIMESTAMP" => {
            let time = text.parse().ok().and_then(moment::of_micros);
            let time = time.map(|time| format!("{}+00:00", moment::trimmed(&time)));
            json::quoted(time.as_deref().unwrap_or(text), out);
        }
        "DATETIME" | "TIME" => json::quoted(moment::trimmed(text), out),
        "BYTES" => {
            let mut hex = String::from("\\x");
            for byte in STANDARD.decode(text).unwrap_or_default() {
                // Writing to a text cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            json::quoted(&hex, out);
        }
        // Texts, and the types that both stores write in their own way.
        _ => json::quoted(text, out),
    }
}

/// Writes a value in the form of `rows::json`, in which postgres stores records.
fn write_in_record(kind: &str, text: &str, out: &mut String) {
    match kind {
        "BOOLEAN" | "BOOL" => out.push_str(text),
        "FLOAT" | "FLOAT64" => write_float(text, json::stored_float, out),
        "TIMESTAMP" => {
            let time = text.parse().ok().and_then(moment::of_micros);
            let time = time.map(|time| format!("{time}Z"));
            json::quoted(time.as_deref().unwrap_or(text), out);
        }
        "DATETIME" | "TIME" => json::quoted(&moment::padded(text), out),
        _ => json::quoted(text, out),
    }
}

fn write_float(text: &str, write: fn(f64) -> String, out: &mut String) {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => out.push_str(&write(number)),
        Ok(number) if number.is_nan() => json::quoted("NaN", out),
        Ok(number) => json::quoted(if number > 0.0 { "Infinity" } else { "-Infinity" }, out),
        Err(_) => json::quoted(text, out),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(schema: &Value, cells: &Value) -> Result<(String, Place), Failure> {
        let shape = RowShape::of(&json!({ "fields": schema }))?;
        let cells: Vec<_> = cells.as_array().unwrap().iter().map(|v| json!({ "v": v })).collect();
        shape.read(&RawValue::from_string(json!({ "f": cells }).to_string()).unwrap())
    }

    fn one(kind: &str, value: &Value) -> String {
        let schema = json!([{ "name": "c", "type": kind }, { "name": "publish_time" }]);
        let (text, _) = read(&schema, &json!([value, "0"])).unwrap();
        text.strip_prefix("{\"c\": ")
            .unwrap()
            .strip_suffix(", \"publish_time\": \"0\"}")
            .unwrap()
            .to_owned()
    }

    #[test]
    fn every_type_has_the_form_of_postgresql() {
        for (kind, value, form) in [
            ("STRING", "a\"\n\u{7f}ü", "\"a\\\"\\n\u{7f}ü\""),
            ("INTEGER", "9223372036854775807", "9223372036854775807"),
            ("BOOLEAN", "true", "true"),
            ("FLOAT", "22.0", "22"),
            ("FLOAT", "-0.0", "0"),
            ("FLOAT", "1e+20", "100000000000000000000"),
            ("FLOAT", "1e-7", "0.0000001"),
            ("FLOAT", "NaN", "\"NaN\""),
            ("FLOAT", "-Infinity", "\"-Infinity\""),
            ("NUMERIC", "-1.5", "-1.500000000"),
            ("BIGNUMERIC", "1", "1.00000000000000000000000000000000000000"),
            ("TIMESTAMP", "1749945600100000", "\"2025-06-15T00:00:00.1+00:00\""),
            ("TIMESTAMP", "-1000000", "\"1969-12-31T23:59:59+00:00\""),
            ("DATE", "2025-06-15", "\"2025-06-15\""),
            ("TIME", "12:34:56.500000", "\"12:34:56.5\""),
            ("DATETIME", "2025-06-15T12:34:56", "\"2025-06-15T12:34:56\""),
            ("BYTES", "AP8=", "\"\\\\x00ff\""),
            ("JSON", r#"{"bb":[1e2],"a":null}"#, r#"{"a": null, "bb": [100]}"#),
        ] {
            assert_eq!(one(kind, &value.into()), form, "{kind} {value}");
        }
        assert_eq!(one("STRING", &Value::Null), "null");
    }

    #[test]
    fn records_have_the_form_in_which_postgres_stores_them() {
        let fields = json!([
            { "name": "long", "type": "INTEGER" },
            { "name": "at", "type": "TIMESTAMP" },
            { "name": "no", "type": "STRING" },
            { "name": "f", "type": "FLOAT" },
            { "name": "l", "type": "TIME", "mode": "REPEATED" },
        ]);
        let schema = json!([
            { "name": "r", "type": "RECORD", "mode": "REPEATED", "fields": fields },
            { "name": "n", "type": "INTEGER", "mode": "REPEATED" },
            { "name": "publish_time", "type": "TIMESTAMP" },
        ]);
        let record = json!({ "f": [{ "v": "1" }, { "v": "1" }, { "v": null }, { "v": "22" }, { "v": [{ "v": "12:00:00" }] }] });

        let (text, _) =
            read(&schema, &json!([[{ "v": record }], [{ "v": "1" }, { "v": "2" }], "0"])).unwrap();

        let record = r#"{"f": 22.0, "l": ["12:00:00.000000"], "at": "1970-01-01T00:00:00.000001Z", "long": "1"}"#;
        let time = r#""publish_time": "1970-01-01T00:00:00+00:00""#;
        assert_eq!(text, format!(r#"{{"n": [1, 2], "r": [{record}], {time}}}"#));
    }

    #[test]
    fn the_place_of_a_row_is_its_time_and_its_id() {
        let schema = json!([
            { "name": "message_id", "type": "STRING" },
            { "name": "ingest_id", "type": "STRING" },
            { "name": "publish_time", "type": "TIMESTAMP" },
            { "name": COPY, "type": "INTEGER" },
        ]);

        let (text, place) = read(&schema, &json!(["m", "i", "7", "1"])).unwrap();
        assert_eq!(place, Place { micros: 7, ingest_id: "i".into() });
        assert!(!text.contains(COPY), "{text}");
        let (_, place) = read(&schema, &json!(["m", null, "7", "1"])).unwrap();
        assert_eq!(place.ingest_id, "m");
        let wrong = read(&schema, &json!(["m", "i", null, "1"])).unwrap_err();
        assert!(wrong.why().contains("publish_time"), "{wrong:?}");
    }
}
