//! Converts rows to Arrow columns.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder,
    Float64Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow_buffer::{NullBuffer, OffsetBuffer, i256};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field as ArrowField, Fields, Schema, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::Value as Sql;
use serde_json::Value;
use time::OffsetDateTime;
use tonic::Code;

use crate::bigquery::rows::to_json;
use crate::bigquery::schema::{Field, FieldType, Mode};
use crate::bigquery::sql::parse_time;
use crate::status::Status;

/// Precision and scale of the exact types.
const NUMERIC: (u8, i8) = (38, 9);
const BIGNUMERIC: (u8, i8) = (76, 38);

/// Encodes the schema as a message of Arrow's stream format.
pub(super) fn schema_message(fields: &[Field]) -> Result<Vec<u8>, Status> {
    let writer = StreamWriter::try_new(Vec::new(), &schema(fields));
    Ok(writer.map_err(|error| wrong(&error))?.get_ref().clone())
}

/// Encodes rows as a message of Arrow's stream format.
pub(super) fn batch_message(fields: &[Field], rows: &[Vec<Sql>]) -> Result<Vec<u8>, Status> {
    let columns = fields.iter().enumerate().map(|(at, field)| {
        let values: Vec<Value> = rows.iter().map(|row| to_json(field, &row[at])).collect();
        array(field, field.mode, &values.iter().collect::<Vec<_>>())
    });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let schema = Arc::new(schema(fields));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options);
    let batch = batch.map_err(|error| wrong(&error))?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(|error| wrong(&error))?;
    let start = writer.get_ref().len();
    writer.write(&batch).map_err(|error| wrong(&error))?;
    Ok(writer.get_ref()[start..].to_vec())
}

fn wrong(error: &ArrowError) -> Status {
    Status::new(Code::Internal, format!("Arrow: {error}"))
}

fn schema(fields: &[Field]) -> Schema {
    Schema::new(fields.iter().map(arrow_field).collect::<Fields>())
}

fn arrow_field(field: &Field) -> ArrowField {
    let inner = data_type(field);
    match field.mode {
        Mode::Repeated => {
            let item = ArrowField::new("item", inner, true);
            ArrowField::new(&field.name, DataType::List(Arc::new(item)), false)
        }
        mode => ArrowField::new(&field.name, inner, mode == Mode::Nullable),
    }
}

fn data_type(field: &Field) -> DataType {
    match field.kind {
        FieldType::Integer => DataType::Int64,
        FieldType::Float => DataType::Float64,
        FieldType::Boolean => DataType::Boolean,
        FieldType::Bytes => DataType::Binary,
        FieldType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        FieldType::Datetime => DataType::Timestamp(TimeUnit::Microsecond, None),
        FieldType::Date => DataType::Date32,
        FieldType::Time => DataType::Time64(TimeUnit::Microsecond),
        FieldType::Numeric => DataType::Decimal128(NUMERIC.0, NUMERIC.1),
        FieldType::Bignumeric => DataType::Decimal256(BIGNUMERIC.0, BIGNUMERIC.1),
        FieldType::Record => DataType::Struct(field.fields.iter().map(arrow_field).collect()),
        // BigQuery has its own Arrow types for INTERVAL and RANGE.
        FieldType::String
        | FieldType::Json
        | FieldType::Geography
        | FieldType::Interval
        | FieldType::Range => DataType::Utf8,
    }
}

