//! Rows as Arrow columns, for the Storage Write API.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder,
    Float64Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, BooleanArray, ListArray, RecordBatch, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Fields, SchemaRef, TimeUnit};
use arrow_select::filter::filter_record_batch;

use rows::cell::Cell;
use rows::column::{Column, Kind, Mode};

/// Estimated bytes of the headers of an encoded batch, for each column.
const HEADER_BYTES: usize = 256;

/// Schema of all batches, also as a message in Arrow's stream format.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    arrow: SchemaRef,
    message: Vec<u8>,
}

impl Schema {
    pub(crate) fn new(columns: &[Column]) -> Result<Self, ArrowError> {
        let fields: Fields = columns.iter().map(field).collect();
        let arrow = Arc::new(arrow_schema::Schema::new(fields));
        let writer = StreamWriter::try_new(Vec::new(), &arrow)?;
        let message = writer.get_ref().clone();
        Ok(Self { arrow, message })
    }

    /// Returns the message that a writer sends first.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Encodes rows as a request carries them.
    pub(crate) fn encode(&self, rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), &self.arrow)?;
        writer.write(rows)?;
        let mut bytes = std::mem::take(writer.get_mut());
        bytes.drain(..self.message.len());
        Ok(bytes)
    }
}

/// Returns some rows of a batch. `wanted` holds their indices in ascending order.
pub(crate) fn only(rows: &RecordBatch, wanted: &[usize]) -> Result<RecordBatch, ArrowError> {
    if wanted.len() == rows.num_rows() {
        return Ok(rows.clone());
    }
    let mut keep = vec![false; rows.num_rows()];
    wanted.iter().for_each(|row| keep[*row] = true);
    filter_record_batch(rows, &BooleanArray::from(keep))
}

/// Columns that grow row by row.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<Growing>,
    rows: usize,
    bytes: usize,
}

impl Columns {
    pub(crate) fn new(columns: &[Column]) -> Self {
        let bytes = HEADER_BYTES * (columns.len() + 1);
        Self { columns: columns.iter().map(Growing::new).collect(), rows: 0, bytes }
    }

    /// Appends a row. `columns` must be the columns that this was created for.
    pub(crate) fn push(&mut self, columns: &[Column], cells: Vec<Cell>) {
        self.bytes += size(columns, &cells);
        self.rows += 1;
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(cell);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Returns the estimated bytes of the encoded rows. The estimate is made to be no smaller than
    /// the real size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn finish(self, schema: &Schema) -> Result<RecordBatch, ArrowError> {
        let arrays = self.columns.into_iter().map(Growing::finish).collect();
        RecordBatch::try_new(Arc::clone(&schema.arrow), arrays)
    }
}

/// Returns the estimated bytes of a row in a batch.
pub(crate) fn size(columns: &[Column], cells: &[Cell]) -> usize {
    columns.iter().zip(cells).map(|(column, cell)| size_of(column, cell)).sum()
}

/// Returns the estimated bytes of a cell in a batch: its value, its offset, and its validity bit.
fn size_of(column: &Column, cell: &Cell) -> usize {
    match cell {
        Cell::Null => size_of_null(column),
        Cell::Bool(_) | Cell::Int(_) | Cell::Float(_) => 9,
        Cell::Micros(_) | Cell::Days(_) | Cell::TimeOfDay(_) => 9,
        Cell::Text(text) => 9 + text.len(),
        Cell::Bytes(bytes) => 9 + bytes.len(),
        Cell::Numeric(_) => 17,
        Cell::Bignumeric(_) => 33,
        Cell::Record(cells) => 9 + size(&column.parts(), cells),
        Cell::List(cells) => 9 + cells.iter().map(|cell| size_of(column, cell)).sum::<usize>(),
    }
}

/// Returns the estimated bytes of a null. Arrow reserves the space of a value for a null, and of
/// each field for a null record.
fn size_of_null(column: &Column) -> usize {
    match (column.mode, column.kind()) {
        (Mode::Nullable | Mode::Required, Kind::Numeric) => 17,
        (Mode::Nullable | Mode::Required, Kind::Bignumeric) => 33,
        (Mode::Nullable | Mode::Required, Kind::Record | Kind::Range(_)) => {
            9 + column.parts().iter().map(size_of_null).sum::<usize>()
        }
        _ => 9,
    }
}

fn field(column: &Column) -> Field {
    let one = data_type(column);
    let (kind, is_nullable) = match column.mode {
        Mode::Nullable => (one, true),
        Mode::Required => (one, false),
        Mode::Repeated => (DataType::List(item(one)), false),
    };
    Field::new(&column.name, kind, is_nullable)
}

fn item(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind, false))
}

/// Returns the Arrow type that the Storage Write API takes for a type of BigQuery.
fn data_type(column: &Column) -> DataType {
    match column.kind() {
        Kind::String | Kind::Json | Kind::Geography | Kind::Interval => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Int64 => DataType::Int64,
        Kind::Float64 => DataType::Float64,
        Kind::Bool => DataType::Boolean,
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Datetime => DataType::Timestamp(TimeUnit::Microsecond, None),
        Kind::Date => DataType::Date32,
        Kind::Time => DataType::Time64(TimeUnit::Microsecond),
        Kind::Numeric => DataType::Decimal128(38, 9),
        Kind::Bignumeric => DataType::Decimal256(76, 38),
        Kind::Record | Kind::Range(_) => {
            DataType::Struct(column.parts().iter().map(field).collect())
        }
    }
}

