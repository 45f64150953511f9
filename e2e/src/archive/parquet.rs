//! Reads the lines of a Parquet object row by row. It avoids Arrow because icestore writes with
//! Arrow.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Line;

pub(super) fn lines(object: &[u8]) -> anyhow::Result<Vec<Line>> {
    let reader = SerializedFileReader::new(Bytes::copy_from_slice(object))?;
    let rows = reader.get_row_iter(None)?;
    rows.map(|row| line(row.context("read a row")?)).collect()
}

fn line(row: Row) -> anyhow::Result<Line> {
    let mut columns: HashMap<_, _> = row.into_columns().into_iter().collect();
    let mut take = |name: &str| columns.remove(name).with_context(|| format!("no column {name}"));
    Ok(Line {
        id: text(take("id")?)?,
        batch_key: text(take("batchKey")?)?,
        original_pub_sub_payload: match take("originalPubSubPayload")? {
            Field::Bytes(bytes) => STANDARD.encode(bytes.data()),
            other => bail!("{other} is no bytes"),
        },
        archived_at: time(&take("archivedAt")?)?,
        publish_time: Some(time(&take("publishTime")?)?),
        ingest_id: match take("ingestId")? {
            Field::Null => None,
            other => Some(text(other)?),
        },
        attributes: match take("attributes")? {
            Field::Null => HashMap::new(),
            Field::MapInternal(map) => map
                .entries()
                .iter()
                .map(|(key, value)| Ok((text(key.clone())?, text(value.clone())?)))
                .collect::<anyhow::Result<_>>()?,
            other => bail!("{other} is no map"),
        },
    })
}

fn text(field: Field) -> anyhow::Result<String> {
    match field {
        Field::Str(text) => Ok(text),
        other => bail!("{other} is no text"),
    }
}

fn time(field: &Field) -> anyhow::Result<String> {
    let Field::TimestampMicros(micros) = field else { bail!("{field} is no time") };
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(*micros) * 1_000)?;
    Ok(time.format(&Rfc3339)?)
}
