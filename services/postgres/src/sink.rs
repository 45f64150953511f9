//! Sink that writes batches of rows to a table.

use std::sync::Arc;
use std::time::Duration;

use pipeline::{Error, PushError, Recovery, Refusal};
use postgresql::{Connection, Database, describe, describe_with_values};
use rows::reasons::ROW_TOO_LARGE;
use tokio_postgres::types::ToSql;

pub use crate::batch::{Batch, EncodedBatch};
use crate::limits::MAX_BYTES;
use crate::metrics::Metrics;
use crate::response::{self, Response, because};
use crate::statements::{Statements, convert};
use crate::table::Table;
use crate::transform::Record;

/// Writes rows. A row whose key is in the table already is left out, so a batch can be written twice.
pub struct Sink {
    database: Database,
    statements: Arc<Statements>,
    table: Table,
    metrics: Metrics,
}

impl Sink {
    /// Creates a sink.
    #[must_use]
    pub fn new(database: Database, statements: Arc<Statements>, metrics: Metrics) -> Self {
        let table = Table::new(database.clone(), Arc::clone(&statements));
        Self { database, statements, table, metrics }
    }

    async fn insert(
        &self,
        connection: &mut Connection,
        batch: &EncodedBatch,
    ) -> Result<(), tokio_postgres::Error> {
        let statement = connection.prepared(&self.statements.insert).await?;
        let arrays: Vec<_> =
            batch.arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        let inserted = connection.execute(&statement, &arrays).await?;
        // The others were in the table already.
        self.metrics.duplicates.inc_by((batch.rows() as u64).saturating_sub(inserted));
        Ok(())
    }

    /// Returns the error for rows that the server refused. Names the column if one row is left.
    async fn refuse(
        &self,
        connection: &Connection,
        batch: &EncodedBatch,
        error: &tokio_postgres::Error,
    ) -> Error {
        if let Err(why) = self.table.check_fit(connection).await {
            return Recovery::Retry.because("write rows", why);
        }
        let names_column = error.as_db_error().is_some_and(|error| error.column().is_some());
        let culprit = match (batch.rows(), names_column) {
            (1, false) => self.culprit(connection, batch).await,
            _ => None,
        };
        let culprit = culprit.map(|name| format!("column {name}: ")).unwrap_or_default();
        let detail = format!("table {}: {culprit}{}", self.name(), describe_with_values(error));
        because(Response::Refused, "write rows", detail)
    }

    /// Returns the column whose value the server cannot convert, if it is the value of one.
    async fn culprit(&self, connection: &Connection, batch: &EncodedBatch) -> Option<&str> {
        let columns = self.statements.columns.iter().zip(&self.statements.types);
        for ((column, sql_type), array) in columns.zip(&batch.arrays) {
            let converted = connection.query(&convert(sql_type), &[array]).await;
            if converted.is_err_and(|error| response::of_error(&error) == Response::Refused) {
                return Some(&column.name);
            }
        }
        None
    }

    fn name(&self) -> String {
        self.statements.table.full_name()
    }
}

/// Refuses a row that is too large for a statement.
pub(crate) fn check(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_BYTES {
        let detail = format!("{bytes} bytes, a statement takes {MAX_BYTES}");
        return Err(Recovery::Reject(ROW_TOO_LARGE).because("make statement", detail));
    }
    Ok(())
}

impl pipeline::Sink for Sink {
    type Record = Record;
    type Key = ();
    type Batch = Batch;
    type EncodedBatch = EncodedBatch;
    type Scratch = ();

    fn scratch(&self) {}

    fn key(&self, _record: &Record) {}

    fn open(&self, (): &()) -> Batch {
        Batch::new(&self.statements.types)
    }

    fn push(
        &self,
        batch: &mut Batch,
        record: Record,
        (): &mut (),
    ) -> Result<usize, PushError<Record>> {
        let row = batch.push(&self.statements.columns, &record.0);
        if let Err(error) = check(row) {
            batch.undo();
            return Err(PushError::Refused(error));
        }
        if batch.len() > 1 && batch.bytes() > MAX_BYTES {
            batch.undo();
            return Err(PushError::Full(record));
        }
        Ok(batch.memory())
    }

    fn encode(&self, batch: Batch, (): &mut ()) -> EncodedBatch {
        batch.encode()
    }

    async fn write(
        &self,
        batch: &EncodedBatch,
        _time_limit: Duration,
    ) -> Result<Vec<Refusal>, Error> {
        let mut connection = self.database.connection().await?;
        let Err(error) = self.insert(&mut connection, batch).await else {
            connection.done();
            return Ok(Vec::new());
        };
        match response::of_error(&error) {
            Response::Refused => {
                let refused = self.refuse(&connection, batch, &error).await;
                connection.done();
                Err(refused)
            }
            // The connection may be broken, or have a statement of an older form of the table.
            other => {
                let detail = format!("table {}: {}", self.name(), describe(&error));
                Err(because(other, "write rows", detail))
            }
        }
    }

    fn destination(&self, _batch: &EncodedBatch) -> Option<String> {
        Some(self.name())
    }

    fn split(&self, batch: &EncodedBatch, at: usize) -> Option<(EncodedBatch, EncodedBatch)> {
        Some(batch.split(at))
    }
}
