//! Metadata of an object: its forms on disk and in the JSON API, and its changes.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tonic::Code;

use crate::status::Status;

/// Fields of an object resource that are not supported.
const UNSUPPORTED: [&str; 7] = [
    "acl",
    "contexts",
    "customerEncryption",
    "eventBasedHold",
    "kmsKeyName",
    "retention",
    "temporaryHold",
];

/// Metadata of an object, as stored on disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    pub bucket: String,
    pub name: String,
    /// Path of the data within the folder of the bucket.
    pub file: String,
    pub size: u64,
    pub crc32c: u32,
    /// MD5 sum in base64. As at Google, composed objects have none.
    #[serde(default)]
    pub md5: Option<String>,
    /// Number of objects that this one was composed of.
    #[serde(default)]
    pub components: Option<u32>,
    pub generation: i64,
    pub metageneration: i64,
    pub time_created: String,
    pub updated: String,
    pub given: Given,
}

/// Metadata that an uploader sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Given {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub metadata: HashMap<String, String>,
    /// Expected CRC32C checksum of the data: big-endian, in base64.
    #[serde(skip_serializing)]
    pub crc32c: Option<String>,
    /// Expected MD5 sum of the data, in base64.
    #[serde(skip_serializing)]
    pub md5_hash: Option<String>,
}

impl Given {
    /// Parses an object resource from a client.
    pub(super) fn from_json(json: &[u8]) -> Result<Self, Status> {
        let json: &[u8] = if json.is_empty() { b"{}" } else { json };
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| Status::invalid(format!("metadata: {error}")))?;
        Self::from_value(value)
    }

    fn from_value(value: Value) -> Result<Self, Status> {
        refuse_unsupported(&value, "object", &UNSUPPORTED)?;
        serde_json::from_value(without_nulls(value))
            .map_err(|error| Status::invalid(format!("metadata: {error}")))
    }

    /// Applies a patch. Given fields replace old ones, and `null` removes a field.
    pub(super) fn patched(&self, patch: &Value) -> Result<Self, Status> {
        refuse_unsupported(patch, "object", &UNSUPPORTED)?;
        let mut value = serde_json::to_value(self)
            .map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        merge(&mut value, patch);
        let patched = Self::from_value(value)?;
        // Checksums and names belong to the data.
        Ok(Self { name: self.name.clone(), crc32c: None, md5_hash: None, ..patched })
    }
}

/// Preconditions of an operation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Preconditions {
    /// Generation that the caller means. Any other generation counts as missing.
    pub wanted: Option<i64>,
    /// Required generation; 0 requires that the object does not exist.
    pub generation: Option<i64>,
    pub not_generation: Option<i64>,
    pub metageneration: Option<i64>,
    pub not_metageneration: Option<i64>,
}

/// Parses a generation from a request.
pub(super) fn whole(text: &str) -> Result<i64, Status> {
    text.parse().map_err(|_| Status::invalid(format!("Invalid long value: '{text}'.")))
}

impl Preconditions {
    /// Reads preconditions from a query. `of` is empty, or `Source` for the source of a copy.
    ///
    /// # Errors
    /// Fails for a value that is not a number. Ignoring it could let a forbidden call pass.
    pub(super) fn from_query(query: &HashMap<String, String>, of: &str) -> Result<Self, Status> {
        let number = |name: String| query.get(&name).map(|value| whole(value)).transpose();
        let wanted = if of.is_empty() { "generation" } else { "sourceGeneration" };
        Ok(Self {
            wanted: number(wanted.to_owned())?,
            generation: number(format!("if{of}GenerationMatch"))?,
            not_generation: number(format!("if{of}GenerationNotMatch"))?,
            metageneration: number(format!("if{of}MetagenerationMatch"))?,
            not_metageneration: number(format!("if{of}MetagenerationNotMatch"))?,
        })
    }

    pub(super) fn check(&self, existing: Option<&Object>) -> Result<(), Status> {
        let generation = existing.map_or(0, |object| object.generation);
        if let (Some(wanted), Some(object)) = (self.wanted, existing)
            && wanted != generation
        {
            let text = format!("No such object: {}/{}#{wanted}", object.bucket, object.name);
            return Err(Status::new(Code::NotFound, text));
        }
        let holds = self.generation.is_none_or(|wanted| wanted == generation)
            && self.metageneration.is_none_or(|wanted| {
                existing.is_some_and(|object| object.metageneration == wanted)
            })
            && !self.is_unchanged(existing);
        let text = "At least one of the pre-conditions you specified did not hold.";
        if holds { Ok(()) } else { Err(Status::new(Code::FailedPrecondition, text)) }
    }

