//! Converts protobuf rows to JSON in the form of `insertAll`. The descriptor comes with the rows.

mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};
use serde_json::{Map, Value};
use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time};

use crate::bigquery::schema::{Field, FieldType, Mode, find};
use crate::bigquery::value::{is_known, write_date, write_datetime, write_time, write_timestamp};
use wire::Raw;

/// Most levels of nested messages; records of BigQuery have 15 levels.
const MAX_DEPTH: usize = 16;

/// A message type that contains all types that it uses.
#[derive(Debug)]
pub(super) struct Descriptor(DescriptorProto);

/// A field of a message and the column that it fills.
struct RowPosition<'a> {
    field: &'a FieldDescriptorProto,
    column: &'a Field,
}

impl Descriptor {
    /// Checks a descriptor.
    ///
    /// # Errors
    /// Fails for a descriptor without fields, and for one that nests too deeply.
    pub(super) fn new(descriptor: DescriptorProto) -> Result<Self, String> {
        if descriptor.field.is_empty() {
            return Err("The proto descriptor of the writer schema has no fields.".into());
        }
        let depth = depth(&descriptor);
        if depth > MAX_DEPTH {
            return Err(format!(
                "The proto descriptor nests {depth} messages, at most {MAX_DEPTH}."
            ));
        }
        Ok(Self(descriptor))
    }

    /// Returns the path of a field that the table lacks.
    pub(super) fn extra_field(&self, fields: &[Field]) -> Option<String> {
        self.extra(&self.0, fields, MAX_DEPTH)
    }

    /// Returns an error text if the messages lack a field that the table requires. A default fills
    /// columns only, not fields of records.
    pub(super) fn missing_field(
        &self,
        fields: &[Field],
        is_filled: impl Fn(&Field) -> bool,
    ) -> Option<String> {
        let missing = self.missing(&self.0, fields, &is_filled)?;
        Some(format!("The required field {missing} is missing in the proto descriptor"))
    }

    /// Returns the path of a missing field. This ends because the columns nest no deeper than a
    /// table allows.
    fn missing(
        &self,
        message: &DescriptorProto,
        fields: &[Field],
        is_filled: &dyn Fn(&Field) -> bool,
    ) -> Option<String> {
        fields.iter().find_map(|column| {
            let name = &column.name;
            let mut given = message.field.iter();
            let Some(field) = given.find(|given| given.name().eq_ignore_ascii_case(name)) else {
                let is_missing = column.mode == Mode::Required && !is_filled(column);
                return is_missing.then(|| name.clone());
            };
            let inner = self.message(field).filter(|_| column.kind == FieldType::Record)?;
            let missing = self.missing(inner, &column.fields, &|_| false)?;
            Some(format!("{name}.{missing}"))
        })
    }

    fn extra(&self, message: &DescriptorProto, fields: &[Field], depth: usize) -> Option<String> {
        message.field.iter().find_map(|field| {
            let Some(column) = find(fields, field.name()) else {
                return Some(field.name().to_owned());
            };
            let inner =
                self.message(field).filter(|_| column.kind == FieldType::Record && depth > 0)?;
            let extra = self.extra(inner, &column.fields, depth - 1)?;
            Some(format!("{}.{extra}", field.name()))
        })
    }

    /// Converts one row.
    ///
    /// # Errors
    /// Fails for bytes that are not a message of this type, and for values that the column does not
    /// take.
    pub(super) fn read(&self, row: &[u8], fields: &[Field]) -> Result<Map<String, Value>, String> {
        self.fields(&self.0, row, fields, MAX_DEPTH)
    }

    fn fields(
        &self,
        message: &DescriptorProto,
        bytes: &[u8],
        columns: &[Field],
        depth: usize,
    ) -> Result<Map<String, Value>, String> {
        if depth == 0 {
            return Err("the message nests too deep".into());
        }
        let mut row = Map::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, raw) = wire::next(&mut rest)?;
            let field = message.field.iter().find(|field| field.number() == number);
            // Fields that are not in the type are ignored.
            let Some(field) = field else { continue };
            let column = find(columns, field.name());
            let column = column.ok_or_else(|| format!("no such field: {}.", field.name()))?;
            let place = RowPosition { field, column };
            if field.label() != Label::Repeated {
                row.insert(column.name.clone(), self.value(&place, raw, depth)?);
                continue;
            }
            let list = row.entry(column.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { continue };
            match raw {
                Raw::Bytes(packed) if wire::is_packable(field.r#type()) => {
                    let mut packed = packed;
                    while !packed.is_empty() {
                        let raw = wire::unpacked(field.r#type(), &mut packed)?;
                        list.push(self.value(&place, raw, depth)?);
                    }
                }
                raw => list.push(self.value(&place, raw, depth)?),
            }
        }
        Ok(row)
    }

