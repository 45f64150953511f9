//! Compressed files that grow line by line, one object each.

mod file;
mod growing;
mod gzip;
mod parquet;
mod zstd;

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pipeline::{Error, Join, Recovery, Refusal};
use storage::{Bucket, Object};
use time::OffsetDateTime;

use crate::archive::{Line, micros, rfc3339};
use crate::config::Archive;
use crate::format::Format;
use crate::object;
use crate::objects::Objects;
use file::{Compressor, File};

/// Version of the objects' format, in their metadata.
const FORMAT_VERSION: &str = "1";

/// Uploads each batch as one object, under a name that is fixed when the batch is closed.
#[derive(Debug, Clone)]
pub struct Sink {
    bucket: Bucket,
    prefix: String,
    format: Format,
    level: u32,
    objects: Objects,
}

/// A file that is whole, and its number of lines.
#[derive(Debug)]
pub struct Upload {
    /// An error is a defect, which shows when the batch is written.
    object: io::Result<Object>,
    records: u64,
}

impl Sink {
    /// A sink that uploads to `bucket`.
    #[must_use]
    pub fn new(bucket: Bucket, settings: &Archive) -> Self {
        let Archive { prefix, format, compression_level, .. } = settings.clone();
        Self { bucket, prefix, format, level: compression_level, objects: Objects::default() }
    }

    /// The same sink, which counts its objects there.
    #[must_use]
    pub fn with_metrics(self, objects: Objects) -> Self {
        Self { objects, ..self }
    }
}

/// A file that grows.
#[derive(Debug)]
pub struct Group {
    key: String,
    file: File,
    records: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl pipeline::Sink for Sink {
    type Record = Line;
    type Key = String;
    type Batch = Group;
    type Sealed = Upload;
    type Scratch = Compressor;

    /// Lines are never refused once they are in a file, so the originals need not be kept.
    const KEEPS_ORIGINALS: bool = false;

    fn scratch(&self) -> Compressor {
        Compressor::new(self.level)
    }

    fn key(&self, line: &Line) -> String {
        line.key.clone()
    }

    fn key_bytes(&self, key: &String) -> usize {
        key.capacity()
    }

    fn open(&self, key: &String) -> Group {
        let (first, last) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH);
        Group { key: key.clone(), file: File::new(self.format), records: 0, first, last }
    }

    fn join(
        &self,
        group: &mut Group,
        line: Line,
        compressor: &mut Compressor,
    ) -> Result<usize, Join<Line>> {
        if group.file.is_full_for(line.bytes.len()) {
            return Err(Join::Full(line));
        }
        let written = group.file.write(&line.bytes, compressor);
        written.map_err(|error| Join::Refused(Recovery::Retry.because("compress line", error)))?;
        (group.first, group.last) = match group.records {
            0 => (line.time, line.time),
            _ => (group.first.min(line.time), group.last.max(line.time)),
        };
        group.records += 1;
        Ok(size_of::<Group>() + group.key.capacity() + group.file.memory())
    }

    fn seal(&self, group: Group, compressor: &mut Compressor) -> Upload {
        let time = |time| rfc3339(micros(time)).unwrap_or_default();
        let content = group.file.finish(compressor);
        let object = content.map(|content| Object {
            name: object::name(&self.prefix, &group.key, self.format),
            content,
            content_type: self.format.content_type(),
            metadata: vec![
                ("records", group.records.to_string()),
                ("first_event_time", time(group.first)),
                ("last_event_time", time(group.last)),
                ("format_version", FORMAT_VERSION.into()),
            ],
            may_exist: AtomicBool::new(false),
        });
        Upload { object, records: group.records }
    }

    async fn write(&self, upload: &Upload, _time_limit: Duration) -> Result<Vec<Refusal>, Error> {
        let object = upload.object.as_ref();
        let object =
            object.map_err(|error| Recovery::Stop.because("make object", error.to_string()))?;
        self.bucket.create(object).await?;
        self.objects.count(upload.records);
        Ok(Vec::new())
    }

    /// An object is never at fault for one of its lines.
    fn split(&self, _upload: &Upload, _at: usize) -> Option<(Upload, Upload)> {
        None
    }
}

/// Memory that closing a Parquet file of so many bytes takes, beside the file itself.
pub(crate) fn conversion_memory(max_bytes: usize) -> u64 {
    // The file is there twice: before the conversion, and after it.
    max_bytes.saturating_add(parquet::CONVERSION_BYTES) as u64
}

#[cfg(test)]
mod tests;
