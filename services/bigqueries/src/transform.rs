//! The pipeline's transform: a message becomes a row, or is refused.

use std::sync::Arc;

use pipeline::envelope::Input;
use pipeline::{Envelope, Error, Message, Recovery, Step, Transform};

use crate::cell::{Cell, all_fit};
use crate::column::Column;
use crate::rows::{Rows, ingest_id};
use crate::table::TableName;

/// A row on its way to the table.
#[derive(Debug)]
pub struct Record {
    /// A cell for each column.
    pub cells: Vec<Cell>,
    /// What tells duplicates of it.
    pub insert_id: String,
}

/// Makes rows, and sees to it that they fit.
pub struct ToRow<R> {
    rows: R,
    columns: Arc<[Column]>,
    table: TableName,
    input: Input,
}

impl<R: Rows> ToRow<R> {
    /// Makes rows as `rows` does.
    pub fn new(rows: R, columns: Arc<[Column]>, table: TableName, input: Input) -> Self {
        Self { rows, columns, table, input }
    }

    /// An error that says which table the row was for.
    fn name_table(&self, error: &Error) -> Error {
        let detail = format!("table {}: {}", self.table, error.detail());
        error.recovery().because("make row", detail)
    }
}

impl<R: Rows> Transform for ToRow<R> {
    type Record = Record;

    async fn apply(&self, message: &Message) -> Result<Step<Record>, Error> {
        let envelope = Envelope::of(message, self.input)?;
        let cells = self.rows.cells(message, &envelope).map_err(|error| self.name_table(&error))?;
        if !all_fit(&self.columns, &cells) {
            let detail = format!("the row type gives other cells than its columns: {cells:?}");
            let error = Recovery::Reject("row_type_mismatch").because("make row", detail);
            return Err(self.name_table(&error));
        }
        let insert_id = ingest_id(message, &envelope).to_owned();
        Ok(Step::Pass(Record { cells, insert_id }))
    }
}
