//! Checks the layout of tables: columns, partitions and clusters.

use serde_json::{Map, Value};

use super::schema::{Field, FieldType, Mode, Schema};
use crate::status::Status;

/// Fields of a table resource whose rows are elsewhere.
const OTHER_KINDS: [&str; 5] = [
    "biglakeConfiguration",
    "cloneDefinition",
    "externalDataConfiguration",
    "materializedView",
    "snapshotDefinition",
];

/// Most levels of nested records.
const MAX_DEPTH: usize = 15;
/// Longest name of a column, in characters.
const MAX_NAME: usize = 300;
/// Characters that may not be in the name of a column
/// (<https://cloud.google.com/bigquery/docs/schemas#flexible-column-names>).
const NOT_IN_NAMES: &str = "!\"$()*,./;?@[\\]^`{}~";
/// Prefixes that the name of a column may not have, in any case.
const RESERVED: [&str; 6] =
    ["_colidentifier", "_file_", "_partition", "_row_timestamp", "_table_", "__root__"];
/// Most columns that a table is clustered by.
const MAX_CLUSTERING: usize = 4;

/// Refuses a table that BigQuery would refuse.
pub(super) fn check(schema: &Schema, resource: &Map<String, Value>) -> Result<(), Status> {
    if let Some(kind) = OTHER_KINDS.iter().find(|kind| resource.contains_key(**kind)) {
        return Err(Status::unimplemented(kind));
    }
    let checked = check_fields(&schema.fields, MAX_DEPTH)
        .and_then(|()| check_partitioning(schema, resource))
        .and_then(|()| check_clustering(schema, resource));
    checked.map_err(Status::invalid)
}

