//! Converts rows of an Arrow batch to JSON in the form of `insertAll`.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{
    DataType, Field as ArrowField, Fields, IntervalUnit, Schema as ArrowSchema, TimeUnit,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime, Time};

use super::schema::{Field, FieldType, Mode, find};
use super::value::{interval, is_known, write_date, write_datetime, write_time, write_timestamp};

/// Reads the batch of a request. Schema and batch are messages of Arrow's stream format.
pub(super) fn read(schema: &[u8], batch: &[u8]) -> Result<RecordBatch, String> {
    let stream = [schema, batch].concat();
    let reader = StreamReader::try_new(stream.as_slice(), None);
    let mut reader = reader.map_err(|error| format!("Invalid Arrow schema: {error}"))?;
    let batch = reader.next().ok_or("The Arrow record batch is missing")?;
    let batch = batch.map_err(|error| format!("Invalid Arrow record batch: {error}"))?;
    match reader.next() {
        None => Ok(batch),
        Some(_) => Err("A request takes one Arrow record batch".into()),
    }
}

/// Returns the path of a field that the table lacks, if there is one.
pub(super) fn extra_field(given: &Fields, fields: &[Field]) -> Option<String> {
    given.iter().find_map(|given| {
        let name = given.name();
        let Some(field) = find(fields, name) else { return Some(name.clone()) };
        let extra = extra_field(record(field, given.data_type())?, &field.fields)?;
        Some(format!("{name}.{extra}"))
    })
}

/// Returns the fields that a batch gives for a record or a list of records.
fn record<'a>(field: &Field, given: &'a DataType) -> Option<&'a Fields> {
    match given {
        DataType::List(item) => record(field, item.data_type()),
        DataType::Struct(inner) if field.kind == FieldType::Record => Some(inner),
        _ => None,
    }
}

/// Returns an error text if the types of a batch do not fit the table.
pub(super) fn type_fault(schema: &ArrowSchema, fields: &[Field]) -> Option<String> {
    schema.fields().iter().find_map(|given| {
        let field = find(fields, given.name())?;
        (!fits(field, given.data_type(), field.mode)).then(|| {
            let (name, kind, mode) = (&field.name, field.kind, field.mode);
            format!("Field {name}: Arrow type {} does not fit {kind:?} {mode:?}", given.data_type())
        })
    })
}

/// Returns an error text if a batch lacks a required field. A default fills columns only, not
/// fields of records.
pub(super) fn missing_field(
    schema: &ArrowSchema,
    fields: &[Field],
    is_filled: impl Fn(&Field) -> bool,
) -> Option<String> {
    let missing = missing(schema.fields(), fields, &is_filled)?;
    Some(format!("The required field {missing} is missing in the Arrow schema"))
}

fn missing(given: &Fields, fields: &[Field], is_filled: &dyn Fn(&Field) -> bool) -> Option<String> {
    fields.iter().find_map(|field| {
        let name = &field.name;
        let Some(given) = given.iter().find(|given| given.name().eq_ignore_ascii_case(name)) else {
            let is_missing = field.mode == Mode::Required && !is_filled(field);
            return is_missing.then(|| name.clone());
        };
        let missing = missing(record(field, given.data_type())?, &field.fields, &|_| false)?;
        Some(format!("{name}.{missing}"))
    })
}

fn fits(field: &Field, given: &DataType, mode: Mode) -> bool {
    match (mode, given) {
        (Mode::Repeated, DataType::List(item)) => {
            return fits(field, item.data_type(), Mode::Nullable);
        }
        (Mode::Repeated, _) => return false,
        (Mode::Nullable | Mode::Required, _) => {}
    }
    match (field.kind, given) {
        (
            FieldType::String | FieldType::Json | FieldType::Geography | FieldType::Interval,
            DataType::Utf8,
        )
        | (FieldType::Interval, DataType::Interval(_))
        | (FieldType::Bytes, DataType::Binary)
        | (
            FieldType::Integer,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64,
        )
        | (FieldType::Float, DataType::Float32 | DataType::Float64)
        | (FieldType::Boolean, DataType::Boolean)
        | (FieldType::Datetime, DataType::Timestamp(TimeUnit::Microsecond, None))
        | (FieldType::Date, DataType::Date32)
        | (FieldType::Time, DataType::Time64(TimeUnit::Microsecond))
        | (FieldType::Numeric, DataType::Decimal128(..))
        | (FieldType::Bignumeric, DataType::Decimal256(..)) => true,
        (FieldType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, Some(zone))) => {
            &**zone == "UTC"
        }
        (FieldType::Range, DataType::Struct(ends)) => {
            let element = field.range_element().unwrap_or(FieldType::Timestamp);
            let end = Field { kind: element, ..field.clone() };
            let is_end = |given: &ArrowField| {
                ["start", "end"].contains(&given.name().as_str())
                    && fits(&end, given.data_type(), Mode::Nullable)
            };
            ends.len() == 2 && ends.iter().all(|given| is_end(given))
        }
        (FieldType::Record, DataType::Struct(inner)) => inner.iter().all(|inner| {
            find(&field.fields, inner.name())
                .is_some_and(|field| fits(field, inner.data_type(), field.mode))
        }),
        _ => false,
    }
}

