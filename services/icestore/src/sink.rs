//! Sink that lets compressed files grow line by line. Each file becomes one object.

mod file;
mod growing;
mod gzip;
mod parquet;
mod zstd;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pipeline::{Error, PushError, Recovery, Refusal};
use storage::{Object, ObjectStore, Store};
use time::OffsetDateTime;
use tokio::sync::{OnceCell, Semaphore};

use crate::archive::{Line, micros, rfc3339};
use crate::config::archive::ArchiveSettings;
use crate::format::Format;
use crate::object;
use crate::objects::Objects;
use file::{Compressor, Ended, File};

/// Version of the objects' format. It is in the metadata of each object.
const FORMAT_VERSION: &str = "1";

/// Uploads each batch as one object. The name of the object is fixed when the batch is closed.
#[derive(Debug, Clone)]
pub struct Sink<S = Store> {
    store: S,
    prefix: String,
    format: Format,
    level: u32,
    objects: Objects,
    /// Limit on the files that are converted at a time.
    conversions: Arc<Semaphore>,
}

/// Closed file with its number of lines.
#[derive(Debug)]
pub struct Upload {
    object: OnceCell<Object>,
    /// Source of the object, until the object exists.
    draft: Mutex<Option<Draft>>,
    records: u64,
}

/// An object without its content.
#[derive(Debug, Clone)]
struct Draft {
    name: String,
    content_type: &'static str,
    metadata: Vec<(&'static str, String)>,
    /// An error is a defect of the program. It is reported when the batch is written.
    ended: Result<Arc<Ended>, String>,
}

impl Upload {
    fn draft(&self) -> std::sync::MutexGuard<'_, Option<Draft>> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: ObjectStore> Sink<S> {
    /// Creates a sink that uploads to `store`.
    #[must_use]
    pub fn new(store: S, settings: &ArchiveSettings) -> Self {
        let ArchiveSettings { prefix, format, compression_level, .. } = settings.clone();
        let (objects, conversions) = (Objects::default(), Arc::new(Semaphore::new(1)));
        Self { store, prefix, format, level: compression_level, objects, conversions }
    }

    /// Returns the same sink, which counts its objects in these metrics.
    #[must_use]
    pub fn with_metrics(self, objects: Objects) -> Self {
        Self { objects, ..self }
    }

    /// Makes the object of an upload. A conversion takes seconds, so it runs on its own thread.
    async fn make(&self, upload: &Upload) -> Result<Object, Error> {
        let stop = |why: String| Recovery::Stop.because("make object", why);
        let draft = upload.draft().clone().ok_or_else(|| stop("its lines are gone".into()))?;
        let Draft { name, content_type, metadata, ended } = draft;
        let ended = ended.map_err(stop)?;
        let content = match &*ended {
            Ended::Whole(content) => content.clone(),
            Ended::Lines { .. } => self.convert(Arc::clone(&ended)).await?,
        };
        // The lines are dropped, because they take memory.
        upload.draft().take();
        Ok(Object { name, content, content_type, metadata, may_exist: AtomicBool::new(false) })
    }

    async fn convert(&self, ended: Arc<Ended>) -> Result<Bytes, Error> {
        let stop = |why: String| Recovery::Stop.because("make object", why);
        let permit = Arc::clone(&self.conversions).acquire_owned().await;
        let permit = permit.map_err(|closed| stop(closed.to_string()))?;
        let converted = tokio::task::spawn_blocking(move || {
            // The permit is held until the end of the conversion, even if nobody waits for the
            // result any more.
            let _permit = permit;
            ended.content()
        });
        match converted.await {
            Ok(content) => content.map_err(|error| stop(error.to_string())),
            // The pipeline handles panics.
            Err(panicked) if panicked.is_panic() => {
                std::panic::resume_unwind(panicked.into_panic())
            }
            Err(cancelled) => Err(Recovery::Retry.because("make object", cancelled)),
        }
    }
}

/// Open object: a file that grows.
#[derive(Debug)]
pub struct Group {
    key: String,
    file: File,
    records: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl<S: ObjectStore> pipeline::Sink for Sink<S> {
    type Record = Line;
    type Key = String;
    type Batch = Group;
    type EncodedBatch = Upload;
    type LaneState = Compressor;

    /// A line in a file is never refused later, so the original messages need not be kept.
    const KEEPS_ORIGINALS: bool = false;

    fn lane_state(&self) -> Compressor {
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

    fn push(
        &self,
        group: &mut Group,
        line: Line,
        compressor: &mut Compressor,
    ) -> Result<usize, PushError<Line>> {
        if group.file.is_full_for(line.bytes.len()) {
            return Err(PushError::Full(line));
        }
        let written = group.file.write(&line.bytes, compressor);
        written
            .map_err(|error| PushError::Refused(Recovery::Retry.because("compress line", error)))?;
        (group.first, group.last) = match group.records {
            0 => (line.time, line.time),
            _ => (group.first.min(line.time), group.last.max(line.time)),
        };
        group.records += 1;
        Ok(size_of::<Group>() + group.key.capacity() + group.file.memory())
    }

    fn encode(&self, group: Group, compressor: &mut Compressor) -> Upload {
        let time = |time| rfc3339(micros(time)).unwrap_or_default();
        let draft = Draft {
            name: object::name(&self.prefix, &group.key, self.format),
            content_type: self.format.content_type(),
            metadata: vec![
                ("records", group.records.to_string()),
                ("first_event_time", time(group.first)),
                ("last_event_time", time(group.last)),
                ("format_version", FORMAT_VERSION.into()),
            ],
            ended: group.file.finish(compressor).map(Arc::new).map_err(|error| error.to_string()),
        };
        let (object, draft) = (OnceCell::new(), Mutex::new(Some(draft)));
        Upload { object, draft, records: group.records }
    }

    async fn write(&self, upload: &Upload, _time_limit: Duration) -> Result<Vec<Refusal>, Error> {
        let object = upload.object.get_or_try_init(|| self.make(upload)).await?;
        self.store.create(object).await?;
        self.objects.count(upload.records);
        Ok(Vec::new())
    }

    fn destination(&self, upload: &Upload) -> Option<String> {
        let object = upload.object.get()?;
        Some(self.store.address(&object.name))
    }

    /// An object never fails because of a single line, so it cannot be split.
    fn split(&self, _upload: &Upload, _at: usize) -> Option<(Upload, Upload)> {
        None
    }
}

/// Returns the memory that closing a Parquet file of this size takes, in addition to the file
/// itself.
pub(crate) fn conversion_memory(max_bytes: usize) -> u64 {
    // The file exists twice: before the conversion and after it.
    max_bytes.saturating_add(parquet::CONVERSION_BYTES) as u64
}

#[cfg(test)]
mod tests;
