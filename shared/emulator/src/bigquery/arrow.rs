//! Rows of an Arrow batch as JSON, in the form that `insertAll` takes.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{DataType, Schema as ArrowSchema, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime, Time};

use super::schema::{Field, Kind, Mode, find};
use super::value::{is_known, write_date, write_datetime, write_time, write_timestamp};

/// The batch of a request: the schema and the batch are messages of Arrow's stream format.
pub(super) fn read(schema: &[u8], batch: &[u8]) -> Result<RecordBatch, String> {
    let stream = [schema, batch].concat();
    let reader = StreamReader::try_new(stream.as_slice(), None);
    let mut reader = reader.map_err(|error| format!("Invalid Arrow schema: {error}"))?;
    let batch = reader.next().ok_or("The Arrow record batch is missing")?;
    batch.map_err(|error| format!("Invalid Arrow record batch: {error}"))
}

/// The column that the table does not have, if there is one.
pub(super) fn extra_field(schema: &ArrowSchema, fields: &[Field]) -> Option<String> {
    let extra = schema.fields().iter().find(|field| find(fields, field.name()).is_none());
    extra.map(|field| field.name().clone())
}

/// What does not fit between a batch's types and a table's.
pub(super) fn type_fault(schema: &ArrowSchema, fields: &[Field]) -> Option<String> {
    schema.fields().iter().find_map(|given| {
        let field = find(fields, given.name())?;
        (!fits(field, given.data_type(), field.mode)).then(|| {
            let (name, kind, mode) = (&field.name, field.kind, field.mode);
            format!("Field {name}: Arrow type {} does not fit {kind:?} {mode:?}", given.data_type())
        })
    })
}

fn fits(field: &Field, given: &DataType, mode: Mode) -> bool {
    match (mode, given) {
        (Mode::Repeated, DataType::List(item) | DataType::LargeList(item)) => {
            return fits(field, item.data_type(), Mode::Nullable);
        }
        (Mode::Repeated, _) => return false,
        (Mode::Nullable | Mode::Required, _) => {}
    }
    match (field.kind, given) {
        (Kind::String | Kind::Json, DataType::Utf8 | DataType::LargeUtf8)
        | (Kind::Bytes, DataType::Binary | DataType::LargeBinary)
        | (Kind::Integer, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64)
        | (Kind::Float, DataType::Float32 | DataType::Float64)
        | (Kind::Boolean, DataType::Boolean)
        | (Kind::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, Some(_)))
        | (Kind::Datetime, DataType::Timestamp(TimeUnit::Microsecond, None))
        | (Kind::Date, DataType::Date32)
        | (Kind::Time, DataType::Time64(TimeUnit::Microsecond))
        | (Kind::Numeric, DataType::Decimal128(..))
        | (Kind::Bignumeric, DataType::Decimal256(..)) => true,
        (Kind::Record, DataType::Struct(inner)) => inner.iter().all(|inner| {
            find(&field.fields, inner.name())
                .is_some_and(|field| fits(field, inner.data_type(), field.mode))
        }),
        _ => false,
    }
}

/// A row of a batch, or why it cannot be one.
pub(super) fn row(batch: &RecordBatch, index: usize) -> Result<Map<String, Value>, String> {
    let schema = batch.schema_ref();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.map(|(field, column)| Ok((field.name().clone(), value(column, index)?))).collect()
}

fn value(column: &dyn Array, index: usize) -> Result<Value, String> {
    if column.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(index).into(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(index).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(index).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).into(),
        DataType::Float32 => float(column.as_primitive::<Float32Type>().value(index).into()),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(index)),
        DataType::Utf8 => column.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(index).into(),
        DataType::Binary => STANDARD.encode(column.as_binary::<i32>().value(index)).into(),
        DataType::LargeBinary => STANDARD.encode(column.as_binary::<i64>().value(index)).into(),
        DataType::Decimal128(..) => {
            column.as_primitive::<Decimal128Type>().value_as_string(index).into()
        }
        DataType::Decimal256(..) => {
            column.as_primitive::<Decimal256Type>().value_as_string(index).into()
        }
        DataType::List(_) => list(column.as_list::<i32>().value(index).as_ref())?,
        DataType::LargeList(_) => list(column.as_list::<i64>().value(index).as_ref())?,
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(column.as_struct().columns());
            let inner = columns.map(|(field, column)| {
                Ok::<_, String>((field.name().clone(), value(column, index)?))
            });
            Value::Object(inner.collect::<Result<_, _>>()?)
        }
        _ => time_value(column, index)?.into(),
    })
}

/// JSON has no other numbers than finite ones.
fn float(number: f64) -> Value {
    if number.is_finite() { number.into() } else { number.to_string().into() }
}

fn list(items: &dyn Array) -> Result<Value, String> {
    (0..items.len()).map(|index| value(items, index)).collect()
}

fn time_value(column: &dyn Array, index: usize) -> Result<String, String> {
    let text = match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(index);
            let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok();
            time.filter(|time| is_known(time.date())).map(|time| match zone {
                Some(_) => write_timestamp(time),
                None => write_datetime(time),
            })
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(index);
            let epoch = OffsetDateTime::UNIX_EPOCH.date();
            let date = epoch.checked_add(Duration::days(days.into()));
            date.filter(|date| is_known(*date)).map(write_date)
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            let micros = column.as_primitive::<Time64MicrosecondType>().value(index);
            let time = Time::MIDNIGHT + Duration::microseconds(micros);
            (0..86_400_000_000).contains(&micros).then(|| write_time(time))
        }
        other => return Err(format!("Arrow type {other} is not supported")),
    };
    text.ok_or_else(|| "the time is out of range".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_another_kind_do_not_fit() {
        let field = |kind, mode| Field {
            name: "f".into(),
            kind,
            mode,
            fields: Vec::new(),
            description: None,
            attributes: serde_json::Map::new(),
        };

        assert!(fits(&field(Kind::Integer, Mode::Nullable), &DataType::Int64, Mode::Nullable));
        assert!(!fits(&field(Kind::String, Mode::Nullable), &DataType::Int64, Mode::Nullable));
        let list = DataType::new_list(DataType::Int64, true);
        assert!(fits(&field(Kind::Integer, Mode::Repeated), &list, Mode::Repeated));
        assert!(!fits(&field(Kind::Integer, Mode::Nullable), &list, Mode::Nullable));
    }
}