    fn value(&self, place: &RowPosition<'_>, raw: Raw<'_>, depth: usize) -> Result<Value, String> {
        let (field, kind) = (place.field, place.column.kind);
        let wrong = || format!("The value of field {} is no {:?}", field.name(), field.r#type());
        let number = match (field.r#type(), raw) {
            (Type::Message, Raw::Bytes(bytes)) => return self.record(place, bytes, depth),
            (Type::String, Raw::Bytes(bytes)) => {
                return String::from_utf8(bytes.to_vec()).map(Value::from).map_err(|_| wrong());
            }
            (Type::Bytes, Raw::Bytes(bytes)) => return of_bytes(kind, bytes, field.name()),
            (Type::Double, Raw::Fixed64(bits)) => return Ok(float(f64::from_bits(bits))),
            (Type::Float, Raw::Fixed32(bits)) => return Ok(float(f32::from_bits(bits).into())),
            (Type::Bool, Raw::Varint(number)) => return Ok((number != 0).into()),
            (Type::Enum, Raw::Varint(number)) => {
                let number = (number as u32).cast_signed();
                let name = self.enum_name(field, number).filter(|_| kind == FieldType::String);
                return Ok(name.map_or_else(|| number.into(), Value::from));
            }
            (Type::Uint64, Raw::Varint(number)) | (Type::Fixed64, Raw::Fixed64(number)) => {
                match i64::try_from(number) {
                    Ok(number) => number,
                    Err(_) => return Ok(number.to_string().into()),
                }
            }
            (Type::Int64, Raw::Varint(number)) | (Type::Sfixed64, Raw::Fixed64(number)) => {
                number.cast_signed()
            }
            // Negative numbers of the smaller types have 64 bits on the wire, and are truncated
            // here.
            (Type::Int32, Raw::Varint(number)) => (number as u32).cast_signed().into(),
            (Type::Uint32, Raw::Varint(number)) => (number as u32).into(),
            (Type::Sint32 | Type::Sint64, Raw::Varint(number)) => {
                (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
            }
            (Type::Fixed32, Raw::Fixed32(number)) => number.into(),
            (Type::Sfixed32, Raw::Fixed32(number)) => number.cast_signed().into(),
            _ => return Err(wrong()),
        };
        whole(kind, number, field.name())
    }

    /// Converts a record, or a well-known type that represents a scalar.
    fn record(&self, place: &RowPosition<'_>, bytes: &[u8], depth: usize) -> Result<Value, String> {
        if let Some(message) = self.message(place.field) {
            let record = self.fields(message, bytes, &place.column.fields, depth - 1)?;
            return Ok(Value::Object(record));
        }
        let kind = match place.field.type_name().trim_start_matches('.') {
            "google.protobuf.Timestamp" => {
                let time = <prost_types::Timestamp as prost::Message>::decode(bytes);
                let time = time.map_err(|error| error.to_string())?;
                let micros = time.seconds.saturating_mul(1_000_000);
                let micros = micros.saturating_add((time.nanos / 1000).into());
                return whole(place.column.kind, micros, place.field.name());
            }
            "google.protobuf.BoolValue" => Type::Bool,
            "google.protobuf.BytesValue" => Type::Bytes,
            "google.protobuf.DoubleValue" => Type::Double,
            "google.protobuf.FloatValue" => Type::Float,
            "google.protobuf.Int32Value" => Type::Int32,
            "google.protobuf.Int64Value" => Type::Int64,
            "google.protobuf.StringValue" => Type::String,
            "google.protobuf.UInt32Value" => Type::Uint32,
            "google.protobuf.UInt64Value" => Type::Uint64,
            other => return Err(format!("the message type {other} is not in the writer schema")),
        };
        let mut rest = bytes;
        if rest.is_empty() {
            return Ok(match kind {
                Type::Bool => false.into(),
                Type::String | Type::Bytes => "".into(),
                _ => 0.into(),
            });
        }
        let (_, raw) = wire::next(&mut rest)?;
        let field = FieldDescriptorProto {
            name: Some(place.field.name().to_owned()),
            r#type: Some(i32::from(kind)),
            ..<_>::default()
        };
        self.value(&RowPosition { field: &field, column: place.column }, raw, depth)
    }

    /// Returns the message type of a field: the nested type with the longest path that fits the
    /// name.
    fn message(&self, field: &FieldDescriptorProto) -> Option<&DescriptorProto> {
        if field.r#type() != Type::Message {
            return None;
        }
        let name = field.type_name().trim_start_matches('.');
        let mut found = Vec::new();
        nested(&self.0, self.0.name(), &mut found);
        let fits = found.into_iter().filter(|(path, _)| ends_with(name, path));
        fits.max_by_key(|(path, _)| path.len()).map(|(_, message)| message)
    }

    fn enum_name(&self, field: &FieldDescriptorProto, number: i32) -> Option<String> {
        let name = field.type_name().trim_start_matches('.');
        let mut found = vec![(self.0.name().to_owned(), &self.0)];
        nested(&self.0, self.0.name(), &mut found);
        let mut enums = found.into_iter().flat_map(|(path, message)| {
            message.enum_type.iter().map(move |one| (format!("{path}.{}", one.name()), one))
        });
        let (_, found) = enums.find(|(path, _)| ends_with(name, path))?;
        let value = found.value.iter().find(|value| value.number() == number)?;
        Some(value.name().to_owned())
    }
}

/// Returns true if a full name and a path within the root message name the same type in any
/// package.
fn ends_with(name: &str, path: &str) -> bool {
    let tail = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    tail(name, path) || tail(path, name)
}

fn nested<'a>(
    message: &'a DescriptorProto,
    path: &str,
    found: &mut Vec<(String, &'a DescriptorProto)>,
) {
    for inner in &message.nested_type {
        let path = format!("{path}.{}", inner.name());
        nested(inner, &path, found);
        found.push((path, inner));
    }
}

fn depth(message: &DescriptorProto) -> usize {
    1 + message.nested_type.iter().map(depth).max().unwrap_or(0)
}

/// Converts a floating point number; NaN and infinity become text because JSON lacks them.
fn float(number: f64) -> Value {
    if number.is_finite() { number.into() } else { number.to_string().into() }
}

/// Converts a whole number to the form of a column of this type.
fn whole(kind: FieldType, number: i64, field: &str) -> Result<Value, String> {
    let text = match kind {
        FieldType::Timestamp => {
            let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(number) * 1000).ok();
            time.filter(|time| is_known(time.date())).map(write_timestamp)
        }
        FieldType::Date => {
            let epoch = OffsetDateTime::UNIX_EPOCH.date();
            let date = epoch.checked_add(Duration::days(number.clamp(-1_000_000, 4_000_000)));
            date.filter(|date| is_known(*date)).map(write_date)
        }
        FieldType::Datetime => {
            packed_datetime(number).map(|time| write_datetime(time.assume_utc()))
        }
        FieldType::Time => packed_time(number).map(write_time),
        _ => return Ok(number.into()),
    };
    text.map(Value::from)
        .ok_or_else(|| format!("The value {number} of field {field} is out of range"))
}