/// Fills the fields that a change of the partitioning leaves out.
pub(super) fn keep_partitioning(before: &Map<String, Value>, changes: &mut Map<String, Value>) {
    const PART: &str = "timePartitioning";
    let before = before.get(PART).and_then(Value::as_object);
    let change = changes.get_mut(PART).and_then(Value::as_object_mut);
    if let (Some(before), Some(change)) = (before, change) {
        for (key, value) in before {
            change.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Refuses a change of the partitioning.
pub(super) fn check_change(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Result<(), Status> {
    for part in ["timePartitioning", "rangePartitioning"] {
        let is_same = match (before.get(part), after.get(part)) {
            (None, None) => true,
            (Some(before), Some(after)) => {
                ["type", "field", "range"].iter().all(|key| before.get(key) == after.get(key))
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !is_same {
            let text = "Cannot change the partitioning of a table that exists.";
            return Err(Status::invalid(text));
        }
    }
    Ok(())
}

fn check_fields(fields: &[Field], depth: usize) -> Result<(), String> {
    for field in fields {
        let name = &field.name;
        let lower = name.to_ascii_lowercase();
        let is_name = (1..=MAX_NAME).contains(&name.chars().count())
            && !name.contains(|char: char| NOT_IN_NAMES.contains(char))
            && !RESERVED.iter().any(|start| lower.starts_with(start));
        if !is_name {
            return Err(format!("Invalid field name \"{name}\"."));
        }
        if field.kind != FieldType::Record {
            continue;
        }
        if field.fields.is_empty() {
            return Err(format!("Field {name} is type RECORD but has no schema"));
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("Field {name} is nested too deep: at most {MAX_DEPTH} records"));
        };
        check_fields(&field.fields, depth)?;
    }
    Ok(())
}

/// Returns the column of this name, or an error if a table cannot be partitioned or clustered by
/// it.
fn column<'a>(schema: &'a Schema, name: &str, what: &str) -> Result<&'a Field, String> {
    let found = schema.find(name).ok_or_else(|| {
        format!("The field specified for {what} cannot be found in the schema: {name}.")
    })?;
    if found.mode == Mode::Repeated {
        return Err(format!("The field specified for {what} is repeated: {name}."));
    }
    Ok(found)
}

fn check_partitioning(schema: &Schema, resource: &Map<String, Value>) -> Result<(), String> {
    let what = "partitioning";
    let wrong = |name: &str, kind: FieldType| {
        Err(format!("The field specified for {what} has the wrong type: {name}, {kind:?}."))
    };
    if let Some(by) = resource.get("timePartitioning") {
        let unit = by.get("type").and_then(Value::as_str).unwrap_or_default();
        if !["HOUR", "DAY", "MONTH", "YEAR"].contains(&unit) {
            return Err(format!("Invalid type of time partitioning: \"{unit}\"."));
        }
        if let Some(name) = by.get("field").and_then(Value::as_str) {
            let kind = column(schema, name, what)?.kind;
            let is_time = matches!(kind, FieldType::Timestamp | FieldType::Datetime)
                || kind == FieldType::Date && unit != "HOUR";
            if !is_time {
                return wrong(name, kind);
            }
        }
    }
    if let Some(by) = resource.get("rangePartitioning") {
        let name = by.get("field").and_then(Value::as_str).unwrap_or_default();
        let kind = column(schema, name, what)?.kind;
        if kind != FieldType::Integer {
            return wrong(name, kind);
        }
        if resource.contains_key("timePartitioning") {
            return Err("A table has one kind of partitioning.".into());
        }
    }
    Ok(())
}

fn check_clustering(schema: &Schema, resource: &Map<String, Value>) -> Result<(), String> {
    let fields = resource.get("clustering").and_then(|by| by.get("fields")?.as_array());
    let Some(fields) = fields else { return Ok(()) };
    if !(1..=MAX_CLUSTERING).contains(&fields.len()) {
        return Err(format!("A table is clustered by 1 to {MAX_CLUSTERING} fields."));
    }
    for name in fields {
        let name = name.as_str().unwrap_or_default();
        let kind = column(schema, name, "clustering")?.kind;
        let is_right = match kind {
            FieldType::Bignumeric
            | FieldType::Boolean
            | FieldType::Date
            | FieldType::Datetime
            | FieldType::Geography
            | FieldType::Integer
            | FieldType::Numeric
            | FieldType::Range
            | FieldType::String
            | FieldType::Timestamp => true,
            FieldType::Bytes
            | FieldType::Float
            | FieldType::Interval
            | FieldType::Json
            | FieldType::Record
            | FieldType::Time => false,
        };
        if !is_right {
            return Err(format!(
                "The field specified for clustering has the wrong type: {name}, {kind:?}."
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_that_google_cannot_have_are_refused() {
        let schema: Schema = serde_json::from_value(json!({ "fields": [
            { "name": "day", "type": "DATE" }, { "name": "at", "type": "TIMESTAMP" },
            { "name": "n", "type": "INTEGER" }, { "name": "f", "type": "FLOAT" },
            { "name": "s", "type": "STRING" },
            { "name": "list", "type": "STRING", "mode": "REPEATED" },
        ]}))
        .expect("a schema");
        let is_right =
            |resource: Value| check(&schema, resource.as_object().expect("a resource")).is_ok();
        let by_time = |unit: &str, field: &str| json!({ "timePartitioning": { "type": unit, "field": field } });
        let clustered = |fields: &[&str]| json!({ "clustering": { "fields": fields } });

        assert!(is_right(by_time("DAY", "day")) && is_right(by_time("HOUR", "at")));
        assert!(is_right(json!({ "timePartitioning": { "type": "DAY" } })));
        assert!(is_right(json!({ "rangePartitioning": { "field": "n", "range": {} } })));
        assert!(is_right(clustered(&["S", "n", "day", "at"])));
        for wrong in [
            by_time("DAY", "none"),
            by_time("DAY", "s"),
            by_time("HOUR", "day"),
            by_time("WEEK", "day"),
            json!({ "rangePartitioning": { "field": "s", "range": {} } }),
            clustered(&["none"]),
            clustered(&["f"]),
            clustered(&["list"]),
            clustered(&[]),
            clustered(&["s", "n", "day", "at", "s"]),
        ] {
            assert!(!is_right(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn names_and_depths_have_limits() {
        let nested = |depth: usize| {
            let inner = json!({ "name": "x", "type": "INTEGER" });
            (0..depth)
                .fold(inner, |inner, _| json!({ "name": "r", "type": "RECORD", "fields": [inner] }))
        };
        let is_right = |field: Value| {
            let field: Field = serde_json::from_value(field).expect("a field");
            check_fields(&[field], MAX_DEPTH).is_ok()
        };

        assert!(is_right(nested(15)) && !is_right(nested(16)));
        assert!(!is_right(json!({ "name": "r", "type": "RECORD" })));
        for (name, expected) in [
            ("a b-c é 1", true),
            ("1a", true),
            ("", false),
            ("a.b", false),
            ("_PARTITIONTIME", false),
            (&"x".repeat(301), false),
        ] {
            assert_eq!(is_right(json!({ "name": name, "type": "STRING" })), expected, "{name}");
        }
    }
}
