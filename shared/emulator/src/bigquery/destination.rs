//! Tables that jobs write to.

use serde::Deserialize;
use serde_json::{Map, Value};
use tonic::Code;

use super::catalog::Catalog;
use super::names::TableName;
use super::rows::Rows;
use super::schema::Schema;
use super::value;
use crate::status::Status;

/// Name of a table in a request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reference {
    #[serde(default)]
    project_id: Option<String>,
    dataset_id: String,
    table_id: String,
}

/// Treatment of rows that the table already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum WriteDisposition {
    #[serde(rename = "WRITE_EMPTY")]
    Empty,
    #[serde(rename = "WRITE_APPEND")]
    Append,
    #[serde(rename = "WRITE_TRUNCATE")]
    Truncate,
    #[serde(rename = "WRITE_TRUNCATE_DATA")]
    TruncateData,
}

/// Rule for a missing table: create it or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum CreateDisposition {
    #[default]
    CreateIfNeeded,
    CreateNever,
}

/// A table that takes the rows of a job.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub table: TableName,
    pub write: WriteDisposition,
    pub create: CreateDisposition,
    /// Properties of a created table, apart from its schema.
    pub resource: Map<String, Value>,
}

/// Properties of a job that a created table takes over. Schema updates are not supported.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Properties {
    time_partitioning: Option<Value>,
    range_partitioning: Option<Value>,
    clustering: Option<Value>,
    schema_update_options: Vec<String>,
}

impl Properties {
    /// Returns the properties of a created table.
    ///
    /// # Errors
    /// Fails for schema updates, and names the option.
    pub(super) fn resource(&self) -> Result<Map<String, Value>, Status> {
        if let Some(option) = self.schema_update_options.first() {
            return Err(Status::unimplemented(&format!("schemaUpdateOptions {option}")));
        }
        let all = [
            ("timePartitioning", &self.time_partitioning),
            ("rangePartitioning", &self.range_partitioning),
            ("clustering", &self.clustering),
        ];
        let given = all.into_iter().filter_map(|(key, value)| Some((key.into(), value.clone()?)));
        Ok(given.collect())
    }
}

impl Reference {
    pub(super) fn name(&self, project: &str) -> TableName {
        let project = self.project_id.clone().unwrap_or_else(|| project.into());
        TableName(project, self.dataset_id.clone(), self.table_id.clone())
    }
}

impl Catalog {
    /// Prepares the table for rows of this schema, and returns the schema that rows must have.
    ///
    /// It may remove rows, so the caller must undo it if the new rows do not fit.
    ///
    /// # Errors
    /// Fails if the dispositions forbid it, or if the schemas do not fit.
    pub(super) fn prepare(
        &mut self,
        destination: &Destination,
        schema: Option<&Schema>,
    ) -> Result<Schema, Status> {
        let name = &destination.table;
        self.allow("bigquery.tables.updateData")?;
        self.lag.spend_update(name)?;
        self.show_dataset(&name.dataset())?;
        let Some(table) = self.tables().get(name).cloned() else {
            if destination.create == CreateDisposition::CreateNever {
                let text = format!("Not found: Table {}", name.display());
                return Err(Status::new(Code::NotFound, text));
            }
            self.allow("bigquery.tables.create")?;
            let schema =
                schema.ok_or_else(|| Status::invalid("No schema specified on job or table."))?;
            self.make_table(name, schema.clone(), destination.resource.clone())?;
            return Ok(schema.clone());
        };
        if table.view().is_some() {
            return Err(Status::invalid(format!("Cannot write to a view: {}", name.display())));
        }
        let is_empty = self.last_row(name)? == 0;
        match destination.write {
            WriteDisposition::Empty if !is_empty => {
                let text = format!("Already Exists: Table {}", name.display());
                Err(Status::new(Code::AlreadyExists, text))
            }
            WriteDisposition::TruncateData => {
                self.truncate(name)?;
                Ok(table.schema)
            }
            WriteDisposition::Truncate => match schema {
                Some(schema) if *schema != table.schema => {
                    let mut resource = table.resource;
                    resource.remove("etag");
                    self.delete_table(name)?;
                    self.make_table(name, schema.clone(), resource)?;
                    Ok(schema.clone())
                }
                _ => {
                    self.truncate(name)?;
                    Ok(table.schema)
                }
            },
            WriteDisposition::Empty | WriteDisposition::Append => {
                let unknown = schema.and_then(|schema| {
                    schema.fields.iter().find(|field| table.schema.find(&field.name).is_none())
                });
                match unknown {
                    Some(field) => Err(Status::invalid(format!(
                        "Provided Schema does not match Table {}. Cannot add fields (field: {})",
                        name.display(),
                        field.name
                    ))),
                    None => Ok(table.schema),
                }
            }
        }
    }

