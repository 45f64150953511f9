//! `autodetect`: derives a schema from the rows, by simpler rules than Google's.

use serde_json::{Map, Value};

use super::csv::CsvFormat;
use crate::bigquery::schema::{Field, FieldType, Mode, Schema, new_field};
use crate::status::Status;

/// Most rows that are examined.
const MAX_ROWS: usize = 500;

/// Derives the schema of JSON rows. Fields that a row adds come after the others, sorted by name.
pub(super) fn json(rows: impl Iterator<Item = Map<String, Value>>) -> Schema {
    let mut fields: Vec<Field> = Vec::new();
    for row in rows.take(MAX_ROWS) {
        merge(&mut fields, row.iter());
    }
    Schema { fields }
}

/// Derives the schema of CSV lines, with names from a header.
///
/// The last skipped line may be the header, or the first line without `skipLeadingRows`. It is one
/// if it has only text, and a column below has another type. With `skipLeadingRows` of 0 there is
/// none.
pub(super) fn csv<'a>(
    format: &mut CsvFormat,
    bodies: impl Iterator<Item = &'a [u8]>,
) -> Result<Schema, Status> {
    let skipped = format.skip_leading_rows;
    let first = skipped.unwrap_or(0).saturating_sub(1);
    let lines = bodies.flat_map(|body| format.lines(body, first)).filter_map(Result::ok);
    let lines: Vec<Vec<String>> =
        lines.take(MAX_ROWS).map(|line| line.into_iter().map(|cell| cell.text).collect()).collect();
    let Some((first, rest)) = lines.split_first() else {
        return Err(Status::invalid("autodetect needs at least one line"));
    };
    let kind_of = |lines: &[Vec<String>], at: usize| {
        let cells = lines.iter().filter_map(|line| line.get(at)).filter(|text| !text.is_empty());
        cells.map(|text| of_text(text)).reduce(wider).unwrap_or(FieldType::String)
    };
    let is_text = |text: &String| of_text(text) == FieldType::String;
    let has_header = skipped != Some(0)
        && first.iter().all(is_text)
        && (0..first.len()).any(|at| kind_of(rest, at) != FieldType::String);
    if skipped.is_none() {
        format.skip_leading_rows = Some(usize::from(has_header));
    }
    let rows = if has_header || skipped.unwrap_or(0) > 0 { rest } else { &lines };
    let fields = first.iter().enumerate().map(|(at, text)| {
        let kind = kind_of(rows, at);
        let name = if has_header { valid(text) } else { String::new() };
        let made_up = format!("{}_field_{at}", prefix(kind));
        new_field(if name.is_empty() { &made_up } else { &name }, kind)
    });
    Ok(Schema { fields: fields.collect() })
}

/// Returns the start of the name of a column without a name.
fn prefix(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Integer => "int64",
        FieldType::Float => "double",
        FieldType::Boolean => "bool",
        FieldType::Date => "date",
        FieldType::Timestamp => "timestamp",
        _ => "string",
    }
}

/// Converts a text to the name of a column: letters, digits and underscores.
fn valid(text: &str) -> String {
    text.trim().chars().map(|char| if char.is_alphanumeric() { char } else { '_' }).collect()
}

fn merge<'a>(fields: &mut Vec<Field>, row: impl Iterator<Item = (&'a String, &'a Value)>) {
    for (name, value) in row {
        let Some(found) = field(name, value) else { continue };
        match fields.iter_mut().find(|field| field.name.eq_ignore_ascii_case(name)) {
            None => fields.push(found),
            Some(known) if known.kind == FieldType::Record && found.kind == FieldType::Record => {
                if let Some(inner) = value.as_object() {
                    merge(&mut known.fields, inner.iter());
                }
            }
            Some(known) => known.kind = wider(known.kind, found.kind),
        }
    }
}

/// Returns the field for a value; `None` for NULL and empty lists, which have no type.
fn field(name: &str, value: &Value) -> Option<Field> {
    let kind = match value {
        Value::Null => return None,
        Value::Bool(_) => FieldType::Boolean,
        Value::Number(number) if number.is_f64() => FieldType::Float,
        Value::Number(_) => FieldType::Integer,
        Value::String(text) => of_text(text),
        Value::Array(items) => {
            let mut items = items.iter().filter_map(|item| field(name, item));
            return items.next().map(|field| Field { mode: Mode::Repeated, ..field });
        }
        Value::Object(row) => {
            let mut record = new_field(name, FieldType::Record);
            merge(&mut record.fields, row.iter());
            return Some(record);
        }
    };
    Some(new_field(name, kind))
}