/// Decodes hours, minutes, seconds and microseconds in 5, 6, 6 and 20 bits.
fn packed_time(number: i64) -> Option<Time> {
    let part = |shift: u32, bits: u32| u8::try_from((number >> shift) & ((1 << bits) - 1)).ok();
    let micros = u32::try_from(number & 0xf_ffff).ok()?;
    Time::from_hms_micro(part(32, 5)?, part(26, 6)?, part(20, 6)?, micros).ok()
}

/// Decodes year, month and day in 14, 4 and 5 bits. The time is in the bits below.
fn packed_datetime(number: i64) -> Option<PrimitiveDateTime> {
    let year = i32::try_from((number >> 46) & 0x3fff).ok()?;
    let month = Month::try_from(u8::try_from((number >> 42) & 0xf).ok()?).ok()?;
    let day = u8::try_from((number >> 37) & 0x1f).ok()?;
    let date = Date::from_calendar_date(year, month, day).ok().filter(|date| is_known(*date))?;
    Some(date.with_time(packed_time(number & 0x1f_ffff_ffff)?))
}

/// Converts bytes for a column. For NUMERIC they are a little-endian number in two's complement,
/// with nine digits after the point.
fn of_bytes(kind: FieldType, bytes: &[u8], field: &str) -> Result<Value, String> {
    match kind {
        FieldType::Numeric if bytes.len() <= 16 => {
            let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
            let mut whole = [if is_negative { 0xff } else { 0 }; 16];
            whole[..bytes.len()].copy_from_slice(bytes);
            let number = i128::from_le_bytes(whole);
            let (sign, number) = (if is_negative { "-" } else { "" }, number.unsigned_abs());
            Ok(format!("{sign}{}.{:09}", number / 1_000_000_000, number % 1_000_000_000).into())
        }
        FieldType::Numeric | FieldType::Bignumeric => {
            Err(format!("this emulator does not support bytes for the {kind:?} field {field}"))
        }
        _ => Ok(STANDARD.encode(bytes).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bigquery::schema::new_field;

    fn descriptor(kind: Type) -> Descriptor {
        let field = FieldDescriptorProto {
            name: Some("a".into()),
            number: Some(1),
            r#type: Some(kind.into()),
            label: Some(Label::Optional.into()),
            ..<_>::default()
        };
        let message = DescriptorProto { field: vec![field], ..<_>::default() };
        Descriptor::new(message).expect("a descriptor")
    }

    #[test]
    fn whole_numbers_are_read_as_the_column_means_them() {
        let read = |kind: Type, column: FieldType, row: &[u8]| {
            let row = descriptor(kind).read(row, &[new_field("a", column)]);
            row.map(|row| row["a"].clone())
        };

        assert_eq!(read(Type::Int64, FieldType::Integer, &[8, 150, 1]), Ok(150.into()));
        assert_eq!(read(Type::Sint64, FieldType::Integer, &[8, 3]), Ok((-2).into()));
        assert_eq!(read(Type::Int32, FieldType::Date, &[8, 1]), Ok("1970-01-02".into()));
        let time = read(Type::Int64, FieldType::Timestamp, &[8, 192, 132, 61]);
        assert_eq!(time, Ok("1970-01-01 00:00:01.000000 UTC".into()));
        let date = (2025_i64 << 46) | (9 << 42) | (28 << 37);
        let packed = date | (22 << 32) | (53 << 26) | (17 << 20);
        let written = whole(FieldType::Datetime, packed, "a");
        assert_eq!(written, Ok("2025-09-28T22:53:17.000000".into()));
        let exact = of_bytes(FieldType::Numeric, &[0, 0xca, 0x9a, 0x3b], "a");
        assert_eq!(exact, Ok("1.000000000".into()));
    }

    #[test]
    fn broken_messages_are_refused() {
        for row in [&[8][..], &[8, 0x80], &[10, 5, 1], &[9, 1], &[11], &[13, 0, 0]] {
            let read = descriptor(Type::Int64).read(row, &[new_field("a", FieldType::Integer)]);
            assert!(read.is_err(), "{row:?}");
        }
    }

    #[test]
    fn a_time_that_is_too_late_is_refused() {
        let time = prost_types::Timestamp { seconds: i64::MAX, nanos: 1000 };
        let time = prost::Message::encode_to_vec(&time);
        let mut row = vec![10, u8::try_from(time.len()).expect("a short message")];
        row.extend(time);
        let field = FieldDescriptorProto {
            name: Some("a".into()),
            number: Some(1),
            r#type: Some(Type::Message.into()),
            type_name: Some(".google.protobuf.Timestamp".into()),
            ..<_>::default()
        };
        let message = DescriptorProto { field: vec![field], ..<_>::default() };
        let descriptor = Descriptor::new(message).expect("a descriptor");

        let read = descriptor.read(&row, &[new_field("a", FieldType::Timestamp)]);

        assert!(read.is_err_and(|why| why.contains("out of range")));
    }

    #[test]
    fn names_of_types_fit_whatever_the_package_is() {
        assert!(ends_with("google.cloud.Row.Inner", "Row.Inner"));
        assert!(ends_with("Inner", "Row.Inner"));
        assert!(!ends_with("other.Thinner", "Row.Inner"));
    }
}
