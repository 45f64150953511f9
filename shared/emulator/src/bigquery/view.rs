//! Views, which SQLite knows as views of its own.

use super::catalog::Catalog;
use super::names::TableName;
use super::sql::{self, Scope};
use crate::status::Status;

impl Catalog {
    /// Returns the statement that creates a view.
    pub(super) fn view_statement(&self, name: &TableName, query: &str) -> Result<String, Status> {
        let query = sql::translate(query, &self.scope_of(name))?.text;
        Ok(format!("CREATE VIEW {} AS {query}", name.quoted()))
    }

    /// Returns the context of the names in a view.
    pub(super) fn scope_of<'a>(&'a self, view: &'a TableName) -> Scope<'a> {
        Scope { project: &view.0, dataset: Some((&view.0, &view.1)), catalog: self }
    }

    /// Replaces a view by another one, and checks that it can be read.
    pub(super) fn replace_view(&self, name: &TableName, create: &str) -> rusqlite::Result<()> {
        self.connection.execute_batch(&format!("DROP VIEW {}; {create}", name.quoted()))?;
        self.connection.prepare(&format!("SELECT * FROM {}", name.quoted())).map(drop)
    }
}
