//! Transform of the pipeline: it makes a row of a message, or refuses the message.

use std::sync::Arc;

use message::envelope::Input;
use message::{Envelope, Message};
use pipeline::hops::{Ids, RecordKind, RecordText};
use pipeline::{Error, Event as _, Recovery, Step, Transform};

use crate::names::TableName;
use crate::write_api::Api;
use rows::cell::{Cell, unfilled};
use rows::column::Column;
use rows::json;
use rows::{Rows, fitting, id_of, ingest_id, name_table, reasons};

/// A row on its way to the table.
#[derive(Debug)]
pub struct Record {
    /// Cells, one for each column.
    pub cells: Vec<Cell>,
    /// Id that identifies duplicates of the row.
    pub insert_id: String,
}

/// Makes rows, and checks that they fit the columns.
pub struct ToRow<R> {
    rows: R,
    columns: Arc<[Column]>,
    table: TableName,
    input: Input,
    written_with: Api,
}

impl<R: Rows> ToRow<R> {
    /// Creates a transform that makes rows as `rows` does.
    pub fn new(rows: R, columns: Arc<[Column]>, table: TableName, input: Input) -> Self {
        Self { rows, columns, table, input, written_with: Api::default() }
    }

    /// Returns the same transform, for rows that are written with this API.
    #[must_use]
    pub fn written_with(self, api: Api) -> Self {
        Self { written_with: api, ..self }
    }
}

impl<R: Rows> Transform for ToRow<R> {
    type Record = Record;

    async fn apply(&self, message: &Message) -> Result<Step<Record>, Error> {
        let envelope = Envelope::of(message, self.input)?;
        let cells = fitting(&self.rows, &self.columns, message, &envelope)
            .map_err(|error| name_table(&self.table, &error))?;
        if self.written_with == Api::StorageWrite
            && let Some(column) = unfilled(&self.columns, &cells)
        {
            let detail = format!(
                "column {column}: expected a value, is nothing, and storage_write leaves no default to \
                 BigQuery{}",
                id_of(message)
            );
            let error = Recovery::Reject(reasons::ROW_MISSING_VALUE).because("make row", detail);
            return Err(name_table(&self.table, &error));
        }
        let insert_id = ingest_id(message, &envelope).to_owned();
        Ok(Step::Pass(Record { cells, insert_id }))
    }

    fn ids<'a>(&'a self, message: &'a Message, record: Option<&'a Record>) -> Ids<'a> {
        let ids = message.ids();
        match record {
            Some(record) if ids.ingest_id.is_empty() => {
                Ids { ingest_id: (&*record.insert_id).into(), ..ids }
            }
            _ => ids,
        }
    }

    fn show(&self, _message: &Message, record: &Record) -> Option<RecordText> {
        let row = json::row(&self.columns, &record.cells);
        Some(RecordText::new(RecordKind::Row, row.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rows::column::{Kind, Mode};

    /// Row type that leaves its cells to the defaults of BigQuery.
    struct Nothing(Vec<Column>, Vec<Cell>);

    impl Rows for Nothing {
        fn columns(&self) -> Vec<Column> {
            self.0.clone()
        }

        fn cells(&self, _message: &Message, _envelope: &Envelope) -> Result<Vec<Cell>, Error> {
            Ok(self.1.clone())
        }
    }

    #[tokio::test]
    async fn a_required_value_is_left_to_bigquery_where_the_api_can() {
        let id = Column {
            default: Some("GENERATE_UUID()".into()),
            ..Column::new("id", Kind::String).with_mode(Mode::Required)
        };
        let list = Column::record("r", vec![id.clone()]).with_mode(Mode::Repeated);
        let item = Cell::List(vec![Cell::Record(vec![Cell::Null])]);
        for (column, cell, path) in [(id, Cell::Null, "id"), (list, item, "r.id")] {
            for api in [Api::StorageWrite, Api::InsertAll] {
                let rows = Nothing(vec![column.clone()], vec![cell.clone()]);
                let name =
                    TableName { project: "p".into(), dataset: "d".into(), table: "t".into() };
                let to_row = ToRow::new(rows, [column.clone()].into(), name, Input::Raw);

                let made = to_row.written_with(api).apply(&Message::new("")).await;

                let error = made.err().map(|error| (error.recovery(), error.detail()));
                let Some((recovery, detail)) = error else {
                    assert_eq!(api, Api::InsertAll);
                    continue;
                };
                assert_eq!(recovery, Recovery::Reject(reasons::ROW_MISSING_VALUE), "{api:?}");
                assert_eq!(api, Api::StorageWrite);
                assert!(detail.contains(&format!("column {path}: ")), "{detail}");
            }
        }
    }
}
