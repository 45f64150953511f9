//! The schema of a table in the form of the REST API.

use std::collections::HashSet;

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::status::Status;

/// Tags of a field. A change without them keeps the old ones.
const TAGS: &str = "policyTags";
/// Expression that gives a missing value.
pub(crate) const DEFAULT: &str = "defaultValueExpression";

/// Names of SQLite's row ids, rarest as a column name first. A column of the same name hides one.
const ROW_IDS: [&str; 3] = ["_rowid_", "oid", "rowid"];

/// Columns of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Schema {
    pub fields: Vec<Field>,
}

/// A column, or a field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: FieldType,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Other properties. `maxLength`, `precision`, `scale`, `rangeElementType` and
    /// `defaultValueExpression` have an effect. `collation` cannot change. Others are only stored.
    #[serde(flatten)]
    pub attributes: Map<String, Value>,
}

/// Types that this emulator supports, with their names in answers of the REST API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum FieldType {
    String,
    Bytes,
    #[serde(alias = "INT64")]
    Integer,
    #[serde(alias = "FLOAT64")]
    Float,
    #[serde(alias = "BOOL")]
    Boolean,
    Timestamp,
    Date,
    Time,
    Datetime,
    Numeric,
    Bignumeric,
    Json,
    Geography,
    Interval,
    Range,
    #[serde(alias = "STRUCT")]
    Record,
}

impl Field {
    /// Returns a parameter of the type. The API accepts it as text or as a number.
    pub(crate) fn parameter(&self, name: &str) -> Option<u64> {
        let value = self.attributes.get(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Returns the type of both ends of a RANGE.
    pub(crate) fn range_element(&self) -> Option<FieldType> {
        match self.attributes.get("rangeElementType")?.get("type")?.as_str()? {
            "DATE" => Some(FieldType::Date),
            "DATETIME" => Some(FieldType::Datetime),
            "TIMESTAMP" => Some(FieldType::Timestamp),
            _ => None,
        }
    }
}

/// Mode of a column: optional, required or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Mode {
    #[default]
    Nullable,
    Required,
    Repeated,
}

impl Schema {
    /// Returns the column of this name. BigQuery ignores case.
    pub(crate) fn find(&self, name: &str) -> Option<&Field> {
        find(&self.fields, name)
    }

    /// Returns a name for SQLite's row ids that no column has.
    pub(crate) fn row_id(&self) -> &'static str {
        self.free_row_id().unwrap_or(ROW_IDS[0])
    }

    fn free_row_id(&self) -> Option<&'static str> {
        ROW_IDS.into_iter().find(|name| self.find(name).is_none())
    }

    /// Checks that `next` may replace this schema.
    ///
    /// # Errors
    /// Fails with Google's text, unless the change adds columns or makes required columns optional.
    pub(crate) fn check_change(&self, next: &Self, table: &str) -> Result<(), Status> {
        check_change(&self.fields, &next.fields).map_err(|why| {
            Status::invalid(format!("Provided Schema does not match Table {table}. {why}"))
        })
    }
}

impl Schema {
    /// Refuses equal names, and types with missing or wrong parameters.
    pub(crate) fn check(&self) -> Result<(), Status> {
        if self.free_row_id().is_none() {
            let names = ROW_IDS.join(", ");
            return Err(Status::unimplemented(&format!("tables with all of the columns {names}")));
        }
        check(&self.fields).map_err(Status::invalid)
    }

    /// Returns true if a field names policy tags, even an empty list of them.
    pub(crate) fn has_tags(&self) -> bool {
        has_tags(&self.fields)
    }

    /// Copies the policy tags of fields that have none from the old schema.
    pub(crate) fn keep_tags(&mut self, old: &Self) {
        keep_tags(&mut self.fields, &old.fields);
    }
}

fn has_tags(fields: &[Field]) -> bool {
    fields.iter().any(|field| field.attributes.contains_key(TAGS) || has_tags(&field.fields))
}

