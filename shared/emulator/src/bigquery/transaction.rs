//! Changes of a table in several steps: all or none, in SQLite and in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tonic::Code;

use super::catalog::Catalog;
use super::lag::TableHistory;
use super::names::TableName;
use super::sqlite::failed;
use super::table::Table;
use crate::status::Status;

/// Tells whether a job is only validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DryRun {
    Yes,
    No,
}

/// State of a table before a change.
struct TableState {
    table: Option<Table>,
    history: TableHistory,
}

impl Catalog {
    /// Runs a change of one table. An error or a panic restores the earlier state.
    ///
    /// Changes may be nested. Then the outermost one decides.
    pub(super) fn atomically<T>(
        &mut self,
        name: &TableName,
        change: impl FnOnce(&mut Self) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.atomically_unless_dry(name, DryRun::No, change)
    }

    /// Runs a change of one table. A dry run restores the earlier state, too.
    pub(super) fn atomically_unless_dry<T>(
        &mut self,
        name: &TableName,
        dry_run: DryRun,
        change: impl FnOnce(&mut Self) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let before =
            TableState { table: self.tables().get(name).cloned(), history: self.lag.history(name) };
        self.connection.execute_batch("SAVEPOINT change").map_err(|error| failed(&error))?;
        let done = catch_unwind(AssertUnwindSafe(|| change(self)));
        let done = done
            .unwrap_or_else(|_| Err(Status::new(Code::Internal, "the worker of a change died")));
        let is_kept = done.is_ok() && dry_run == DryRun::No;
        let kept = if is_kept { self.connection.execute_batch("RELEASE change") } else { Ok(()) };
        if !is_kept || kept.is_err() {
            self.undo(name, before);
        }
        kept.map_err(|error| failed(&error))?;
        done
    }

    fn undo(&mut self, name: &TableName, before: TableState) {
        // Some errors of SQLite have already ended the transaction.
        if !self.connection.is_autocommit() {
            let undone = self.connection.execute_batch("ROLLBACK TO change; RELEASE change");
            if let Err(error) = undone {
                tracing::error!(%error, "a change of a table was not undone");
            }
        }
        self.set_table(name, before.table);
        self.lag.restore(name, before.history);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::bigquery::lag::Lag;
    use crate::bigquery::schema::Schema;
    use crate::conditions::Conditions;

    /// Returns a catalog in memory with a table of these fields.
    pub(in crate::bigquery) fn with_table(fields: Value) -> (Catalog, TableName) {
        let lag = Lag::new(Conditions::default());
        let mut catalog = Catalog::open(Path::new(":memory:"), lag).expect("a catalog");
        let name = TableName("p".into(), "d".into(), "t".into());
        catalog.create_dataset(&name.dataset(), Map::new()).expect("a dataset");
        let schema = serde_json::from_value(json!({ "fields": fields })).expect("a schema");
        catalog.create_table(&name, schema, Map::new()).expect("a table");
        (catalog, name)
    }

    #[test]
    fn a_change_that_panics_or_fails_leaves_the_table_as_it_was() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));

        let panics = catalog.atomically(&name, |catalog| {
            catalog.delete_table(&name)?;
            panic!("in the middle of a change");
        });
        let fails = catalog.atomically(&name, |catalog| {
            catalog.delete_table(&name)?;
            catalog.create_table(&name, Schema::default(), Map::new())?;
            Err::<(), _>(Status::invalid("no"))
        });
        let tried = catalog
            .atomically_unless_dry(&name, DryRun::Yes, |catalog| catalog.delete_table(&name));

        let panics: Result<(), Status> = panics;
        assert_eq!(panics.map_err(|error| error.code), Err(Code::Internal));
        assert_eq!(fails.map_err(|error| error.code), Err(Code::InvalidArgument));
        assert!(tried.is_ok() && catalog.connection.is_autocommit());
        catalog.insert(&name, [vec![rusqlite::types::Value::Integer(1)]]).expect("an insert");
        assert_eq!(catalog.last_row(&name).expect("a count"), 1);
    }
}
