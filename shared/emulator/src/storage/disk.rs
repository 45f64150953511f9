//! Objects on disk: the data under its own name in the folder of the bucket, and metadata in
//! another folder.
//!
//! An object exists as soon as its metadata file has been renamed. Its data is in place before
//! that, under a name that no older generation uses. So a crash leaves the old object or the new
//! one, never a part of one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Map;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tonic::Code;

use super::bucket::{Bucket, Settings};
use super::object::Object;
use crate::status::Status;

/// Folder of metadata and staged data. No bucket can have this name.
const STATE: &str = ".state";
/// File of the metadata of a bucket.
const SETTINGS: &str = "bucket.json";
/// Longest file name on the usual file systems, minus room for a generation.
const MAX_FILE_NAME: usize = 230;
/// Characters that a file name cannot contain, or that have a special meaning in it.
const UNSAFE: &AsciiSet = &CONTROLS.add(b'/').add(b'\\').add(b'%').add(b'#').add(b'~');

pub(super) struct Disk {
    root: PathBuf,
}

/// Data that was written but is not part of an object yet. Dropping it removes the data.
pub(super) struct Staged(NamedTempFile);

/// Open data of an object.
pub(super) struct Data(File);

impl Data {
    /// Reads all data.
    pub(super) fn read(mut self) -> Result<Bytes, Status> {
        let mut content = Vec::new();
        io(self.0.read_to_end(&mut content))?;
        Ok(content.into())
    }
}

/// Returns the path of an object's data within the folder of its bucket.
///
/// New data of a replaced object needs its own name, so the name then contains the `generation`.
pub(super) fn file_name(object: &str, generation: Option<i64>) -> String {
    let encode = |part: &str| match part {
        "" => "%".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        part => utf8_percent_encode(part, UNSAFE).to_string(),
    };
    let mut name = object.split('/').map(encode).collect::<Vec<_>>().join("/");
    if name.split('/').any(|part| part.len() > MAX_FILE_NAME) {
        name = flat_name(object);
    }
    match generation {
        Some(generation) => format!("{name}#{generation}"),
        None => name,
    }
}

/// Returns a name that cannot collide, for an object that cannot have its own file name.
fn flat_name(object: &str) -> String {
    format!("~{}", hash(object))
}

fn hash(name: &str) -> String {
    Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Disk {
    pub(super) fn open(root: &Path) -> anyhow::Result<(Self, BTreeMap<String, Bucket>)> {
        let disk = Self { root: root.to_owned() };
        let state = disk.root.join(STATE);
        fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(&state).with_context(|| format!("read {}", state.display()))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let bucket = read_bucket(&entry.path())
                .with_context(|| format!("read bucket {name}, below {}", state.display()))?;
            buckets.insert(name, bucket);
        }
        Ok((disk, buckets))
    }

    pub(super) fn create_bucket(&self, name: &str, settings: &Settings) -> Result<(), Status> {
        let state = self.state(name);
        io(fs::create_dir_all(self.root.join(name)))?;
        io(fs::create_dir_all(state.join("objects")))?;
        io(fs::create_dir_all(state.join("staged")))?;
        self.write_bucket(name, settings)?;
        // This file makes it a bucket: it is read first at the next start.
        io(fs::write(state.join("created"), &settings.created))
    }

    pub(super) fn write_bucket(&self, name: &str, settings: &Settings) -> Result<(), Status> {
        let staged = self.stage(name, &to_json(settings)?)?;
        io(staged.0.persist(self.state(name).join(SETTINGS)).map_err(|error| error.error))?;
        Ok(())
    }

    pub(super) fn delete_bucket(&self, name: &str) -> Result<(), Status> {
        io(fs::remove_dir_all(self.state(name)))?;
        io(fs::remove_dir_all(self.root.join(name)))
    }

    pub(super) fn stage(&self, bucket: &str, data: &[u8]) -> Result<Staged, Status> {
        let dir = self.state(bucket).join("staged");
        if !dir.is_dir() {
            return Err(super::no_bucket());
        }
        let mut file = io(NamedTempFile::new_in(dir))?;
        io(file.write_all(data))?;
        Ok(Staged(file))
    }

    /// Moves data into place, and makes it the object instead of `old`.
    pub(super) fn commit(
        &self,
        staged: Staged,
        mut object: Object,
        old: Option<&Object>,
    ) -> Result<Object, Status> {
        if !self.can_hold(&object) {
            // One object is the file `a`, and another one needs the folder `a`, as in `a/b`.
            object.file = format!("{}#{}", flat_name(&object.name), object.generation);
        }
        let path = self.data(&object);
        if let Some(folder) = path.parent() {
            io(fs::create_dir_all(folder))?;
        }
        io(staged.0.persist(&path).map_err(|error| error.error))?;
        self.write_metadata(&object)?;
        if let Some(old) = old {
            io(fs::remove_file(self.data(old)))?;
        }
        Ok(object)
    }

    pub(super) fn write_metadata(&self, object: &Object) -> Result<(), Status> {
        let staged = self.stage(&object.bucket, &to_json(object)?)?;
        io(staged.0.persist(self.metadata(object)).map_err(|error| error.error))?;
        Ok(())
    }

    pub(super) fn open_data(&self, object: &Object) -> Result<Data, Status> {
        io(File::open(self.data(object))).map(Data)
    }

    pub(super) fn delete(&self, object: &Object) -> Result<(), Status> {
        io(fs::remove_file(self.metadata(object)))?;
        io(fs::remove_file(self.data(object)))
    }

    fn can_hold(&self, object: &Object) -> bool {
        let path = self.data(object);
        let bucket = self.root.join(&object.bucket);
        let folders = path.ancestors().skip(1).take_while(|folder| *folder != bucket);
        !path.is_dir() && folders.into_iter().all(|folder| !folder.is_file())
    }

    fn state(&self, bucket: &str) -> PathBuf {
        self.root.join(STATE).join(bucket)
    }

    fn data(&self, object: &Object) -> PathBuf {
        self.root.join(&object.bucket).join(&object.file)
    }

    fn metadata(&self, object: &Object) -> PathBuf {
        self.state(&object.bucket).join("objects").join(format!("{}.json", hash(&object.name)))
    }
}

fn read_bucket(state: &Path) -> anyhow::Result<Bucket> {
    let created = fs::read_to_string(state.join("created")).context("read created")?;
    let settings = match fs::read(state.join(SETTINGS)) {
        Ok(json) => serde_json::from_slice(&json).context("read the bucket's settings")?,
        // Buckets from an older version have no settings.
        Err(error) if error.kind() == ErrorKind::NotFound => Settings::new(created, Map::new()),
        Err(error) => return Err(error).context("read the bucket's settings"),
    };
    let mut bucket = Bucket { settings, objects: BTreeMap::new() };
    for staged in fs::read_dir(state.join("staged")).context("read staged")? {
        // Left over after a crash: it was never part of an object.
        fs::remove_file(staged?.path()).context("remove what was staged")?;
    }
    for entry in fs::read_dir(state.join("objects")).context("read objects")? {
        let path = entry?.path();
        let json = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let object: Object = serde_json::from_slice(&json)
            .with_context(|| format!("read {} as metadata", path.display()))?;
        bucket.objects.insert(object.name.clone(), object);
    }
    Ok(bucket)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(value).map_err(|error| Status::new(Code::Internal, error.to_string()))
}

fn io<T>(result: std::io::Result<T>) -> Result<T, Status> {
    result.map_err(|error| Status::new(Code::Internal, format!("the data folder: {error}")))
}
