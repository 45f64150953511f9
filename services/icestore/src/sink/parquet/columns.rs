//! Conversion of lines to rows, and of rows to columns.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, MapBuilder, MapFieldNames, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Bytes of a row in addition to its texts: two times, and the lengths of the texts.
const ROW_BYTES: usize = 40;

/// A line in the form that the module `archive` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    batch_key: Text<'a>,
    original_pub_sub_payload: &'a str,
    archived_at: &'a str,
    #[serde(borrow)]
    ingest_id: Option<Text<'a>>,
    publish_time: &'a str,
    /// Attributes in the order of their names, which compresses best.
    #[serde(borrow)]
    attributes: Option<BTreeMap<Text<'a>, Text<'a>>>,
}

/// Text that is copied only if it has escapes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Columns that grow row by row.
pub(super) struct Columns {
    schema: SchemaRef,
    id: StringBuilder,
    batch_key: StringBuilder,
    payload: BinaryBuilder,
    archived_at: TimestampMicrosecondBuilder,
    ingest_id: StringBuilder,
    publish_time: TimestampMicrosecondBuilder,
    attributes: MapBuilder<StringBuilder, StringBuilder>,
    /// Payload that was decoded last.
    decoded: Vec<u8>,
    bytes: usize,
}

impl Columns {
    pub(super) fn new() -> Self {
        let names =
            MapFieldNames { entry: ENTRY.to_owned(), key: KEY.to_owned(), value: VALUE.to_owned() };
        let (key, value) = (StringBuilder::new(), StringBuilder::new());
        let time = || TimestampMicrosecondBuilder::new().with_data_type(time_type());
        Self {
            schema: schema(),
            id: StringBuilder::new(),
            batch_key: StringBuilder::new(),
            payload: BinaryBuilder::new(),
            archived_at: time(),
            ingest_id: StringBuilder::new(),
            publish_time: time(),
            attributes: MapBuilder::new(Some(names), key, value).with_values_field(text(VALUE)),
            decoded: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Returns the plain bytes of the rows.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a row.
    ///
    /// # Errors
    /// For a payload that is not base64, and for an invalid time.
    pub(super) fn push(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.decoded.clear();
        let decoded = STANDARD.decode_vec(row.original_pub_sub_payload, &mut self.decoded);
        decoded.map_err(io::Error::other)?;
        self.archived_at.append_value(micros(row.archived_at)?);
        self.publish_time.append_value(micros(row.publish_time)?);
        self.payload.append_value(&self.decoded);
        self.id.append_value(&row.id.0);
        self.batch_key.append_value(&row.batch_key.0);
        self.ingest_id.append_option(row.ingest_id.as_ref().map(|id| &id.0));
        let (keys, values) = self.attributes.entries();
        let mut bytes = ROW_BYTES + self.decoded.len() + row.id.0.len() + row.batch_key.0.len();
        bytes += row.ingest_id.as_ref().map_or(0, |id| id.0.len());
        for (key, value) in row.attributes.iter().flatten() {
            keys.append_value(&key.0);
            values.append_value(&value.0);
            bytes += key.0.len() + value.0.len();
        }
        self.attributes.append(row.attributes.is_some()).map_err(io::Error::other)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Returns all rows since the last call.
    pub(super) fn finish(&mut self) -> io::Result<RecordBatch> {
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.batch_key.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.archived_at.finish()),
            Arc::new(self.ingest_id.finish()),
            Arc::new(self.publish_time.finish()),
            Arc::new(self.attributes.finish()),
        ];
        RecordBatch::try_new(self.schema(), columns).map_err(io::Error::other)
    }
}

/// Names of the parts of a map:
/// <https://github.com/apache/parquet-format/blob/master/LogicalTypes.md#maps>.
const ENTRY: &str = "key_value";
const KEY: &str = "key";
const VALUE: &str = "value";

/// Returns the columns, with the names and the order of a line.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("id"),
        text("batchKey"),
        Field::new("originalPubSubPayload", DataType::Binary, false),
        Field::new("archivedAt", time_type(), false),
        Field::new("ingestId", DataType::Utf8, true),
        Field::new("publishTime", time_type(), false),
        Field::new_map("attributes", ENTRY, text(KEY), text(VALUE), false, true),
    ]))
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Converts a time to microseconds since 1970. In 64 bits they reach from the year -290308 to
/// 294247, so each time of RFC 3339 fits.
fn micros(text: &str) -> io::Result<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(io::Error::other)?;
    let micros = time.unix_timestamp_nanos().div_euclid(1_000);
    i64::try_from(micros).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_years_of_rfc_3339_have_microseconds() {
        for (text, expected) in [
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("1970-01-01T00:00:00.000001999Z", 1),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
            // This time is in the year 10000 in UTC.
            ("9999-12-31T23:59:59-01:00", 253_402_304_399_000_000),
        ] {
            assert_eq!(micros(text).unwrap(), expected, "{text}");
        }
        assert!(micros("soon").is_err());
    }
}
