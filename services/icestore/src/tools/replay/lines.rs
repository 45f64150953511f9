//! Lines of an archived object, in any format.

use std::io::{BufRead as _, BufReader, Read};

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;

use super::line::{ArchivedLine, Json};
use super::parquet;
use crate::format::Format;

/// Lines of an object.
pub type Lines = Box<dyn Iterator<Item = anyhow::Result<ArchivedLine>> + Send>;

/// Returns the lines of an object, one after another.
///
/// # Errors
/// For data that cannot be decompressed, and for a line that is not of the archive.
pub fn all(format: Format, object: Bytes) -> anyhow::Result<Lines> {
    Ok(match format {
        Format::JsonlGz => Box::new(lines(MultiGzDecoder::new(object.reader()))),
        Format::JsonlZst => {
            let decoder = zstd::Decoder::with_buffer(object.reader()).context("decompress")?;
            Box::new(lines(decoder))
        }
        Format::Parquet => Box::new(parquet::lines(object)?),
    })
}

fn lines(plain: impl Read) -> impl Iterator<Item = anyhow::Result<ArchivedLine>> {
    let lines = BufReader::new(plain).lines();
    lines.enumerate().map(|(index, line)| {
        let line = line.context("decompress")?;
        let json = serde_json::from_str::<Json>(&line)
            .with_context(|| format!("line {} is none of the archive", index + 1))?;
        ArchivedLine::try_from(json)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn an_object_of_the_go_services_is_read() {
        let envelope = r#"{"id":"1","payload":"eyJ2IjoxfQ==","publishTime":"2025-06-15T10:00:00Z","enrichmentData":{"Topic":"devices/d/up"}}"#;
        let line = format!(
            "{{\"id\":\"7\",\"batchKey\":\"2025/06/15\",\"originalPubSubPayload\":\"{}\",\"archivedAt\":\"2025-06-15T10:00:01Z\"}}\n",
            STANDARD.encode(envelope)
        );
        let mut object = GzEncoder::new(Vec::new(), Compression::fast());
        object.write_all(line.as_bytes()).unwrap();

        let lines = all(Format::JsonlGz, object.finish().unwrap().into()).unwrap();
        let lines: Vec<_> = lines.collect::<Result<_, _>>().unwrap();

        assert_eq!(lines[0].data(), envelope);
        assert_eq!(lines[0].time().unwrap(), time::macros::datetime!(2025-06-15 10:00 UTC));
        let publication = lines[0].for_mqtt().unwrap();
        assert_eq!(publication.topic, "devices/d/up");
        assert_eq!(publication.payload, r#"{"v":1}"#);
    }

    #[test]
    fn what_is_no_line_is_named_by_its_number() {
        let mut object = GzEncoder::new(Vec::new(), Compression::fast());
        object.write_all(b"{}\n").unwrap();

        let mut lines = all(Format::JsonlGz, object.finish().unwrap().into()).unwrap();
        let error = lines.next().unwrap().unwrap_err();

        assert!(error.to_string().starts_with("line 1 "), "{error}");
    }
}