    /// Returns true if the caller already has this object. Then a read answers 304.
    pub(super) fn is_unchanged(&self, existing: Option<&Object>) -> bool {
        let generation = existing.map_or(0, |object| object.generation);
        self.not_generation == Some(generation)
            || existing.is_some_and(|object| self.not_metageneration == Some(object.metageneration))
    }
}

impl Object {
    /// Returns the object in the form of the JSON API; `base` is the URL of this emulator for the
    /// client.
    pub(super) fn to_json(&self, base: &str) -> Value {
        let (bucket, generation) = (&self.bucket, self.generation);
        let name = utf8_percent_encode(&self.name, NON_ALPHANUMERIC);
        let media = format!("{base}/download/storage/v1/b/{bucket}/o/{name}");
        let mut json = json!({
            "kind": "storage#object",
            "id": format!("{bucket}/{}/{generation}", self.name),
            "selfLink": format!("{base}/storage/v1/b/{bucket}/o/{name}"),
            "mediaLink": format!("{media}?generation={generation}&alt=media"),
            "bucket": bucket,
            "name": self.name,
            "size": self.size.to_string(),
            "crc32c": super::encode_crc32c(self.crc32c),
            "etag": self.etag(),
            "generation": generation.to_string(),
            "metageneration": self.metageneration.to_string(),
            "timeCreated": self.time_created,
            "timeStorageClassUpdated": self.time_created,
            "timeFinalized": self.time_created,
            "updated": self.updated,
            "storageClass": self.given.storage_class.as_deref().unwrap_or("STANDARD"),
        });
        let given = &self.given;
        let optional = [
            ("contentType", &given.content_type),
            ("contentEncoding", &given.content_encoding),
            ("contentDisposition", &given.content_disposition),
            ("contentLanguage", &given.content_language),
            ("cacheControl", &given.cache_control),
            ("customTime", &given.custom_time),
            ("md5Hash", &self.md5),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                json[key] = value.as_str().into();
            }
        }
        if let Some(components) = self.components {
            json["componentCount"] = components.into();
        }
        if !given.metadata.is_empty() {
            let sorted: BTreeMap<_, _> = given.metadata.iter().collect();
            json["metadata"] = json!(sorted);
        }
        json
    }

    /// Returns the etag, which changes with the data and with the metadata. As at Google, it is the
    /// base64 of both generations in a protobuf message.
    pub(super) fn etag(&self) -> String {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Tag {
            #[prost(int64, tag = "1")]
            generation: i64,
            #[prost(int64, tag = "2")]
            metageneration: i64,
        }
        let tag = Tag { generation: self.generation, metageneration: self.metageneration };
        STANDARD.encode(prost::Message::encode_to_vec(&tag))
    }
}

/// Refuses a resource with an unsupported field, and names the field.
pub(super) fn refuse_unsupported(json: &Value, of: &str, keys: &[&str]) -> Result<(), Status> {
    match keys.iter().find(|key| json.get(**key).is_some_and(is_set)) {
        Some(key) => Err(Status::unimplemented(&format!("`{key}` of a Cloud Storage {of}"))),
        None => Ok(()),
    }
}

/// Returns true for a value that switches a feature on.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
    }
}

