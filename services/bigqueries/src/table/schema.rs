//! The fields of a table, in the form of the REST API: those of the settings, and how they differ.

use serde_json::{Value, json};

use crate::column::{Column, Kind, Mode};

fn is_required(field: &Value) -> bool {
    mode(field) == "REQUIRED"
}

fn has_name(field: &Value, name: &str) -> bool {
    text(field, "name").eq_ignore_ascii_case(name)
}

fn mode(field: &Value) -> &str {
    field["mode"].as_str().unwrap_or("NULLABLE")
}

/// A member that is text; empty where it is missing.
pub(super) fn text<'a>(of: &'a Value, member: &str) -> &'a str {
    of[member].as_str().unwrap_or_default()
}

/// The elements of a list; none where there is no list.
pub(super) fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The table's fields with those of `columns` that it lacks, or `None` if it lacks none. What
/// differs is noted with both sides.
///
/// The table's own fields stay as they are, but for their policy tags: BigQuery keeps tags that a change
/// leaves out, and wants a right of its own for those that it repeats.
pub(super) fn merge(
    fields: &[Value],
    columns: &[Column],
    at: &str,
    differences: &mut Vec<String>,
) -> Option<Vec<Value>> {
    let mut merged: Vec<Value> = fields.iter().map(without_tags).collect();
    let mut has_changed = false;
    for field in fields.iter().filter(|field| is_required(field)) {
        if !columns.iter().any(|column| has_name(field, &column.name)) {
            differences.push(format!(
                "column {at}{}: REQUIRED in the table, and no column of the settings",
                text(field, "name")
            ));
        }
    }
    for column in columns {
        let path = format!("{at}{}", column.name);
        let Some(found) = merged.iter_mut().find(|field| has_name(field, &column.name)) else {
            if column.mode == Mode::Required {
                differences.push(format!(
                    "column {path}: a required column cannot be added to a table; must be nullable"
                ));
            }
            merged.push(field(column));
            has_changed = true;
            continue;
        };
        let (kind, mode) = (sql_name(text(found, "type")), mode(found));
        let ours = format!("{} {}", column.kind.name(), mode_name(column.mode));
        let theirs = format!("{kind} {mode}");
        // A value that is always there fits where it may be missing.
        let is_stricter = column.mode == Mode::Required && mode == "NULLABLE";
        if ours != theirs && !(is_stricter && kind == column.kind.name()) {
            differences
                .push(format!("column {path}: {ours} in the settings, {theirs} in the table"));
        }
        if column.kind == Kind::Record {
            let inner =
                merge(array(&found["fields"]), &column.fields, &format!("{path}."), differences);
            if let Some(inner) = inner {
                found["fields"] = inner.into();
                has_changed = true;
            }
        }
    }
    has_changed.then_some(merged)
}

/// A field without policy tags, at any depth.
fn without_tags(field: &Value) -> Value {
    let mut field = field.clone();
    if let Some(members) = field.as_object_mut() {
        members.remove("policyTags");
    }
    if let Some(inner) = field.get_mut("fields").and_then(Value::as_array_mut) {
        inner.iter_mut().for_each(|field| *field = without_tags(field));
    }
    field
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nullable => "NULLABLE",
        Mode::Required => "REQUIRED",
        Mode::Repeated => "REPEATED",
    }
}

pub(super) fn fields(columns: &[Column]) -> Vec<Value> {
    columns.iter().map(field).collect()
}

fn field(column: &Column) -> Value {
    let (name, mode) = (&column.name, mode_name(column.mode));
    let mut field = json!({ "name": name, "type": api_name(column.kind), "mode": mode });
    if let Some(description) = &column.description {
        field["description"] = description.as_str().into();
    }
    if column.kind == Kind::Record {
        field["fields"] = fields(&column.fields).into();
    }
    field
}

/// A type's name in the REST API, which has older ones than SQL.
fn api_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Int64 => "INTEGER",
        Kind::Float64 => "FLOAT",
        Kind::Bool => "BOOLEAN",
        other => other.name(),
    }
}

/// The name in SQL of a type that the REST API names.
fn sql_name(api_name: &str) -> &str {
    match api_name {
        "INTEGER" => "INT64",
        "FLOAT" => "FLOAT64",
        "BOOLEAN" => "BOOL",
        "STRUCT" => "RECORD",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_as_they_are_but_for_their_policy_tags() {
        let tagged = |name: &str| json!({ "name": name, "type": "STRING", "maxLength": "7", "policyTags": { "names": ["t"] } });
        let untagged = |name: &str| json!({ "name": name, "type": "STRING", "maxLength": "7" });
        let record = |fields: Value| json!({ "name": "r", "type": "RECORD", "fields": fields });
        let table = [tagged("a"), record(json!([tagged("b")]))];
        let mut differences = Vec::new();

        let merged = merge(&table, &[Column::new("new", Kind::String)], "", &mut differences);

        let added = json!({ "name": "new", "type": "STRING", "mode": "NULLABLE" });
        assert_eq!(merged, Some(vec![untagged("a"), record(json!([untagged("b")])), added]));
        assert_eq!(differences, Vec::<String>::new());
    }

    #[test]
    fn required_fields_that_no_column_fills_are_named_at_any_depth() {
        let required = |name: &str| json!({ "name": name, "type": "STRING", "mode": "REQUIRED" });
        let record =
            json!({ "name": "r", "type": "RECORD", "fields": [required("in"), required("s")] });
        let columns =
            [Column::record("r", vec![Column::new("S", Kind::String).with_mode(Mode::Required)])];
        let mut differences = Vec::new();

        merge(&[required("out"), record], &columns, "", &mut differences);

        let why = "REQUIRED in the table, and no column of the settings";
        assert_eq!(differences, [format!("column out: {why}"), format!("column r.in: {why}")]);
    }
}