    /// Writes the rows of a query into its table, or leaves the table unchanged.
    pub(super) fn deliver(&mut self, destination: &Destination, rows: &Rows) -> Result<(), Status> {
        let schema = Schema { fields: rows.fields.clone() };
        self.atomically(&destination.table, |catalog| {
            let schema = catalog.prepare(destination, Some(&schema))?;
            catalog.fill(&destination.table, &schema, rows)
        })
    }

    /// Adds the rows of a query to a table of this schema.
    pub(super) fn fill(
        &mut self,
        name: &TableName,
        schema: &Schema,
        rows: &Rows,
    ) -> Result<(), Status> {
        let stored = (0..rows.rows.len()).map(|index| {
            let mut row = rows.row(index);
            value::default::fill(&schema.fields, &mut row)
                .map_err(|why| Status::unimplemented(&why))?;
            value::store_row(&schema.fields, &row, false)
                .map_err(|fault| Status::invalid(fault.message))
        });
        let stored = stored.collect::<Result<Vec<_>, _>>()?;
        self.insert(name, stored)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value as Sql;
    use serde_json::json;

    use super::*;
    use crate::bigquery::schema::{FieldType, new_field};
    use crate::bigquery::transaction::tests::with_table;

    fn destination(table: &TableName, write: WriteDisposition) -> Destination {
        let create = CreateDisposition::CreateIfNeeded;
        Destination { table: table.clone(), write, create, resource: Map::new() }
    }

    fn rows(names: &[&str]) -> Rows {
        let field = |name: &&str| new_field(name, FieldType::Integer);
        let fields = names.iter().map(field).collect();
        Rows { fields, rows: vec![vec![Sql::Integer(7); names.len()]] }
    }

    fn columns(catalog: &Catalog, name: &TableName) -> Vec<String> {
        let fields = &catalog.table(name).expect("the table").schema.fields;
        fields.iter().map(|field| field.name.clone()).collect()
    }

    #[test]
    fn dispositions_decide_what_becomes_of_old_rows_and_columns() {
        use WriteDisposition::{Append, Empty, Truncate, TruncateData};
        let exists = Some(Code::AlreadyExists);
        let invalid = Some(Code::InvalidArgument);
        for (write, names, refused, count, expected) in [
            (Append, &["a"][..], None, 2, &["a", "b"][..]),
            (Append, &["a", "c"], invalid, 1, &["a", "b"]),
            (Empty, &["a"], exists, 1, &["a", "b"]),
            (Truncate, &["a", "b"], None, 1, &["a", "b"]),
            (Truncate, &["c"], None, 1, &["c"]),
            (TruncateData, &["a"], None, 1, &["a", "b"]),
            (TruncateData, &["c"], invalid, 1, &["a", "b"]),
        ] {
            let fields =
                json!([{ "name": "a", "type": "INTEGER" }, { "name": "b", "type": "INTEGER" }]);
            let (mut catalog, name) = with_table(fields);
            catalog.insert(&name, [vec![Sql::Integer(1), Sql::Integer(2)]]).expect("an insert");

            let delivered = catalog.deliver(&destination(&name, write), &rows(names));

            assert_eq!(delivered.err().map(|one| one.code), refused, "{write:?} {names:?}");
            let found = (catalog.last_row(&name).expect("a count"), columns(&catalog, &name));
            let expected = (count, expected.iter().map(|one| (*one).to_owned()).collect());
            assert_eq!(found, expected, "{write:?} {names:?}");
        }
    }

    #[test]
    fn a_missing_table_is_created_unless_that_is_forbidden() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let other = TableName(name.0.clone(), name.1.clone(), "other".into());
        let creates = destination(&other, WriteDisposition::Empty);
        let never = Destination { create: CreateDisposition::CreateNever, ..creates.clone() };

        let refused = catalog.deliver(&never, &rows(&["c"])).err().map(|one| one.message);
        let delivered = catalog.deliver(&creates, &rows(&["c"]));

        assert_eq!(refused.as_deref(), Some("Not found: Table p:d.other"));
        assert!(delivered.is_ok());
        assert_eq!(columns(&catalog, &other), ["c"]);
        let properties = Properties {
            schema_update_options: vec!["ALLOW_FIELD_ADDITION".into()],
            ..Properties::default()
        };
        assert!(properties.resource().is_err());
    }
}
