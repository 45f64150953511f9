//! Cloud Storage: buckets, and objects that are files.

mod disk;
mod multipart;
mod rest;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tonic::Code;

pub(crate) use rest::answer as rest_answer;

use crate::status::Status;
use disk::Disk;
use upload::Session;

/// All of Cloud Storage; clones are the same one.
#[derive(Clone)]
pub(crate) struct Storage(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    disk: Disk,
    buckets: Mutex<BTreeMap<String, Bucket>>,
    sessions: Mutex<HashMap<String, Session>>,
}

#[derive(Default)]
struct Bucket {
    created: String,
    objects: BTreeMap<String, Object>,
}

/// An object's metadata, as it lies beside the data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    bucket: String,
    name: String,
    /// The data's path within the bucket's folder.
    file: String,
    size: u64,
    crc32c: u32,
    generation: i64,
    metageneration: i64,
    time_created: String,
    updated: String,
    given: Given,
}

/// What an uploader says about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Given {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<String>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    metadata: HashMap<String, String>,
    /// Base64 of the big-endian checksum that the data must have.
    #[serde(skip_serializing)]
    crc32c: Option<String>,
}

/// What must hold before an operation.
#[derive(Debug, Clone, Copy, Default)]
struct Preconditions {
    /// 0: the object must not exist.
    generation: Option<i64>,
    not_generation: Option<i64>,
    metageneration: Option<i64>,
}

impl Preconditions {
    fn check(&self, existing: Option<&Object>) -> Result<(), Status> {
        let generation = existing.map_or(0, |object| object.generation);
        let holds = self.generation.is_none_or(|wanted| wanted == generation)
            && self.not_generation.is_none_or(|unwanted| unwanted != generation)
            && self.metageneration.is_none_or(|wanted| {
                existing.is_some_and(|object| object.metageneration == wanted)
            });
        let text = "At least one of the pre-conditions you specified did not hold.";
        if holds { Ok(()) } else { Err(Status::new(Code::FailedPrecondition, text)) }
    }
}

impl Object {
    /// The object in the JSON API's form.
    fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "kind": "storage#object",
            "id": format!("{}/{}/{}", self.bucket, self.name, self.generation),
            "bucket": self.bucket,
            "name": self.name,
            "size": self.size.to_string(),
            "crc32c": encode_crc32c(self.crc32c),
            "generation": self.generation.to_string(),
            "metageneration": self.metageneration.to_string(),
            "timeCreated": self.time_created,
            "updated": self.updated,
            "storageClass": "STANDARD",
        });
        let optional = [
            ("contentType", self.given.content_type.clone()),
            ("contentEncoding", self.given.content_encoding.clone()),
            ("cacheControl", self.given.cache_control.clone()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                json[key] = value.into();
            }
        }
        if !self.given.metadata.is_empty() {
            json["metadata"] = serde_json::json!(self.given.metadata);
        }
        json
    }
}

impl Storage {
    /// Reads what the folder holds; `address` is where this emulator answers.
    pub(crate) fn open(data_dir: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let (disk, buckets) = Disk::open(&data_dir.join("storage"))?;
        let sessions = Mutex::default();
        Ok(Self(Arc::new(Inner { address, disk, buckets: Mutex::new(buckets), sessions })))
    }

    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn create_bucket(&self, name: &str) -> Result<serde_json::Value, Status> {
        check_bucket_name(name)?;
        let mut buckets = self.buckets();
        if buckets.contains_key(name) {
            let text = "Your previous request to create the named bucket succeeded and you already own it.";
            return Err(Status::new(Code::AlreadyExists, text));
        }
        let bucket = Bucket { created: now(), objects: BTreeMap::new() };
        self.0.disk.create_bucket(name, &bucket.created)?;
        let json = bucket_json(name, &bucket);
        buckets.insert(name.to_owned(), bucket);
        Ok(json)
    }

    fn get_bucket(&self, name: &str) -> Result<serde_json::Value, Status> {
        let buckets = self.buckets();
        let bucket = buckets.get(name).ok_or_else(no_bucket)?;
        Ok(bucket_json(name, bucket))
    }

    fn list_buckets(&self) -> serde_json::Value {
        let buckets = self.buckets();
        let items: Vec<_> =
            buckets.iter().map(|(name, bucket)| bucket_json(name, bucket)).collect();
        serde_json::json!({ "kind": "storage#buckets", "items": items })
    }

    fn delete_bucket(&self, name: &str) -> Result<(), Status> {
        let mut buckets = self.buckets();
        let bucket = buckets.get(name).ok_or_else(no_bucket)?;
        if !bucket.objects.is_empty() {
            return Err(Status::new(Code::Aborted, "The bucket you tried to delete is not empty."));
        }
        self.0.disk.delete_bucket(name)?;
        buckets.remove(name);
        Ok(())
    }

