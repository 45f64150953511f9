//! Creates, changes, lists and deletes buckets.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tonic::Code;

use super::object::{Object, merge, refuse_unsupported};
use super::{Storage, no_bucket, now};
use crate::status::Status;

/// Fields of a bucket resource that are stored and shown. None of them changes how clients see
/// objects.
const KEPT: [&str; 6] =
    ["hierarchicalNamespace", "iamConfiguration", "labels", "location", "rpo", "storageClass"];
/// Fields of a bucket resource that are not supported, unless they are switched off.
const UNSUPPORTED: [&str; 17] = [
    "acl",
    "autoclass",
    "billing",
    "cors",
    "customPlacementConfig",
    "defaultEventBasedHold",
    "defaultObjectAcl",
    "encryption",
    "hierarchicalNamespace",
    "ipFilter",
    "lifecycle",
    "logging",
    "objectRetention",
    "retentionPolicy",
    "softDeletePolicy",
    "versioning",
    "website",
];

/// A bucket, with its objects by name.
#[derive(Default)]
pub(super) struct Bucket {
    pub settings: Settings,
    pub objects: BTreeMap<String, Object>,
}

/// Metadata of a bucket, as stored on disk.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Settings {
    pub created: String,
    pub updated: String,
    pub metageneration: i64,
    pub given: Map<String, Value>,
}

impl Settings {
    pub(super) fn new(created: String, given: Map<String, Value>) -> Self {
        Self { updated: created.clone(), created, metageneration: 1, given }
    }

    /// Returns the storage class of objects that are written without one.
    pub(super) fn storage_class(&self) -> Option<String> {
        self.given.get("storageClass").and_then(Value::as_str).map(str::to_owned)
    }
}

impl Storage {
    /// Creates a bucket with Google's defaults.
    pub(crate) fn create_bucket(&self, name: &str) -> Result<Value, Status> {
        self.insert_bucket(&json!({ "name": name }))
    }

    /// Creates a bucket from its resource.
    pub(super) fn insert_bucket(&self, resource: &Value) -> Result<Value, Status> {
        let name = resource["name"].as_str().unwrap_or_default();
        check_name(name)?;
        let given = kept(resource)?;
        let mut buckets = self.buckets();
        if buckets.contains_key(name) {
            let text = "Your previous request to create the named bucket succeeded and you already own it.";
            return Err(Status::new(Code::AlreadyExists, text));
        }
        let settings = Settings::new(now(), given);
        self.0.disk.create_bucket(name, &settings)?;
        let bucket = Bucket { settings, objects: BTreeMap::new() };
        let json = bucket.to_json(name);
        buckets.insert(name.to_owned(), bucket);
        Ok(json)
    }

    pub(super) fn get_bucket(&self, name: &str) -> Result<Value, Status> {
        let buckets = self.buckets();
        let bucket = buckets.get(name).ok_or_else(no_bucket)?;
        Ok(bucket.to_json(name))
    }

    /// Changes settings of a bucket; `null` removes a setting.
    pub(super) fn patch_bucket(
        &self,
        name: &str,
        patch: &Value,
        metageneration: Option<i64>,
    ) -> Result<Value, Status> {
        self.change_bucket(name, patch, metageneration, |given| {
            let mut merged = Value::Object(given);
            merge(&mut merged, patch);
            merged
        })
    }

    /// Replaces the settings of a bucket.
    pub(super) fn update_bucket(
        &self,
        name: &str,
        resource: &Value,
        metageneration: Option<i64>,
    ) -> Result<Value, Status> {
        self.change_bucket(name, resource, metageneration, |given| {
            let mut resource = resource.clone();
            // These cannot change, and clients may leave them out.
            for fixed in ["location", "storageClass"] {
                if let (Some(value), Value::Object(fields)) = (given.get(fixed), &mut resource) {
                    fields.entry(fixed).or_insert_with(|| value.clone());
                }
            }
            resource
        })
    }