/// Applies a JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return target.clone_from(patch) };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Removes `null` values, which have no meaning.
fn without_nulls(value: Value) -> Value {
    let mut clean = Value::Object(Map::new());
    merge(&mut clean, &value);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_replaces_what_it_names_and_removes_what_it_sets_to_null() {
        let given =
            Given::from_json(br#"{"name":"n","contentType":"a/b","metadata":{"x":"1","y":"2"}}"#);

        let patch =
            json!({ "contentType": null, "metadata": { "x": null, "z": "3" }, "name": "m" });
        let patched = given.unwrap().patched(&patch).unwrap();

        assert_eq!((patched.name.as_deref(), patched.content_type), (Some("n"), None));
        let metadata = [("y", "2"), ("z", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(patched.metadata, HashMap::from(metadata));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name_unless_it_is_switched_off() {
        let refused = Given::from_json(br#"{"temporaryHold":true}"#).unwrap_err();

        assert_eq!(refused.code, Code::Unimplemented);
        assert!(refused.message.contains("`temporaryHold`"), "{refused}");
        assert!(Given::from_json(br#"{"temporaryHold":false,"acl":[]}"#).is_ok());
    }

    fn object() -> Object {
        Object {
            bucket: "b".into(),
            name: "a/ü".into(),
            file: "f".into(),
            size: 3,
            crc32c: 1,
            md5: None,
            components: None,
            generation: 7,
            metageneration: 2,
            time_created: "2025-09-28T22:53:17Z".into(),
            updated: "2025-09-28T22:53:18Z".into(),
            given: Given::default(),
        }
    }

    fn preconditions(query: &[(&str, i64)]) -> Preconditions {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), value.to_string()));
        Preconditions::from_query(&query.collect(), "").expect("preconditions")
    }

    #[test]
    fn preconditions_hold_for_the_object_that_they_name() {
        let object = object();
        let (fails, gone) = (Some(Code::FailedPrecondition), Some(Code::NotFound));
        // The second result is that for a missing object.
        for (query, of_object, of_none) in [
            (vec![], None, None),
            (vec![("ifGenerationMatch", 7)], None, fails),
            (vec![("ifGenerationMatch", 6)], fails, fails),
            (vec![("ifGenerationMatch", 0)], fails, None),
            (vec![("ifGenerationNotMatch", 7)], fails, None),
            (vec![("ifGenerationNotMatch", 6)], None, None),
            (vec![("ifGenerationNotMatch", 0)], None, fails),
            (vec![("ifMetagenerationMatch", 2)], None, fails),
            (vec![("ifMetagenerationMatch", 3)], fails, fails),
            (vec![("ifMetagenerationNotMatch", 2)], fails, None),
            (vec![("ifMetagenerationNotMatch", 3)], None, None),
            (vec![("ifGenerationMatch", 7), ("ifMetagenerationMatch", 3)], fails, fails),
            (vec![("generation", 7)], None, None),
            (vec![("generation", 6)], gone, None),
        ] {
            let preconditions = preconditions(&query);
            let code = |found| preconditions.check(found).err().map(|status| status.code);
            assert_eq!((code(Some(&object)), code(None)), (of_object, of_none), "{query:?}");
        }
    }

    #[test]
    fn preconditions_of_the_source_of_a_copy_have_their_own_names() {
        let query = HashMap::from([
            ("ifGenerationMatch".to_owned(), "1".to_owned()),
            ("ifSourceGenerationMatch".to_owned(), "2".to_owned()),
            ("sourceGeneration".to_owned(), "3".to_owned()),
        ]);

        let source = Preconditions::from_query(&query, "Source").expect("preconditions");
        let target = Preconditions::from_query(&query, "").expect("preconditions");

        assert_eq!((source.wanted, source.generation), (Some(3), Some(2)));
        assert_eq!((target.wanted, target.generation), (None, Some(1)));
        let wrong = HashMap::from([("ifMetagenerationMatch".to_owned(), "x".to_owned())]);
        let refused = Preconditions::from_query(&wrong, "").expect_err("a refusal");
        assert_eq!(refused.code, Code::InvalidArgument);
    }

    #[test]
    fn an_etag_changes_with_the_data_and_with_the_metadata() {
        let of =
            |generation, metageneration| Object { generation, metageneration, ..object() }.etag();

        // The bytes are those of a protobuf message with both numbers.
        assert_eq!(of(7, 2), STANDARD.encode([0x08, 7, 0x10, 2]));
        assert_eq!([of(8, 2) == of(7, 2), of(7, 3) == of(7, 2)], [false, false]);
    }

    #[test]
    fn an_object_is_shown_with_numbers_as_text_and_its_urls() {
        let given = Given { content_type: Some("a/b".into()), ..Given::default() };

        let shown = Object { given, components: Some(2), ..object() }.to_json("http://h");

        for (key, expected) in [
            ("id", json!("b/a/ü/7")),
            ("selfLink", json!("http://h/storage/v1/b/b/o/a%2F%C3%BC")),
            (
                "mediaLink",
                json!("http://h/download/storage/v1/b/b/o/a%2F%C3%BC?generation=7&alt=media"),
            ),
            ("size", json!("3")),
            ("generation", json!("7")),
            ("metageneration", json!("2")),
            ("crc32c", json!("AAAAAQ==")),
            ("storageClass", json!("STANDARD")),
            ("contentType", json!("a/b")),
            ("componentCount", json!(2)),
            ("md5Hash", Value::Null),
            ("metadata", Value::Null),
        ] {
            assert_eq!(shown[key], expected, "{key}");
        }
    }
}
