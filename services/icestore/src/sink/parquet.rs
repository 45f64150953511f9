//! A Parquet file, made at once from the lines of a closed file.
//!
//! Columns of thousands of open files would take too much memory, so a file grows as zstd frames of
//! lines. When the file is closed, it is read line by line and written as columns.

mod columns;

use std::io::{self, BufRead as _, Write};

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{growing, zstd};
use columns::{Columns, Row};

/// Plain bytes of a row group, after which the next one begins. BigQuery reads row groups of 16 MiB
/// or more fastest: <https://cloud.google.com/bigquery/docs/loading-data-cloud-storage-parquet>.
const ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Plain bytes that are encoded at a time.
const ROWS_BYTES: usize = 1024 * 1024;
/// Plain bytes of a page. Compressing a page of this size takes little memory at any level.
const PAGE_BYTES: usize = 128 * 1024;
/// Maximum plain bytes of a file, as lines. With this bound a conversion takes seconds at most.
pub(super) const MAX_PLAIN_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes of a file in addition to its compressed values: schema, statistics, positions of columns.
pub(super) const FOOTER_BYTES: usize = 3 * 1024;
/// Memory that a conversion takes in addition to the file before and after it. It is for the pages
/// of a row group, and for several copies of the largest message that Pub/Sub accepts.
pub(super) const CONVERSION_BYTES: usize = ROW_GROUP_BYTES + 48 * 1024 * 1024;

/// Columns with repeating values. Other columns have no dictionary, because it would hold every
/// value.
const REPEATING: [&[&str]; 2] = [&["batchKey"], &["attributes", "key_value", "key"]];
/// Columns whose minimum and maximum values do not help a reader.
const WITHOUT_STATISTICS: [&[&str]; 3] = [
    &["originalPubSubPayload"],
    &["attributes", "key_value", "key"],
    &["attributes", "key_value", "value"],
];

/// Makes a Parquet file of lines, in their order.
///
/// # Errors
/// For a line that this service did not write, and when lines are missing.
pub(super) fn of_lines(file: &zstd::ZstdFile, level: u32) -> io::Result<Bytes> {
    let mut columns = Columns::new();
    let options = ArrowWriterOptions::new().with_properties(properties(level)?);
    // The schema of Parquet is sufficient. Arrow's schema would repeat it.
    let options = options.with_skip_arrow_metadata(true);
    let writer = ArrowWriter::try_new_with_options(Content::default(), columns.schema(), options);
    let mut writer = writer.map_err(io::Error::other)?;
    let (mut lines, mut line) = (file.read()?, Vec::new());
    let (mut row_group_bytes, mut read_bytes) = (0, 0);
    while lines.read_until(b'\n', &mut line)? > 0 {
        columns.push(&serde_json::from_slice::<Row<'_>>(&line)?)?;
        read_bytes += line.len() as u64;
        line.clear();
        if columns.bytes() >= ROWS_BYTES {
            row_group_bytes += columns.bytes();
            writer.write(&columns.finish()?).map_err(io::Error::other)?;
        }
        if row_group_bytes >= ROW_GROUP_BYTES {
            row_group_bytes = 0;
            writer.flush().map_err(io::Error::other)?;
        }
    }
    writer.write(&columns.finish()?).map_err(io::Error::other)?;
    if read_bytes != file.plain_bytes() {
        let plain_bytes = file.plain_bytes();
        return Err(io::Error::other(format!("{read_bytes} of {plain_bytes} bytes were read")));
    }
    Ok(writer.into_inner().map_err(io::Error::other)?.0.into())
}

fn properties(level: u32) -> io::Result<WriterProperties> {
    let level = ZstdLevel::try_new(level.cast_signed()).map_err(io::Error::other)?;
    let path = |names: &[&str]| {
        ColumnPath::from(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    };
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(PAGE_BYTES)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(None);
    for names in REPEATING {
        properties = properties.set_column_dictionary_enabled(path(names), true);
    }
    for names in WITHOUT_STATISTICS {
        properties = properties.set_column_statistics_enabled(path(names), EnabledStatistics::None);
    }
    Ok(properties.build())
}

/// The file so far. Its capacity grows by an eighth, instead of doubling.
#[derive(Debug, Default)]
struct Content(Vec<u8>);

impl Write for Content {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        growing::append(&mut self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