fn of_text(text: &str) -> FieldType {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_date = digits(0..4) && digits(5..7) && digits(8..10) && text.as_bytes()[4] == b'-';
    if text.parse::<i64>().is_ok() {
        FieldType::Integer
    } else if text.parse::<f64>().is_ok_and(f64::is_finite) {
        FieldType::Float
    } else if ["true", "false"].iter().any(|one| text.eq_ignore_ascii_case(one)) {
        FieldType::Boolean
    } else if is_date && text.len() == 10 {
        FieldType::Date
    } else if is_date && digits(11..13) && digits(14..16) {
        FieldType::Timestamp
    } else {
        FieldType::String
    }
}

/// Returns the type that holds the values of both types.
fn wider(one: FieldType, other: FieldType) -> FieldType {
    match (one, other) {
        (one, other) if one == other => one,
        (FieldType::Integer | FieldType::Float, FieldType::Integer | FieldType::Float) => {
            FieldType::Float
        }
        (FieldType::Date | FieldType::Timestamp, FieldType::Date | FieldType::Timestamp) => {
            FieldType::Timestamp
        }
        _ => FieldType::String,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(fields: &[Field]) -> Value {
        let shape = |field: &Field| match (field.kind, field.mode) {
            (FieldType::Record, _) => json!({ (field.name.clone()): shape(&field.fields) }),
            (kind, Mode::Repeated) => json!([field.name, kind]),
            (kind, _) => json!({ (field.name.clone()): kind }),
        };
        fields.iter().map(shape).collect()
    }

    fn of_csv(skipped: Option<usize>, text: &str) -> (Value, Option<usize>) {
        let options = skipped.map_or(json!({}), |lines| json!({ "skipLeadingRows": lines }));
        let mut format: CsvFormat = serde_json::from_value(options).expect("options");
        let schema = csv(&mut format, std::iter::once(text.as_bytes())).expect("a schema");
        (shape(&schema.fields), format.skip_leading_rows)
    }

    #[test]
    fn fields_of_json_have_the_widest_type_of_their_values() {
        let rows = json!([
            { "n": 1, "text": "x", "none": null, "list": [], "day": "2025-09-28", "r": { "a": 1 } },
            { "N": 1.5, "text": 7, "list": [null, true], "day": "2025-09-28T22:53:17", "r": { "b": "1" } },
        ]);
        let rows = rows.as_array().expect("rows").iter().filter_map(Value::as_object).cloned();

        let schema = json(rows);

        let expected = json!([
            { "day": "TIMESTAMP" }, { "n": "FLOAT" },
            { "r": [{ "a": "INTEGER" }, { "b": "INTEGER" }] }, { "text": "STRING" },
            ["list", "BOOLEAN"],
        ]);
        assert_eq!(shape(&schema.fields), expected);
    }

    #[test]
    fn a_first_line_of_texts_above_other_types_is_a_header() {
        let header = of_csv(None, "name,a b\nx,1\ny,\n");
        let none = of_csv(None, "name,x\nx,y\n");
        let forbidden = of_csv(Some(0), "name,n\nx,1\n");
        let skipped = of_csv(Some(2), "comment\nname,n\nx,1.5\n");

        assert_eq!(header, (json!([{ "name": "STRING" }, { "a_b": "INTEGER" }]), Some(1)));
        let made_up = json!([{ "string_field_0": "STRING" }, { "string_field_1": "STRING" }]);
        assert_eq!(none, (made_up.clone(), Some(0)));
        assert_eq!(forbidden, (made_up, Some(0)));
        assert_eq!(skipped, (json!([{ "name": "STRING" }, { "n": "FLOAT" }]), Some(2)));
        let empty = csv(&mut CsvFormat::default(), std::iter::empty());
        assert_eq!(
            empty.err().map(|one| one.message).as_deref(),
            Some("autodetect needs at least one line")
        );
    }
}
