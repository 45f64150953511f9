//! The schema of a table, in the REST API's form.

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::status::Status;

/// A field's tags: a change that leaves them out keeps them.
const TAGS: &str = "policyTags";

/// The columns of a table.
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
    pub kind: Kind,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What is kept and not obeyed, such as `maxLength`, `collation` and `defaultValueExpression`.
    #[serde(flatten)]
    pub attributes: Map<String, Value>,
}

/// The types that this emulator keeps, under the names that the REST API answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Kind {
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
    #[serde(alias = "STRUCT")]
    Record,
}

/// Whether a value may be missing, must be there, or is a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Mode {
    #[default]
    Nullable,
    Required,
    Repeated,
}

impl Schema {
    /// The column of this name; BigQuery takes no notice of case.
    pub(crate) fn find(&self, name: &str) -> Option<&Field> {
        find(&self.fields, name)
    }

    /// Whether `next` may replace this schema.
    ///
    /// # Errors
    /// In Google's words, for anything but new columns and columns that need no value any more.
    pub(crate) fn check_change(&self, next: &Self, table: &str) -> Result<(), Status> {
        check_change(&self.fields, &next.fields).map_err(|why| {
            Status::invalid(format!("Provided Schema does not match Table {table}. {why}"))
        })
    }
}

impl Schema {
    /// Takes over the policy tags of fields that name none.
    pub(crate) fn keep_tags(&mut self, old: &Self) {
        keep_tags(&mut self.fields, &old.fields);
    }
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

/// The schema as the Storage Write API tells it.
pub(crate) fn to_proto(schema: &Schema) -> proto::TableSchema {
    proto::TableSchema { fields: schema.fields.iter().map(field_to_proto).collect() }
}

fn field_to_proto(field: &Field) -> proto::TableFieldSchema {
    use proto::table_field_schema::{Mode as M, Type as T};
    let kind = match field.kind {
        Kind::String => T::String,
        Kind::Bytes => T::Bytes,
        Kind::Integer => T::Int64,
        Kind::Float => T::Double,
        Kind::Boolean => T::Bool,
        Kind::Timestamp => T::Timestamp,
        Kind::Date => T::Date,
        Kind::Time => T::Time,
        Kind::Datetime => T::Datetime,
        Kind::Numeric => T::Numeric,
        Kind::Bignumeric => T::Bignumeric,
        Kind::Json => T::Json,
        Kind::Record => T::Struct,
    };
    let mode = match field.mode {
        Mode::Nullable => M::Nullable,
        Mode::Required => M::Required,
        Mode::Repeated => M::Repeated,
    };
    proto::TableFieldSchema {
        name: field.name.clone(),
        r#type: kind.into(),
        mode: mode.into(),
        fields: field.fields.iter().map(field_to_proto).collect(),
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
            {"name": "A", "type": "INTEGER"}, {"name": "b", "type": "STRING"}]);
        assert!(change(added).is_ok());
        let refused = [
            serde_json::json!([]),
            serde_json::json!([{"name": "a", "type": "STRING", "mode": "REQUIRED"}]),
            serde_json::json!([{"name": "a", "type": "INTEGER", "mode": "REPEATED"}]),
            serde_json::json!([{"name": "a", "type": "INTEGER", "mode": "REQUIRED"},
                               {"name": "b", "type": "STRING", "mode": "REQUIRED"}]),
        ];
        for json in refused {
            assert!(change(json.clone()).is_err(), "{json}");
        }
    }
}
