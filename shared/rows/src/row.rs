//! Conversion of messages to rows.

use std::fmt::Display;
use std::marker::PhantomData;

use message::attribute;
use message::field_path::{Found, Pointer};
use message::{Envelope, FieldPath, Message, Payload};
use pipeline::{Error, Reason, Recovery};
use serde_json::Value;

use crate::cell::{Cell, all_fit};
use crate::column::{Column, Kind};
use crate::convert::{self, ConversionError, convert};
use crate::{reasons, unmapped};

/// Converts messages to rows.
///
/// [`from_fn`] makes rows of a function.
pub trait Rows: Send + Sync + 'static {
    /// Returns the reasons of dead letters, besides those of [`reasons::REFUSED`].
    fn reasons(&self) -> &'static [Reason] {
        &[]
    }

    /// Returns the columns of every row.
    fn columns(&self) -> Vec<Column>;

    /// Returns the row of a message: a cell for each column, in the order of the columns.
    ///
    /// Must be idempotent, because it may run again for the same message.
    ///
    /// # Errors
    /// `Reject` for a message that cannot become a row.
    fn cells(&self, message: &Message, envelope: &Envelope) -> Result<Vec<Cell>, Error>;
}

/// A custom row type.
pub trait Row: Sized + Send + Sync + 'static {
    /// Reasons of dead letters that [`Row::read`] has of its own. The metrics have them from the
    /// start.
    const REASONS: &[Reason] = &[];

    /// Returns the columns of the table.
    fn columns() -> Vec<Column>;

    /// Reads a row from a message.
    ///
    /// # Errors
    /// `Reject`, with a custom reason, for a message that cannot become a row.
    fn read(message: &Message, envelope: &Envelope) -> Result<Self, Error>;

    /// Returns the values, in the order of the columns. A [`Cell::Null`] is replaced by the default
    /// of its column if the default is a literal.
    fn cells(self) -> Vec<Cell>;
}

/// Rows of a custom [`Row`] type.
#[derive(Debug)]
pub struct Typed<R> {
    /// Defaults that the service fills in, one entry for each column.
    defaults: Vec<Option<Cell>>,
    row: PhantomData<fn() -> R>,
}

impl<R: Row> Default for Typed<R> {
    fn default() -> Self {
        let defaults = R::columns().iter().map(Column::default_cell).collect();
        Self { defaults, row: PhantomData }
    }
}

impl<R: Row> Rows for Typed<R> {
    fn reasons(&self) -> &'static [Reason] {
        R::REASONS
    }

    fn columns(&self) -> Vec<Column> {
        R::columns()
    }

    fn cells(&self, message: &Message, envelope: &Envelope) -> Result<Vec<Cell>, Error> {
        let cells = R::read(message, envelope)?.cells();
        Ok(filled(cells, &self.defaults))
    }
}

/// Replaces each [`Cell::Null`] by the default of its column, if it has one.
fn filled(mut cells: Vec<Cell>, defaults: &[Option<Cell>]) -> Vec<Cell> {
    for (cell, default) in cells.iter_mut().zip(defaults) {
        if let (Cell::Null, Some(default)) = (&*cell, default) {
            cell.clone_from(default);
        }
    }
    cells
}

/// Rows of a function, from [`from_fn`].
#[derive(Debug, Clone)]
pub struct FromFn<F> {
    columns: Vec<Column>,
    /// Defaults that the service fills in, one entry for each column.
    defaults: Vec<Option<Cell>>,
    reasons: &'static [Reason],
    function: F,
}

/// Makes rows of a function. It returns the values of a message, in the order of these columns.
///
/// As in [`Row::cells`], a [`Cell::Null`] is replaced by the default of its column if the default is
/// a literal.
pub fn from_fn<F>(columns: Vec<Column>, function: F) -> FromFn<F>
where
    F: Fn(&Message, &Envelope) -> Result<Vec<Cell>, Error> + Send + Sync + 'static,
{
    let defaults = columns.iter().map(Column::default_cell).collect();
    FromFn { columns, defaults, reasons: &[], function }
}

