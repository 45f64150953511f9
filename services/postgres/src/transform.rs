//! Transform of the pipeline: it makes a row of a message, or refuses the message.

use std::sync::Arc;

use message::envelope::Input;
use message::{Envelope, Message};
use pipeline::hops::{RecordKind, RecordText};
use pipeline::{Error, Recovery, Step, Transform};
use rows::cell::{Cell, unfilled};
use rows::column::Column;
use rows::json;
use rows::{Rows, fitting, id_of, name_table, reasons};

/// A row on its way to the table: a cell for each column.
#[derive(Debug)]
pub struct Record(pub Vec<Cell>);

/// Makes rows, and checks that they fit the columns.
pub struct ToRow<R> {
    rows: R,
    columns: Arc<[Column]>,
    table: String,
    input: Input,
}

impl<R: Rows> ToRow<R> {
    /// Creates a transform that makes rows as `rows` does. Errors name `table`.
    pub fn new(rows: R, columns: Arc<[Column]>, table: String, input: Input) -> Self {
        Self { rows, columns, table, input }
    }

    /// Makes a row, or refuses one that PostgreSQL cannot hold.
    fn row(&self, message: &Message, envelope: &Envelope) -> Result<Record, Error> {
        let cells = fitting(&self.rows, &self.columns, message, envelope)?;
        if let Some(column) = unfilled(&self.columns, &cells) {
            let detail = format!("column {column}: expected a value, is nothing{}", id_of(message));
            return Err(Recovery::Reject(reasons::ROW_MISSING_VALUE).because("make row", detail));
        }
        if let Some(column) = with_nul(&self.columns, &cells) {
            let detail = format!(
                "column {column}: PostgreSQL's text cannot hold the character U+0000{}",
                id_of(message)
            );
            return Err(Recovery::Reject(reasons::ROW_TYPE_MISMATCH).because("make row", detail));
        }
        Ok(Record(cells))
    }
}

impl<R: Rows> Transform for ToRow<R> {
    type Record = Record;

    async fn apply(&self, message: &Message) -> Result<Step<Record>, Error> {
        let envelope = Envelope::of(message, self.input)?;
        let record = self.row(message, &envelope);
        record.map(Step::Pass).map_err(|error| name_table(&self.table, &error))
    }

    fn show(&self, _message: &Message, record: &Record) -> Option<RecordText> {
        let row = json::row(&self.columns, &record.0);
        Some(RecordText::new(RecordKind::Row, row.as_bytes()))
    }
}

/// Returns the name of the first column whose text has the character U+0000.
fn with_nul<'a>(columns: &'a [Column], cells: &[Cell]) -> Option<&'a str> {
    columns.iter().zip(cells).find(|(_, cell)| has_nul(cell)).map(|(column, _)| &*column.name)
}

fn has_nul(cell: &Cell) -> bool {
    match cell {
        Cell::Text(text) => text.contains('\0'),
        Cell::Record(cells) | Cell::List(cells) => cells.iter().any(has_nul),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rows::Mapped;
    use rows::column::{Kind, Mode};

    async fn made(columns: &[Column], data: &'static str) -> Result<Vec<Cell>, Error> {
        let rows = Mapped::new(columns, false, None);
        let columns = rows.columns().into();
        let to_row = ToRow::new(rows, columns, "public.readings".into(), Input::Raw);
        match to_row.apply(&Message::new(data)).await? {
            Step::Pass(Record(cells)) => Ok(cells),
            Step::Skip(reason) => panic!("skipped: {reason:?}"),
        }
    }

    #[tokio::test]
    async fn a_row_that_postgresql_cannot_hold_is_refused_with_its_column() {
        let name = Column::new("name", Kind::String);
        let names = Column::new("names", Kind::String).with_mode(Mode::Repeated);
        let default = Column { default: Some("GENERATE_UUID()".into()), ..name.clone() };
        for (column, data, told) in [
            (name.clone(), r#"{"name":"a\u0000b"}"#, "column name: PostgreSQL's text"),
            (names, r#"{"names":["a","\u0000"]}"#, "column names: PostgreSQL's text"),
            (default.with_mode(Mode::Required), "{}", "column name: expected a value"),
            (name.clone(), r#"{"name":{}}"#, "column name"),
        ] {
            let error = made(&[column], data).await.unwrap_err();
            let detail = error.detail();
            assert!(detail.starts_with("table public.readings: "), "{detail}");
            assert!(detail.contains(told), "{detail}");
            assert!(matches!(error.recovery(), Recovery::Reject(_)), "{detail}");
        }
        assert_eq!(made(&[name], r#"{"name":"a"}"#).await.unwrap(), [Cell::Text("a".into())]);
    }
}
