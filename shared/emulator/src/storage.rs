//! Cloud Storage: buckets and objects, which are files.

mod batch;
mod bucket;
mod contents;
mod copying;
mod disk;
mod listing;
mod media;
mod multipart;
mod object;
mod rest;
mod route;
mod sessions;
mod upload;
mod xml;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use time::OffsetDateTime;
use tonic::Code;

pub(crate) use multipart::bodies as multipart_bodies;
pub(crate) use xml::{answer as xml_answer, is_object_path};

use crate::conditions::Quota;
use crate::faults::Faults;
use crate::rest::read_bytes;
use crate::status::Status;
use bucket::Bucket;
use copying::ObjectRef;
use disk::{Data, Disk};
use object::{Given, Object, Preconditions};
use sessions::UploadSessions;

/// Answers a request of the JSON API, or a batch of them.
pub(crate) async fn rest_answer(storage: &Storage, request: Request) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let body = read_bytes(body).await?;
    if parts.uri.path() == "/batch" || parts.uri.path().starts_with("/batch/") {
        return batch::answer(storage, &parts.headers, &body).await;
    }
    rest::answer(storage, &parts, &body).await
}

/// The whole emulated Cloud Storage. Clones share the same data.
#[derive(Clone)]
pub(crate) struct Storage(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    disk: Disk,
    buckets: Mutex<BTreeMap<String, Bucket>>,
    sessions: UploadSessions,
    faults: Faults,
}

impl Storage {
    /// Loads the folder; `address` is the address of this emulator.
    pub(crate) fn open(
        data_dir: &Path,
        address: SocketAddr,
        faults: Faults,
    ) -> anyhow::Result<Self> {
        let (disk, buckets) = Disk::open(&data_dir.join("storage"))?;
        let sessions = UploadSessions::default();
        let buckets = Mutex::new(buckets);
        Ok(Self(Arc::new(Inner { address, disk, buckets, sessions, faults })))
    }

    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the URL of this emulator for a client with these headers.
    fn base(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        match host {
            Some(host) if host.contains(':') => format!("http://{host}"),
            // Google's client leaves out the port.
            Some(host) => format!("http://{host}:{}", self.0.address.port()),
            None => format!("http://{}", self.0.address),
        }
    }

    /// Creates or replaces an object, completely or not at all.
    fn insert(
        &self,
        bucket: &str,
        given: Given,
        preconditions: Preconditions,
        data: &Bytes,
    ) -> Result<Object, Status> {
        let name = given.name.clone().unwrap_or_default();
        self.put(ObjectRef { bucket, name: &name, preconditions }, given, data, None)
    }

    /// Creates or replaces an object. `components` is the number of objects that it was composed
    /// of.
    fn put(
        &self,
        ObjectRef { bucket, name, preconditions }: ObjectRef,
        mut given: Given,
        data: &Bytes,
        components: Option<u32>,
    ) -> Result<Object, Status> {
        check_object_name(name)?;
        let crc32c = crc32c::crc32c(data);
        if given.crc32c.as_ref().is_some_and(|expected| *expected != encode_crc32c(crc32c)) {
            let found = encode_crc32c(crc32c);
            let text = format!("Provided CRC32C does not match the calculated one, {found}.");
            return Err(Status::invalid(text));
        }
        let md5 = STANDARD.encode(md5::compute(data).0);
        if given.md5_hash.as_ref().is_some_and(|expected| *expected != md5) {
            let text = format!("Provided MD5 hash does not match the calculated one, {md5}.");
            return Err(Status::invalid(text));
        }
        self.spend_write(bucket, name)?;
        // The data is written to a separate file first, so that the index is locked only for a
        // rename.
        let staged = self.0.disk.stage(bucket, data)?;
        let mut buckets = self.buckets();
        let Bucket { settings, objects } = buckets.get_mut(bucket).ok_or_else(no_bucket)?;
        let existing = objects.get(name);
        preconditions.check(existing)?;
        given.storage_class = given.storage_class.or_else(|| settings.storage_class());
        let now_nanos = OffsetDateTime::now_utc().unix_timestamp_nanos();
        let micros = i64::try_from(now_nanos / 1000).unwrap_or(i64::MAX);
        let generation = existing.map_or(micros, |object| micros.max(object.generation + 1));
        let object = Object {
            bucket: bucket.to_owned(),
            file: disk::file_name(name, existing.map(|_| generation)),
            name: name.to_owned(),
            size: data.len() as u64,
            crc32c,
            md5: components.is_none().then_some(md5),
            components,
            generation,
            metageneration: 1,
            time_created: now(),
            updated: now(),
            given,
        };
        let object = self.0.disk.commit(staged, object, existing)?;
        objects.insert(name.to_owned(), object.clone());
        Ok(object)
    }

