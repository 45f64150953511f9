//! Datasets and tables as SQLite stores them.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::bigquery::names::{DatasetName, TableName};
use crate::bigquery::schema::{Field, FieldType, Mode, Schema};
use crate::bigquery::sqlite::quote;
use crate::bigquery::table::Table;

/// Returns the statement that creates a table.
pub(super) fn table_statement(name: &TableName, schema: &Schema) -> String {
    let columns: Vec<_> = schema.fields.iter().map(column).collect();
    // BigQuery allows a table without columns, and SQLite does not.
    let columns = if columns.is_empty() { "\"#empty\"".into() } else { columns.join(", ") };
    format!("CREATE TABLE {} ({columns})", name.quoted())
}

/// Returns the declaration of a column. SQLite derives the storage class from the name of the type.
pub(super) fn column(field: &Field) -> String {
    let stored = match (field.kind, field.mode) {
        (FieldType::Record, _) | (_, Mode::Repeated) => "TEXT",
        (FieldType::Integer | FieldType::Boolean, _) => "INTEGER",
        (FieldType::Float, _) => "REAL",
        _ => "TEXT",
    };
    format!("{} {stored}", quote(&field.name))
}

pub(super) fn read_datasets(
    connection: &Connection,
) -> anyhow::Result<BTreeMap<DatasetName, Map<String, Value>>> {
    let mut statement =
        connection.prepare("SELECT project, dataset, resource FROM \"#datasets\"")?;
    let rows = statement.query_map([], |row| {
        Ok((DatasetName(row.get(0)?, row.get(1)?), row.get::<_, String>(2)?))
    })?;
    rows.map(|row| {
        let (name, resource) = row?;
        Ok((name, serde_json::from_str(&resource)?))
    })
    .collect()
}

pub(super) fn read_tables(connection: &Connection) -> anyhow::Result<BTreeMap<TableName, Table>> {
    let mut statement =
        connection.prepare("SELECT project, dataset, id, schema, resource FROM \"#tables\"")?;
    let rows = statement.query_map([], |row| {
        let name = TableName(row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((name, row.get::<_, String>(3)?, row.get::<_, String>(4)?))
    })?;
    rows.map(|row| {
        let (name, schema, resource) = row?;
        let (schema, resource) = (serde_json::from_str(&schema)?, serde_json::from_str(&resource)?);
        Ok((name, Table { schema, resource, id: Uuid::new_v4() }))
    })
    .collect()
}