fn keep_tags(fields: &mut [Field], old: &[Field]) {
    for field in fields {
        let Some(old) = find(old, &field.name) else { continue };
        if let (Some(tags), false) = (old.attributes.get(TAGS), field.attributes.contains_key(TAGS))
        {
            field.attributes.insert(TAGS.into(), tags.clone());
        }
        keep_tags(&mut field.fields, &old.fields);
    }
}

fn check(fields: &[Field]) -> Result<(), String> {
    let mut names = HashSet::new();
    for field in fields {
        let name = &field.name;
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(format!("Field {name} already exists in schema"));
        }
        if field.kind == FieldType::Range && field.range_element().is_none() {
            return Err(format!(
                "Field {name}: RANGE needs a rangeElementType of DATE, DATETIME or TIMESTAMP"
            ));
        }
        let has_length = matches!(field.kind, FieldType::String | FieldType::Bytes);
        if field.attributes.contains_key("maxLength")
            && !(has_length && field.parameter("maxLength").is_some_and(|length| length > 0))
        {
            return Err(format!("Invalid value for maxLength of field {name}"));
        }
        if ["precision", "scale"].iter().any(|key| field.attributes.contains_key(*key)) {
            let (whole, behind) = match field.kind {
                FieldType::Numeric => (29, 9),
                FieldType::Bignumeric => (38, 38),
                _ => return Err(format!("Field {name} takes neither precision nor scale")),
            };
            let scale = field.parameter("scale").unwrap_or(0);
            let precision = field.parameter("precision").unwrap_or(0);
            if scale > behind || !(scale.max(1)..=scale + whole).contains(&precision) {
                return Err(format!("Invalid precision and scale of field {name}"));
            }
        }
        check(&field.fields)?;
    }
    Ok(())
}

/// Returns a nullable field with only a name and a type.
pub(super) fn new_field(name: &str, kind: FieldType) -> Field {
    Field {
        name: name.into(),
        kind,
        mode: Mode::Nullable,
        fields: Vec::new(),
        description: None,
        attributes: Map::new(),
    }
}

/// Returns the type with this SQL name, which is in upper case.
pub(super) fn kind_named(name: &str) -> Option<FieldType> {
    Some(match name {
        "STRING" => FieldType::String,
        "INT64" | "INTEGER" | "INT" | "BIGINT" | "SMALLINT" | "TINYINT" | "BYTEINT" => {
            FieldType::Integer
        }
        "FLOAT64" | "FLOAT" => FieldType::Float,
        "BOOL" | "BOOLEAN" => FieldType::Boolean,
        "BYTES" => FieldType::Bytes,
        "TIMESTAMP" => FieldType::Timestamp,
        "DATE" => FieldType::Date,
        "TIME" => FieldType::Time,
        "DATETIME" => FieldType::Datetime,
        "NUMERIC" | "DECIMAL" => FieldType::Numeric,
        "BIGNUMERIC" | "BIGDECIMAL" => FieldType::Bignumeric,
        "JSON" => FieldType::Json,
        _ => return None,
    })
}

/// Finds a field by its name, in any case.
pub(crate) fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
}

fn check_change(old: &[Field], new: &[Field]) -> Result<(), String> {
    for field in old {
        let name = &field.name;
        let next = find(new, name).ok_or(format!("Field {name} is missing in new schema"))?;
        if next.kind != field.kind {
            let (was, is) = (field.kind, next.kind);
            return Err(format!("Field {name} has changed type from {was:?} to {is:?}"));
        }
        let is_relaxed = field.mode == Mode::Required && next.mode == Mode::Nullable;
        if next.mode != field.mode && !is_relaxed {
            let (was, is) = (field.mode, next.mode);
            return Err(format!("Field {name} has changed mode from {was:?} to {is:?}"));
        }
        for parameter in ["maxLength", "precision", "scale"] {
            let (was, is) = (field.parameter(parameter), next.parameter(parameter));
            if is.is_some_and(|is| was.is_none_or(|was| is < was)) {
                return Err(format!("Field {name} has changed {parameter} to a narrower one"));
            }
        }
        if collation(next) != collation(field) {
            let (was, is) = (collation(field), collation(next));
            return Err(format!("Field {name} has changed collation from '{was}' to '{is}'"));
        }
        check_change(&field.fields, &next.fields)?;
    }
    let added = new.iter().filter(|field| find(old, &field.name).is_none());
    match added.into_iter().find(|field| field.mode == Mode::Required) {
        Some(field) => {
            let name = &field.name;
            Err(format!("Cannot add required fields to an existing schema. (field: {name})"))
        }
        None => Ok(()),
    }
}

