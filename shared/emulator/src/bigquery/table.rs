//! A table or a view.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::names::TableName;
use super::schema::Schema;
use super::sqlite::quote;

/// A table or a view.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub schema: Schema,
    /// Fields of the REST resource apart from schema and name.
    pub resource: Map<String, Value>,
    /// Id that tells the table from a later one with the same name.
    pub id: Uuid,
}

impl Table {
    pub(super) fn view(&self) -> Option<&str> {
        self.resource.get("view")?.get("query")?.as_str()
    }

    /// Returns the statement that inserts a row, with its values in the order of the schema.
    ///
    /// In SQLite the columns have another order: the one in which they were added.
    pub(super) fn insert_statement(&self, name: &TableName) -> String {
        let columns: Vec<_> = self.schema.fields.iter().map(|field| quote(&field.name)).collect();
        if columns.is_empty() {
            return format!("INSERT INTO {} DEFAULT VALUES", name.quoted());
        }
        let values = vec!["?"; columns.len()].join(", ");
        format!("INSERT INTO {} ({}) VALUES ({values})", name.quoted(), columns.join(", "))
    }
}
