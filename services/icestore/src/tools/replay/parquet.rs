//! Lines of a Parquet object.

use std::collections::HashMap;

use anyhow::Context as _;
use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, ArrayRef, MapArray, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use time::OffsetDateTime;

use super::line::ArchivedLine;

/// Rows that are read at a time.
const ROWS: usize = 256;

/// Returns the lines of an object, one after another.
///
/// # Errors
/// For data that is not Parquet, and for columns that are not those of the archive.
pub(super) fn lines(
    object: Bytes,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<ArchivedLine>> + Send> {
    let reader = ParquetRecordBatchReader::try_new(object, ROWS).context("read Parquet")?;
    let lines = reader.map(|rows| lines_of(&rows.context("read rows")?));
    Ok(lines.flat_map(|lines| match lines {
        Ok(lines) => lines.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }))
}

fn lines_of(rows: &RecordBatch) -> anyhow::Result<Vec<ArchivedLine>> {
    let ids = column(rows, "id", |array| array.as_string_opt::<i32>())?;
    let payloads = column(rows, "originalPubSubPayload", |array| array.as_binary_opt::<i32>())?;
    let times =
        column(rows, "publishTime", |array| array.as_primitive_opt::<TimestampMicrosecondType>())?;
    let attributes = column(rows, "attributes", |array| array.as_map_opt())?;
    let lines = (0..rows.num_rows()).map(|row| {
        let time = times.is_valid(row).then(|| i128::from(times.value(row)) * 1_000);
        Ok(ArchivedLine {
            id: ids.value(row).to_owned(),
            data: Bytes::copy_from_slice(payloads.value(row)),
            time: time.and_then(|time| OffsetDateTime::from_unix_timestamp_nanos(time).ok()),
            attributes: entries(attributes, row)?,
        })
    });
    lines.collect()
}

/// Returns a column, if it has the type that it has in the archive.
fn column<'a, T>(
    rows: &'a RecordBatch,
    name: &str,
    cast: impl Fn(&'a ArrayRef) -> Option<&'a T>,
) -> anyhow::Result<&'a T> {
    let column = rows.column_by_name(name).and_then(cast);
    column.with_context(|| format!("column {name} is missing, or of another type"))
}

fn entries(maps: &MapArray, row: usize) -> anyhow::Result<HashMap<String, String>> {
    if maps.is_null(row) {
        return Ok(HashMap::new());
    }
    let entries = maps.value(row);
    let texts = |column: &ArrayRef| {
        let texts = column.as_string_opt::<i32>().context("attributes are no texts")?;
        anyhow::Ok(texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    let [keys, values] = entries.columns() else { return Ok(HashMap::new()) };
    Ok(texts(keys)?.into_iter().zip(texts(values)?).collect())
}