    /// Refuses a write of an object that was written in the last second.
    fn spend_write(&self, bucket: &str, name: &str) -> Result<(), Status> {
        let conditions = self.0.faults.conditions();
        let limit = conditions.profile().object_writes_per_second;
        let quota = limit.map(|limit| Quota { limit, per: Duration::from_secs(1) });
        if conditions.spend(format!("object {bucket}/{name}"), 1, quota) {
            return Ok(());
        }
        let text = format!(
            "The object {bucket}/{name} exceeded the rate limit for object mutation operations \
             (create, update, and delete). Please reduce your request rate. See \
             https://cloud.google.com/storage/docs/gcs429."
        );
        Err(Status::new(Code::ResourceExhausted, text))
    }

    fn get(&self, bucket: &str, name: &str) -> Result<Object, Status> {
        let buckets = self.buckets();
        let objects = &buckets.get(bucket).ok_or_else(no_bucket)?.objects;
        objects.get(name).cloned().ok_or_else(|| no_object(bucket, name))
    }

    /// Finds an object and opens its data, if `check` accepts it.
    ///
    /// The file is opened while the index is locked. An open file stays readable even if a writer
    /// replaces or deletes the object.
    fn open_object(
        &self,
        bucket: &str,
        name: &str,
        check: impl FnOnce(&Object) -> Result<(), Status>,
    ) -> Result<(Object, Data), Status> {
        let buckets = self.buckets();
        let objects = &buckets.get(bucket).ok_or_else(no_bucket)?.objects;
        let object = objects.get(name).ok_or_else(|| no_object(bucket, name))?;
        check(object)?;
        Ok((object.clone(), self.0.disk.open_data(object)?))
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

    /// Changes the metadata of an object with `change`.
    fn change(
        &self,
        bucket: &str,
        name: &str,
        preconditions: Preconditions,
        change: impl FnOnce(&Given) -> Result<Given, Status>,
    ) -> Result<Object, Status> {
        let mut buckets = self.buckets();
        let objects = &mut buckets.get_mut(bucket).ok_or_else(no_bucket)?.objects;
        let object = objects.get_mut(name).ok_or_else(|| no_object(bucket, name))?;
        preconditions.check(Some(object))?;
        let mut changed = object.clone();
        changed.given = change(&object.given)?;
        changed.metageneration += 1;
        changed.updated = now();
        self.0.disk.write_metadata(&changed)?;
        *object = changed.clone();
        Ok(changed)
    }
}

/// Checks the name by the rules at <https://cloud.google.com/storage/docs/objects#naming>.
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

/// Returns the time in the form of the JSON API, with milliseconds.
fn now() -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    OffsetDateTime::now_utc().format(FORM).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_replaced_while_it_is_read_is_read_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let storage =
            Storage::open(folder.path(), address, Faults::default()).expect("an empty storage");
        storage.create_bucket("bucket").expect("a bucket");
        let write = |content: &'static str| {
            let given = Given { name: Some("o".into()), ..Given::default() };
            let written =
                storage.insert("bucket", given, Preconditions::default(), &content.into());
            written.expect("an object")
        };
        write("old");

        let (object, data) = storage.open_object("bucket", "o", |_| Ok(())).expect("an object");
        let new = write("new");

        assert_ne!(object.generation, new.generation);
        assert_eq!(data.read().expect("the data"), "old");
    }
}