    /// Creates or replaces an object, whole or not at all.
    fn insert(
        &self,
        bucket: &str,
        given: Given,
        preconditions: Preconditions,
        data: &Bytes,
    ) -> Result<Object, Status> {
        let name = given.name.clone().unwrap_or_default();
        check_object_name(&name)?;
        let crc32c = crc32c::crc32c(data);
        if given.crc32c.as_ref().is_some_and(|expected| *expected != encode_crc32c(crc32c)) {
            let found = encode_crc32c(crc32c);
            let text = format!("Provided CRC32C does not match the calculated one, {found}.");
            return Err(Status::invalid(text));
        }
        // Written beside the others first, so that the index is locked for a rename only.
        let staged = self.0.disk.stage(bucket, data)?;
        let mut buckets = self.buckets();
        let objects = &mut buckets.get_mut(bucket).ok_or_else(no_bucket)?.objects;
        let existing = objects.get(&name);
        preconditions.check(existing)?;
        let now_nanos = OffsetDateTime::now_utc().unix_timestamp_nanos();
        let micros = i64::try_from(now_nanos / 1000).unwrap_or(i64::MAX);
        let generation = existing.map_or(micros, |object| micros.max(object.generation + 1));
        let object = Object {
            bucket: bucket.to_owned(),
            file: disk::file_name(&name, existing.map(|_| generation)),
            name: name.clone(),
            size: data.len() as u64,
            crc32c,
            generation,
            metageneration: 1,
            time_created: now(),
            updated: now(),
            given,
        };
        let object = self.0.disk.commit(staged, object, existing)?;
        objects.insert(name, object.clone());
        Ok(object)
    }

    fn get(&self, bucket: &str, name: &str) -> Result<Object, Status> {
        let buckets = self.buckets();
        let objects = &buckets.get(bucket).ok_or_else(no_bucket)?.objects;
        objects.get(name).cloned().ok_or_else(|| no_object(bucket, name))
    }

    fn read(&self, object: &Object) -> Result<Bytes, Status> {
        self.0.disk.read(object)
    }

    fn delete(&self, bucket: &str, name: &str, preconditions: Preconditions) -> Result<(), Status> {
        let mut buckets = self.buckets();
        let objects = &mut buckets.get_mut(bucket).ok_or_else(no_bucket)?.objects;
        let object = objects.get(name).ok_or_else(|| no_object(bucket, name))?;
        preconditions.check(Some(object))?;
        self.0.disk.delete(object)?;
        objects.remove(name);
        Ok(())
    }

    /// Changes what an uploader said about an object.
    fn patch(
        &self,
        bucket: &str,
        name: &str,
        preconditions: Preconditions,
        new: Given,
    ) -> Result<Object, Status> {
        let mut buckets = self.buckets();
        let objects = &mut buckets.get_mut(bucket).ok_or_else(no_bucket)?.objects;
        let object = objects.get_mut(name).ok_or_else(|| no_object(bucket, name))?;
        preconditions.check(Some(object))?;
        let mut patched = object.clone();
        patched.given.metadata.extend(new.metadata);
        patched.given.content_type = new.content_type.or(patched.given.content_type);
        patched.given.content_encoding = new.content_encoding.or(patched.given.content_encoding);
        patched.given.cache_control = new.cache_control.or(patched.given.cache_control);
        patched.metageneration += 1;
        patched.updated = now();
        self.0.disk.write_metadata(&patched)?;
        *object = patched.clone();
        Ok(patched)
    }
}

fn bucket_json(name: &str, bucket: &Bucket) -> serde_json::Value {
    serde_json::json!({
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "timeCreated": bucket.created,
        "location": "LOCAL",
        "storageClass": "STANDARD",
    })
}

/// <https://cloud.google.com/storage/docs/buckets#naming>.
fn check_bucket_name(name: &str) -> Result<(), Status> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_valid = (3..=222).contains(&name.len())
        && name.chars().all(is_allowed)
        && ends_well(name.chars().next())
        && ends_well(name.chars().next_back())
        && !name.contains("..");
    if is_valid { Ok(()) } else { Err(Status::invalid(format!("Invalid bucket name: '{name}'"))) }
}

/// <https://cloud.google.com/storage/docs/objects#naming>.
fn check_object_name(name: &str) -> Result<(), Status> {
    let is_valid = (1..=1024).contains(&name.len())
        && !name.contains(['\r', '\n'])
        && name != "."
        && name != ".."
        && !name.starts_with(".well-known/acme-challenge/");
    if is_valid { Ok(()) } else { Err(Status::invalid(format!("Invalid object name: '{name}'"))) }
}

fn no_bucket() -> Status {
    Status::new(Code::NotFound, "The specified bucket does not exist.")
}

fn no_object(bucket: &str, name: &str) -> Status {
    Status::new(Code::NotFound, format!("No such object: {bucket}/{name}"))
}

fn encode_crc32c(checksum: u32) -> String {
    STANDARD.encode(checksum.to_be_bytes())
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}