/// Returns the collation of a field; by default case matters.
fn collation(field: &Field) -> &str {
    field.attributes.get("collation").and_then(Value::as_str).unwrap_or_default()
}

/// Converts the schema to the form of the Storage Write API.
pub(crate) fn to_proto(schema: &Schema) -> proto::TableSchema {
    proto::TableSchema { fields: schema.fields.iter().map(field_to_proto).collect() }
}

fn field_to_proto(field: &Field) -> proto::TableFieldSchema {
    use proto::table_field_schema::{Mode as M, Type as T};
    let kind = match field.kind {
        FieldType::String => T::String,
        FieldType::Bytes => T::Bytes,
        FieldType::Integer => T::Int64,
        FieldType::Float => T::Double,
        FieldType::Boolean => T::Bool,
        FieldType::Timestamp => T::Timestamp,
        FieldType::Date => T::Date,
        FieldType::Time => T::Time,
        FieldType::Datetime => T::Datetime,
        FieldType::Numeric => T::Numeric,
        FieldType::Bignumeric => T::Bignumeric,
        FieldType::Json => T::Json,
        FieldType::Geography => T::Geography,
        FieldType::Interval => T::Interval,
        FieldType::Range => T::Range,
        FieldType::Record => T::Struct,
    };
    let mode = match field.mode {
        Mode::Nullable => M::Nullable,
        Mode::Required => M::Required,
        Mode::Repeated => M::Repeated,
    };
    let number = |name: &str| {
        field.parameter(name).and_then(|number| i64::try_from(number).ok()).unwrap_or_default()
    };
    let element = field.range_element().map(|element| match element {
        FieldType::Date => T::Date,
        FieldType::Datetime => T::Datetime,
        _ => T::Timestamp,
    });
    let default = field.attributes.get(DEFAULT).and_then(Value::as_str).unwrap_or_default();
    proto::TableFieldSchema {
        name: field.name.clone(),
        r#type: kind.into(),
        mode: mode.into(),
        fields: field.fields.iter().map(field_to_proto).collect(),
        max_length: number("maxLength"),
        precision: number("precision"),
        scale: number("scale"),
        default_value_expression: default.to_owned(),
        range_element_type: element
            .map(|element| proto::table_field_schema::FieldElementType { r#type: element.into() }),
        ..<_>::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(json: serde_json::Value) -> Schema {
        serde_json::from_value(serde_json::json!({ "fields": json })).expect("a schema")
    }

    #[test]
    fn columns_may_be_added_and_relaxed_and_nothing_else() {
        let old = schema(serde_json::json!([{"name": "a", "type": "INT64", "mode": "REQUIRED"}]));
        let change = |json| old.check_change(&schema(json), "p:d.t");

        let added = serde_json::json!([
            {"name": "A", "type": "INTEGER", "collation": ""}, {"name": "b", "type": "STRING"}]);
        assert!(change(added).is_ok());
        let refused = [
            serde_json::json!([]),
            serde_json::json!([{"name": "a", "type": "STRING", "mode": "REQUIRED"}]),
            serde_json::json!([{"name": "a", "type": "INTEGER", "mode": "REPEATED"}]),
            serde_json::json!([{"name": "a", "type": "INTEGER", "collation": "und:ci"}]),
            serde_json::json!([{"name": "a", "type": "INTEGER", "mode": "REQUIRED"},
                               {"name": "b", "type": "STRING", "mode": "REQUIRED"}]),
        ];
        for json in refused {
            assert!(change(json.clone()).is_err(), "{json}");
        }
    }
}