impl<F> FromFn<F> {
    /// Declares the reasons for which the function itself rejects messages. The metrics have them
    /// from the start.
    #[must_use]
    pub fn with_reasons(self, reasons: &'static [Reason]) -> Self {
        Self { reasons, ..self }
    }
}

impl<F> Rows for FromFn<F>
where
    F: Fn(&Message, &Envelope) -> Result<Vec<Cell>, Error> + Send + Sync + 'static,
{
    fn reasons(&self) -> &'static [Reason] {
        self.reasons
    }

    fn columns(&self) -> Vec<Column> {
        self.columns.clone()
    }

    fn cells(&self, message: &Message, envelope: &Envelope) -> Result<Vec<Cell>, Error> {
        Ok(filled((self.function)(message, envelope)?, &self.defaults))
    }
}

/// Rows as the settings describe them.
#[derive(Debug, Clone)]
pub struct Mapped {
    columns: Vec<(FieldPath, Column)>,
    /// Defaults that the service fills in, one entry for each column.
    defaults: Vec<Option<Cell>>,
    has_metadata: bool,
    rest: Option<String>,
    needs_payload: bool,
}

/// Metadata columns: the id of the transport, the time of the event, and the id that identifies
/// duplicates.
const METADATA: [(&str, Kind); 3] =
    [("message_id", Kind::String), ("publish_time", Kind::Timestamp), ("ingest_id", Kind::String)];

impl Mapped {
    /// Creates rows of these columns. `rest` names the column for the data that no other column
    /// takes.
    #[must_use]
    pub fn new(columns: &[Column], has_metadata: bool, rest: Option<&str>) -> Self {
        let path = |column: &Column| {
            column.from.clone().unwrap_or_else(|| FieldPath::Payload(Pointer::to(&column.name)))
        };
        let columns: Vec<_> = columns.iter().map(|column| (path(column), column.clone())).collect();
        let defaults = columns.iter().map(|(_, column)| column.default_cell()).collect();
        let needs_payload = rest.is_some() || columns.iter().any(|(path, _)| path.needs_payload());
        Self { columns, defaults, has_metadata, rest: rest.map(str::to_owned), needs_payload }
    }
}

impl Rows for Mapped {
    fn columns(&self) -> Vec<Column> {
        let metadata = METADATA.iter().filter(|_| self.has_metadata);
        let metadata = metadata.map(|(name, kind)| Column::new(*name, *kind));
        let own = self.columns.iter().map(|(_, column)| column.clone());
        let rest = self.rest.iter().map(|name| Column::new(name, Kind::Json));
        metadata.chain(own).chain(rest).collect()
    }

    fn cells(&self, message: &Message, envelope: &Envelope) -> Result<Vec<Cell>, Error> {
        let payload = self.payload(message, envelope)?;
        let mut cells = Vec::with_capacity(METADATA.len() + self.columns.len() + 1);
        if self.has_metadata {
            cells.push(Cell::Text(message.id.clone()));
            cells.push(publish_time(message, envelope)?);
            cells.push(Cell::Text(ingest_id(message, envelope).to_owned()));
        }
        for ((path, column), default) in self.columns.iter().zip(&self.defaults) {
            let found = path.find(message, envelope, payload.as_ref());
            let cell = match found {
                None | Some(Found::Json(Value::Null)) if column.default.is_some() => {
                    Ok(default.clone().unwrap_or(Cell::Null))
                }
                None => convert(column, None),
                Some(Found::Json(value)) => convert(column, Some(value)),
                Some(Found::Text(text)) => convert(column, Some(&Value::from(text))),
            };
            cells.push(cell.map_err(|error| refuse(&error, path, message))?);
        }
        if self.rest.is_some() {
            cells.push(unmapped::of(message, envelope, payload, &self.columns).into());
        }
        Ok(cells)
    }
}