    fn change_bucket(
        &self,
        name: &str,
        asked: &Value,
        metageneration: Option<i64>,
        change: impl FnOnce(Map<String, Value>) -> Value,
    ) -> Result<Value, Status> {
        let mut buckets = self.buckets();
        let bucket = buckets.get_mut(name).ok_or_else(no_bucket)?;
        bucket.check(metageneration)?;
        if !asked.is_object() {
            return Err(Status::invalid("a bucket must be an object"));
        }
        refuse_unsupported(asked, "bucket", &UNSUPPORTED)?;
        let mut settings = bucket.settings.clone();
        settings.given = kept(&change(settings.given))?;
        settings.metageneration += 1;
        settings.updated = now();
        self.0.disk.write_bucket(name, &settings)?;
        bucket.settings = settings;
        Ok(bucket.to_json(name))
    }

    /// Lists buckets by name. The token of a page is the last name of the page before.
    pub(super) fn list_buckets(&self, query: &HashMap<String, String>) -> Value {
        let parameter = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, after) = (parameter("prefix"), parameter("pageToken"));
        let size = parameter("maxResults").parse().unwrap_or(1000).clamp(1, 1000);
        let buckets = self.buckets();
        let mut found =
            buckets.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let page: Vec<_> = found.by_ref().take(size).collect();
        let items: Vec<_> = page.iter().map(|(name, bucket)| bucket.to_json(name)).collect();
        let mut listed = json!({ "kind": "storage#buckets", "items": items });
        if let (Some(_), Some((last, _))) = (found.next(), page.last()) {
            listed["nextPageToken"] = last.as_str().into();
        }
        listed
    }

    pub(super) fn delete_bucket(
        &self,
        name: &str,
        metageneration: Option<i64>,
    ) -> Result<(), Status> {
        let mut buckets = self.buckets();
        let bucket = buckets.get(name).ok_or_else(no_bucket)?;
        bucket.check(metageneration)?;
        if !bucket.objects.is_empty() {
            return Err(Status::new(Code::Aborted, "The bucket you tried to delete is not empty."));
        }
        self.0.disk.delete_bucket(name)?;
        buckets.remove(name);
        Ok(())
    }
}

impl Bucket {
    fn check(&self, metageneration: Option<i64>) -> Result<(), Status> {
        let text = "At least one of the pre-conditions you specified did not hold.";
        if metageneration.is_none_or(|wanted| wanted == self.settings.metageneration) {
            Ok(())
        } else {
            Err(Status::new(Code::FailedPrecondition, text))
        }
    }

    fn to_json(&self, name: &str) -> Value {
        let Settings { created, updated, metageneration, given } = &self.settings;
        let mut json = json!({
            "kind": "storage#bucket",
            "id": name,
            "name": name,
            "projectNumber": "0",
            "metageneration": metageneration.to_string(),
            "etag": format!("\"{metageneration}\""),
            "timeCreated": created,
            "updated": updated,
            "location": "US",
            "locationType": "multi-region",
            "storageClass": "STANDARD",
        });
        for (key, value) in given {
            json[key.as_str()] = value.clone();
        }
        json
    }
}

/// Returns the settings of a bucket resource that are stored.
fn kept(resource: &Value) -> Result<Map<String, Value>, Status> {
    refuse_unsupported(resource, "bucket", &UNSUPPORTED)?;
    let fields = resource.as_object().cloned().unwrap_or_default();
    Ok(fields.into_iter().filter(|(key, _)| KEPT.contains(&key.as_str())).collect())
}

/// Checks the name by the rules at <https://cloud.google.com/storage/docs/buckets#naming>.
fn check_name(name: &str) -> Result<(), Status> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_valid = (3..=222).contains(&name.len())
        && name.chars().all(is_allowed)
        && ends_well(name.chars().next())
        && ends_well(name.chars().next_back())
        && !name.contains("..");
    if is_valid { Ok(()) } else { Err(Status::invalid(format!("Invalid bucket name: '{name}'"))) }
}