/// A column that grows.
#[derive(Debug)]
enum Growing {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Micros(TimestampMicrosecondBuilder),
    Days(Date32Builder),
    TimeOfDay(Time64MicrosecondBuilder),
    Numeric(Decimal128Builder),
    Bignumeric(Decimal256Builder),
    Record { names: Fields, fields: Vec<Growing>, nulls: NullBufferBuilder },
    List { item: Arc<Field>, items: Box<Growing>, lengths: Vec<usize> },
}

impl Growing {
    fn new(column: &Column) -> Self {
        if column.mode == Mode::Repeated {
            let one = Column { mode: Mode::Required, ..column.clone() };
            let (item, items) = (item(data_type(column)), Box::new(Self::new(&one)));
            return Self::List { item, items, lengths: Vec::new() };
        }
        match column.kind() {
            Kind::String | Kind::Json | Kind::Geography | Kind::Interval => {
                Self::Text(StringBuilder::new())
            }
            Kind::Bytes => Self::Bytes(BinaryBuilder::new()),
            Kind::Int64 => Self::Int(Int64Builder::new()),
            Kind::Float64 => Self::Float(Float64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Timestamp | Kind::Datetime => {
                let builder = TimestampMicrosecondBuilder::new();
                Self::Micros(builder.with_data_type(data_type(column)))
            }
            Kind::Date => Self::Days(Date32Builder::new()),
            Kind::Time => Self::TimeOfDay(Time64MicrosecondBuilder::new()),
            Kind::Numeric => {
                Self::Numeric(Decimal128Builder::new().with_data_type(data_type(column)))
            }
            Kind::Bignumeric => {
                Self::Bignumeric(Decimal256Builder::new().with_data_type(data_type(column)))
            }
            Kind::Record | Kind::Range(_) => Self::Record {
                names: column.parts().iter().map(field).collect(),
                fields: column.parts().iter().map(Self::new).collect(),
                nulls: NullBufferBuilder::new(0),
            },
        }
    }

    /// Appends a cell. A cell of another type becomes null. The schema refuses the batch if the
    /// column may not be null.
    fn push(&mut self, cell: Cell) {
        match (self, cell) {
            (Self::Text(builder), Cell::Text(value)) => builder.append_value(value),
            (Self::Bytes(builder), Cell::Bytes(value)) => builder.append_value(value),
            (Self::Int(builder), Cell::Int(value)) => builder.append_value(value),
            (Self::Float(builder), Cell::Float(value)) => builder.append_value(value),
            (Self::Bool(builder), Cell::Bool(value)) => builder.append_value(value),
            (Self::Micros(builder), Cell::Micros(value)) => builder.append_value(value),
            (Self::Days(builder), Cell::Days(value)) => builder.append_value(value),
            (Self::TimeOfDay(builder), Cell::TimeOfDay(value)) => builder.append_value(value),
            (Self::Numeric(builder), Cell::Numeric(value)) => builder.append_value(value),
            (Self::Bignumeric(builder), Cell::Bignumeric(value)) => builder.append_value(value),
            (Self::Record { fields, nulls, .. }, Cell::Record(cells)) => {
                nulls.append_non_null();
                fields.iter_mut().zip(cells).for_each(|(field, cell)| field.push(cell));
            }
            (Self::List { items, lengths, .. }, Cell::List(cells)) => {
                lengths.push(cells.len());
                cells.into_iter().for_each(|cell| items.push(cell));
            }
            (growing, _) => growing.push_null(),
        }
    }

    fn push_null(&mut self) {
        match self {
            Self::Text(builder) => builder.append_null(),
            Self::Bytes(builder) => builder.append_null(),
            Self::Int(builder) => builder.append_null(),
            Self::Float(builder) => builder.append_null(),
            Self::Bool(builder) => builder.append_null(),
            Self::Micros(builder) => builder.append_null(),
            Self::Days(builder) => builder.append_null(),
            Self::TimeOfDay(builder) => builder.append_null(),
            Self::Numeric(builder) => builder.append_null(),
            Self::Bignumeric(builder) => builder.append_null(),
            Self::Record { fields, nulls, .. } => {
                nulls.append_null();
                fields.iter_mut().for_each(Self::push_null);
            }
            Self::List { lengths, .. } => lengths.push(0),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Bytes(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Micros(mut builder) => Arc::new(builder.finish()),
            Self::Days(mut builder) => Arc::new(builder.finish()),
            Self::TimeOfDay(mut builder) => Arc::new(builder.finish()),
            Self::Numeric(mut builder) => Arc::new(builder.finish()),
            Self::Bignumeric(mut builder) => Arc::new(builder.finish()),
            Self::Record { names, fields, mut nulls } => {
                let columns = fields.into_iter().map(Self::finish).collect();
                Arc::new(StructArray::new(names, columns, nulls.finish()))
            }
            Self::List { item, items, lengths } => {
                let offsets = OffsetBuffer::from_lengths(lengths);
                Arc::new(ListArray::new(item, offsets, items.finish(), None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_records_count_with_all_that_arrow_keeps_for_them() {
        let inner = Column::record("inner", vec![Column::new("exact", Kind::Bignumeric); 10]);
        let columns = [Column::record("outer", vec![inner, Column::new("text", Kind::String)])];
        let schema = Schema::new(&columns).unwrap();
        let mut rows = Columns::new(&columns);

        for _ in 0..10_000 {
            rows.push(&columns, vec![Cell::Null]);
        }

        let said = rows.bytes();
        let encoded = schema.encode(&rows.finish(&schema).unwrap()).unwrap().len();
        assert!((encoded..encoded * 3 / 2).contains(&said), "{said} said, {encoded} encoded");
    }
}