impl Mapped {
    /// Returns the payload as JSON, or `None` if no column needs it.
    ///
    /// A payload that is not JSON has no values for columns, so it goes to the rest column as a
    /// whole. Without a rest column it would be lost, so the message is refused.
    fn payload(&self, message: &Message, envelope: &Envelope) -> Result<Option<Value>, Error> {
        let payload = envelope.payload.as_ref().filter(|_| self.needs_payload);
        let Some(bytes) = payload.map(Payload::bytes).filter(|bytes| !bytes.is_empty()) else {
            return Ok(None);
        };
        match message::json::parse(&bytes) {
            Ok(payload) => Ok(Some(payload)),
            Err(_) if self.rest.is_some() => Ok(None),
            Err(error) => {
                let detail = format!(
                    "the payload is no JSON ({error}), and there is no rest column{}",
                    id_of(message)
                );
                Err(Recovery::Reject(reasons::PAYLOAD_UNREADABLE).because("make row", detail))
            }
        }
    }
}

/// Returns the time of the event. An envelope may hold a time that is out of BigQuery's range.
fn publish_time(message: &Message, envelope: &Envelope) -> Result<Cell, Error> {
    let time = envelope.publish_time.unwrap_or(message.publish_time);
    let (column, cell) = (Column::new("publish_time", Kind::Timestamp), Cell::from(time));
    if cell.fits(&column) {
        return Ok(cell);
    }
    let detail = format!(
        "column publish_time (from the envelope): expected {}, is {time}{}",
        convert::expected(Kind::Timestamp),
        id_of(message)
    );
    Err(Recovery::Reject(reasons::ROW_TYPE_MISMATCH).because("make row", detail))
}

/// Makes the row of a message, and checks that it has a fitting cell for each column.
///
/// # Errors
/// `Reject` for a message that cannot become a row.
pub fn fitting<R: Rows>(
    rows: &R,
    columns: &[Column],
    message: &Message,
    envelope: &Envelope,
) -> Result<Vec<Cell>, Error> {
    let cells = rows.cells(message, envelope)?;
    if !all_fit(columns, &cells) {
        let detail = format!("the row type gives other cells than its columns: {cells:?}");
        return Err(Recovery::Reject(reasons::ROW_TYPE_MISMATCH).because("make row", detail));
    }
    Ok(cells)
}

/// Adds the name of the table to an error.
#[must_use]
pub fn name_table(table: impl Display, error: &Error) -> Error {
    let detail = format!("table {table}: {}", error.detail());
    error.recovery().because("make row", detail)
}

/// Returns the id that identifies duplicates of a message: its attribute `ingest_id`, else the id
/// of the envelope.
pub fn ingest_id<'a>(message: &'a Message, envelope: &'a Envelope) -> &'a str {
    message.attributes.get(attribute::INGEST_ID).unwrap_or(&envelope.id)
}

/// Returns the end of a detail, which names the message. It is empty for a message without an id, as
/// `explain` reads it from standard input.
pub fn id_of(message: &Message) -> String {
    if message.id.is_empty() { String::new() } else { format!(", message {}", message.id) }
}

fn refuse(error: &ConversionError, path: &FieldPath, message: &Message) -> Error {
    let ConversionError { reason, column, expected, actual } = error;
    let detail = format!(
        "column {column} (from {path}): expected {expected}, is {actual}{}",
        id_of(message)
    );
    Recovery::Reject(*reason).because("make row", detail)
}

#[cfg(test)]
mod tests {
    use message::envelope::Input;

    use super::*;
    use crate::column::Mode;

    fn cells(
        columns: &[Column],
        rest: Option<&str>,
        data: &'static str,
    ) -> Result<Vec<Cell>, Error> {
        let message = Message::new(data);
        let envelope = Envelope::of(&message, Input::Raw).unwrap();
        Mapped::new(columns, false, rest).cells(&message, &envelope)
    }