fn array(field: &Field, mode: Mode, values: &[&Value]) -> Result<ArrayRef, ArrowError> {
    if mode == Mode::Repeated {
        let lists =
            values.iter().map(|value| value.as_array().map(Vec::as_slice).unwrap_or_default());
        let items: Vec<&Value> = lists.clone().flatten().collect();
        let item = Arc::new(ArrowField::new("item", data_type(field), true));
        let offsets = OffsetBuffer::from_lengths(lists.map(<[Value]>::len));
        let items = array(field, Mode::Nullable, &items)?;
        return Ok(Arc::new(ListArray::try_new(item, offsets, items, None)?));
    }
    if field.kind == FieldType::Record {
        let columns = field.fields.iter().map(|inner| {
            let cells = values.iter().map(|value| value.get(&inner.name).unwrap_or(&Value::Null));
            array(inner, inner.mode, &cells.collect::<Vec<_>>())
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let nulls = NullBuffer::from_iter(values.iter().map(|value| !value.is_null()));
        let fields = field.fields.iter().map(arrow_field).collect::<Fields>();
        return Ok(Arc::new(StructArray::try_new(fields, columns, Some(nulls))?));
    }
    scalars(field.kind, values)
}

/// Builds an array from values, each converted by the closure.
macro_rules! built {
    ($builder:expr, $values:expr, $read:expr) => {{
        let mut builder = $builder;
        for value in $values {
            builder.append_option($read(value));
        }
        Arc::new(builder.finish())
    }};
}

fn scalars(kind: FieldType, values: &[&Value]) -> Result<ArrayRef, ArrowError> {
    let text = |value: &&Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let number = |value: &&Value| match value {
        Value::String(text) => text.parse::<f64>().ok(),
        other => other.as_f64(),
    };
    Ok(match kind {
        FieldType::Integer => built!(Int64Builder::new(), values, |value: &&Value| value.as_i64()),
        FieldType::Float => built!(Float64Builder::new(), values, number),
        FieldType::Boolean => {
            built!(BooleanBuilder::new(), values, |value: &&Value| value.as_bool())
        }
        FieldType::Bytes => built!(BinaryBuilder::new(), values, |value: &&Value| {
            text(value).and_then(|text| STANDARD.decode(text).ok())
        }),
        FieldType::Timestamp => {
            let builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
            built!(builder, values, |value: &&Value| text(value).and_then(|text| micros(&text)))
        }
        FieldType::Datetime => {
            let builder = TimestampMicrosecondBuilder::new();
            built!(builder, values, |value: &&Value| text(value).and_then(|text| micros(&text)))
        }
        FieldType::Date => built!(Date32Builder::new(), values, |value: &&Value| {
            let micros = micros(&format!("{} 00:00:00.000000", text(value)?))?;
            i32::try_from(micros.div_euclid(86_400_000_000)).ok()
        }),
        FieldType::Time => built!(Time64MicrosecondBuilder::new(), values, |value: &&Value| {
            micros(&format!("1970-01-01 {}", text(value)?))
        }),
        FieldType::Numeric => {
            let builder =
                Decimal128Builder::new().with_precision_and_scale(NUMERIC.0, NUMERIC.1)?;
            built!(builder, values, |value: &&Value| unscaled(&text(value)?, NUMERIC.1)?
                .parse()
                .ok())
        }
        FieldType::Bignumeric => {
            let builder =
                Decimal256Builder::new().with_precision_and_scale(BIGNUMERIC.0, BIGNUMERIC.1)?;
            built!(builder, values, |value: &&Value| {
                i256::from_string(&unscaled(&text(value)?, BIGNUMERIC.1)?)
            })
        }
        FieldType::String
        | FieldType::Json
        | FieldType::Geography
        | FieldType::Interval
        | FieldType::Range
        | FieldType::Record => built!(StringBuilder::new(), values, text),
    })
}

/// Parses a stored text to microseconds since 1970.
fn micros(text: &str) -> Option<i64> {
    let time: OffsetDateTime = parse_time(text)?;
    i64::try_from(time.unix_timestamp_nanos() / 1000).ok()
}

/// Returns the digits of an exact number without the point, padded to `scale` digits of fraction.
fn unscaled(text: &str, scale: i8) -> Option<String> {
    let scale = usize::try_from(scale).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    (fraction.len() <= scale).then(|| format!("{whole}{fraction:0<scale$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_numbers_lose_their_point() {
        assert_eq!(unscaled("-1.5", 9).as_deref(), Some("-1500000000"));
        assert_eq!(unscaled("12", 2).as_deref(), Some("1200"));
        assert_eq!(unscaled("0.123", 2), None);
    }

    #[test]
    fn times_become_microseconds() {
        assert_eq!(micros("1970-01-01 00:00:01.000002 UTC"), Some(1_000_002));
        assert_eq!(micros("1969-12-31T23:59:59.000000"), Some(-1_000_000));
    }
}
