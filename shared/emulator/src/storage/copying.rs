//! Copies, moves and composes objects.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;

use super::object::{Given, Object, Preconditions, whole};
use super::{Storage, no_object};
use crate::status::Status;

/// Most sources of one composition, as at Google.
const MAX_SOURCES: usize = 32;

/// Bucket and name of an object, with its preconditions.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObjectRef<'a> {
    pub bucket: &'a str,
    pub name: &'a str,
    pub preconditions: Preconditions,
}

/// Body of a compose request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compose {
    source_objects: Vec<SourceObject>,
    #[serde(default)]
    destination: Value,
    #[serde(default)]
    delete_source_objects: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceObject {
    name: String,
    #[serde(default)]
    generation: Option<Value>,
    #[serde(default)]
    object_preconditions: Value,
}

impl SourceObject {
    fn preconditions(&self) -> Result<Preconditions, Status> {
        let generation = self.object_preconditions.get("ifGenerationMatch");
        let generation = generation.filter(|generation| !generation.is_null());
        Ok(Preconditions {
            wanted: self.generation.as_ref().map(number).transpose()?,
            generation: generation.map(number).transpose()?,
            ..Preconditions::default()
        })
    }
}

/// Parses a number that may be a text in JSON.
fn number(value: &Value) -> Result<i64, Status> {
    value.as_str().map_or_else(|| whole(&value.to_string()), whole)
}

impl Storage {
    /// Copies an object. Metadata in the body replaces that of the source.
    pub(super) fn copy(
        &self,
        from: ObjectRef,
        to: ObjectRef,
        body: &Bytes,
    ) -> Result<Object, Status> {
        let (source, data) = self.whole(from)?;
        let replaced = Given::from_json(body)?;
        let has_metadata = Given { name: None, ..replaced.clone() } != Given::default();
        let given = if has_metadata { replaced } else { source.given };
        self.put_copy(to, given, &data, source.components)
    }

    /// Copies an object and deletes its source.
    pub(super) fn move_object(&self, from: ObjectRef, to: ObjectRef) -> Result<Object, Status> {
        let (source, data) = self.whole(from)?;
        let moved = self.put_copy(to, source.given, &data, source.components)?;
        if from.name == to.name {
            return Ok(moved);
        }
        let wanted = Some(source.generation);
        let copied = Preconditions { wanted, ..Preconditions::default() };
        match self.delete(from.bucket, from.name, copied) {
            // A newer version of the source was written after the copy, so it stays.
            Err(status) if status.code == Code::NotFound => Ok(moved),
            deleted => deleted.map(|()| moved),
        }
    }

    fn put_copy(
        &self,
        to: ObjectRef,
        mut given: Given,
        data: &Bytes,
        components: Option<u32>,
    ) -> Result<Object, Status> {
        given.name = Some(to.name.to_owned());
        // The checksums in a client's old resource are those of the source.
        (given.crc32c, given.md5_hash) = (None, None);
        self.put(to, given, data, components)
    }

    /// Joins objects of a bucket, in the order of the body.
    pub(super) fn compose(&self, to: ObjectRef, body: &Bytes) -> Result<Object, Status> {
        let request: Compose = serde_json::from_slice(body)
            .map_err(|error| Status::invalid(format!("compose: {error}")))?;
        if request.delete_source_objects {
            return Err(Status::unimplemented("`deleteSourceObjects` of storage.objects.compose"));
        }
        let count = request.source_objects.len();
        if !(1..=MAX_SOURCES).contains(&count) {
            let text =
                format!("The number of source components provided ({count}) must be 1 to 32.");
            return Err(Status::invalid(text));
        }
        let (mut data, mut components) = (BytesMut::new(), 0);
        for source in &request.source_objects {
            let preconditions = source.preconditions()?;
            let from = ObjectRef { bucket: to.bucket, name: &source.name, preconditions };
            let (object, part) = self.whole(from)?;
            data.extend_from_slice(&part);
            components += object.components.unwrap_or(1);
        }
        let destination = serde_json::to_vec(&request.destination).unwrap_or_default();
        let destination = if request.destination.is_null() {
            Given::default()
        } else {
            Given::from_json(&destination)?
        };
        let given =
            Given { name: Some(to.name.to_owned()), crc32c: None, md5_hash: None, ..destination };
        self.put(to, given, &data.freeze(), Some(components))
    }

    /// Returns an object with its data if the preconditions hold.
    fn whole(&self, place: ObjectRef) -> Result<(Object, Bytes), Status> {
        let wanted = place.preconditions.wanted;
        let (object, data) = self.open_object(place.bucket, place.name, |object| {
            if wanted.is_some_and(|wanted| wanted != object.generation) {
                return Err(no_object(place.bucket, place.name));
            }
            place.preconditions.check(Some(object))
        })?;
        Ok((object, data.read()?))
    }
}

/// Builds the answer to a rewrite. Everything is copied in one step.
pub(super) fn rewritten(object: &Object, base: &str) -> Value {
    json!({
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": object.size.to_string(),
        "objectSize": object.size.to_string(),
        "done": true,
        "resource": object.to_json(base),
    })
}