    #[test]
    fn a_missing_value_is_the_default_of_its_column() {
        let column = |mode, default: &str| Column {
            default: Some(default.into()),
            ..Column::new("n", Kind::Int64).with_mode(mode)
        };
        let cells = |mode, default, data| cells(&[column(mode, default)], None, data).unwrap();

        for mode in [Mode::Nullable, Mode::Required] {
            for missing in ["{}", r#"{"n": null}"#, ""] {
                assert_eq!(cells(mode, "7", missing), [Cell::Int(7)], "{missing}");
                // BigQuery fills in this default.
                assert_eq!(cells(mode, "ABS(7)", missing), [Cell::Null], "{missing}");
            }
            assert_eq!(cells(mode, "7", r#"{"n": 1}"#), [Cell::Int(1)]);
        }
        assert!(Cell::Null.fits(&column(Mode::Required, "ABS(7)")));
    }

    #[test]
    fn a_row_type_gets_the_defaults_of_its_columns() {
        struct Reading;

        impl Row for Reading {
            fn columns() -> Vec<Column> {
                let with = |name: &str, default: Option<&str>| Column {
                    default: default.map(Into::into),
                    ..Column::new(name, Kind::Int64)
                };
                vec![with("given", Some("7")), with("missing", Some("7")), with("none", None)]
            }

            fn read(_message: &Message, _envelope: &Envelope) -> Result<Self, Error> {
                Ok(Self)
            }

            fn cells(self) -> Vec<Cell> {
                vec![Cell::Int(1), Cell::Null, Cell::Null]
            }
        }
        let message = Message::new("");
        let envelope = Envelope::of(&message, Input::Raw).unwrap();

        let cells = Typed::<Reading>::default().cells(&message, &envelope).unwrap();

        assert_eq!(cells, [Cell::Int(1), Cell::Int(7), Cell::Null]);
    }

    #[test]
    fn a_function_makes_rows_with_defaults_and_reasons() {
        let with = |name: &str, default: Option<&str>| Column {
            default: default.map(Into::into),
            ..Column::new(name, Kind::Int64)
        };
        let columns =
            vec![with("bytes", Some("7")), with("missing", Some("7")), with("none", None)];
        let factor = 2;
        let rows = from_fn(columns.clone(), move |message: &Message, _: &Envelope| {
            if message.data.is_empty() {
                return Err(Recovery::Reject(reasons::ROW_MISSING_VALUE).because("read", "empty"));
            }
            let bytes = i64::try_from(message.data.len()).unwrap_or_default();
            Ok(vec![Cell::Int(bytes * factor), Cell::Null, Cell::Null])
        });
        let rows = rows.with_reasons(&[reasons::ROW_MISSING_VALUE]);
        let cells = |data: &'static str| {
            let message = Message::new(data);
            rows.cells(&message, &Envelope::of(&message, Input::Raw).unwrap())
        };

        assert_eq!(cells("12345").unwrap(), [Cell::Int(10), Cell::Int(7), Cell::Null]);
        assert!(cells("").is_err());
        assert_eq!(rows.columns(), columns);
        assert_eq!(rows.reasons(), [reasons::ROW_MISSING_VALUE]);
    }

    #[test]
    fn a_payload_that_is_no_json_is_in_the_rest_or_refused() {
        let from_payload = [Column::new("n", Kind::Int64)];

        let rest = cells(&from_payload, Some("rest"), "text").unwrap();
        assert!(rest[0] == Cell::Null && rest[1] != Cell::Null, "{rest:?}");
        let refused = cells(&from_payload, None, "text").unwrap_err();
        assert_eq!(refused.recovery(), Recovery::Reject(reasons::PAYLOAD_UNREADABLE));

        assert_eq!(
            cells(&from_payload, None, "").unwrap(),
            [Cell::Null],
            "there is nothing to lose"
        );
        let from_attribute = [Column {
            from: Some("attribute.a".parse().unwrap()),
            ..Column::new("a", Kind::String)
        }];
        assert_eq!(cells(&from_attribute, None, "text").unwrap(), [Cell::Null], "nobody wants it");
    }
}