/// Converts a row of a batch.
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
        DataType::Binary => STANDARD.encode(column.as_binary::<i32>().value(index)).into(),
        DataType::Decimal128(..) => {
            column.as_primitive::<Decimal128Type>().value_as_string(index).into()
        }
        DataType::Decimal256(..) => {
            column.as_primitive::<Decimal256Type>().value_as_string(index).into()
        }
        DataType::List(_) => list(column.as_list::<i32>().value(index).as_ref())?,
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(column.as_struct().columns());
            let inner = columns.map(|(field, column)| {
                Ok::<_, String>((field.name().clone(), value(column, index)?))
            });
            Value::Object(inner.collect::<Result<_, _>>()?)
        }
        DataType::Interval(_) => interval_value(column, index)?.into(),
        _ => time_value(column, index)?.into(),
    })
}

fn interval_value(column: &dyn Array, index: usize) -> Result<String, String> {
    let parts = match column.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            [column.as_primitive::<IntervalYearMonthType>().value(index).into(), 0, 0]
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = column.as_primitive::<IntervalDayTimeType>().value(index);
            [0, value.days.into(), i64::from(value.milliseconds) * 1000]
        }
        _ => {
            let value = column.as_primitive::<IntervalMonthDayNanoType>().value(index);
            [value.months.into(), value.days.into(), value.nanoseconds / 1000]
        }
    };
    interval::canonical(parts).ok_or_else(|| "the interval is out of range".into())
}

/// Converts a floating point number; NaN and infinity become text because JSON lacks them.
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

        assert!(fits(&field(FieldType::Integer, Mode::Nullable), &DataType::Int64, Mode::Nullable));
        assert!(!fits(&field(FieldType::String, Mode::Nullable), &DataType::Int64, Mode::Nullable));
        let list = DataType::new_list(DataType::Int64, true);
        assert!(fits(&field(FieldType::Integer, Mode::Repeated), &list, Mode::Repeated));
        assert!(!fits(&field(FieldType::Integer, Mode::Nullable), &list, Mode::Nullable));
    }

    #[test]
    fn types_that_google_does_not_list_do_not_fit() {
        let field = |json| serde_json::from_value::<Field>(json).expect("a field");
        let one = |kind| field(serde_json::json!({ "name": "f", "type": kind }));
        let moment = |zone: &str| DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
        let ends = |kind: DataType| {
            let end = |name| ArrowField::new(name, kind.clone(), true);
            DataType::Struct([end("start"), end("end")].into_iter().collect())
        };
        let range = field(serde_json::json!({
            "name": "f", "type": "RANGE", "rangeElementType": { "type": "DATE" } }));
        for (field, given, expected) in [
            (one("STRING"), DataType::Utf8, true),
            (one("STRING"), DataType::LargeUtf8, false),
            (one("BYTES"), DataType::LargeBinary, false),
            (one("TIMESTAMP"), moment("UTC"), true),
            (one("TIMESTAMP"), moment("+00:00"), false),
            (one("TIMESTAMP"), moment("Europe/Berlin"), false),
            (one("GEOGRAPHY"), DataType::Utf8, true),
            (one("INTERVAL"), DataType::Utf8, true),
            (one("INTERVAL"), DataType::Interval(IntervalUnit::MonthDayNano), true),
            (range.clone(), ends(DataType::Date32), true),
            (range.clone(), ends(moment("UTC")), false),
            (range, DataType::Utf8, false),
        ] {
            assert_eq!(fits(&field, &given, field.mode), expected, "{field:?} {given}");
        }
        let large = DataType::LargeList(ArrowField::new("item", DataType::Int64, false).into());
        assert!(!fits(&one("INTEGER"), &large, Mode::Repeated));
    }
}
