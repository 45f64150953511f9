//! The JSON API of Cloud Storage.

use std::collections::HashMap;

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use tonic::Code;

use super::Storage;
use super::copying::{ObjectRef, rewritten};
use super::media::{media, no_media};
use super::object::{Given, Object, Preconditions};
use super::route::Route;
use crate::rest::{decode, query};
use crate::rights;
use crate::status::Status;

/// Parameters and headers that are not supported.
const UNSUPPORTED_PARAMETERS: [&str; 5] = [
    "destinationKmsKeyName",
    "destinationPredefinedAcl",
    "enableObjectRetention",
    "kmsKeyName",
    "predefinedAcl",
];
const UNSUPPORTED_HEADERS: [&str; 2] =
    ["x-goog-encryption-algorithm", "x-goog-copy-source-encryption-algorithm"];

/// Answers a request of the JSON API that is not a batch.
pub(super) async fn answer(
    storage: &Storage,
    request: &Parts,
    body: &Bytes,
) -> Result<Response, Status> {
    let Parts { method, uri, headers, .. } = request;
    let query = query(uri);
    let route = Route::find(method, uri.path(), &query)?;
    refuse_unsupported(&query, headers)?;
    let call = StorageCall { storage, query, headers, body, uri, route: &route };
    let answer = storage.0.faults.around(route.name, async { call.answer() }).await;
    match answer {
        Err(status) if route.name == "storage.objects.read" => Ok(no_media(&status)),
        answer => answer,
    }
}

struct StorageCall<'a> {
    storage: &'a Storage,
    query: HashMap<String, String>,
    headers: &'a HeaderMap,
    body: &'a Bytes,
    uri: &'a Uri,
    route: &'a Route,
}

impl StorageCall<'_> {
    fn answer(&self) -> Result<Response, Status> {
        let name = self.route.name;
        if name.starts_with("storage.buckets.") {
            return self.bucket();
        }
        if name.starts_with("storage.uploads.") || name == "storage.objects.insert" {
            return self.upload();
        }
        let (bucket, object) = (self.route.bucket.as_str(), self.route.object.as_str());
        let preconditions = self.preconditions("")?;
        let answer = match name {
            "storage.objects.list" => self.storage.list(bucket, &self.query, &self.base())?,
            "storage.objects.read" | "storage.objects.get" => return self.read(),
            "storage.objects.delete" => {
                self.storage.delete(bucket, object, preconditions)?;
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            "storage.objects.patch" => {
                let patch = self.json()?;
                let change = |given: &Given| given.patched(&patch);
                self.shown(&self.storage.change(bucket, object, preconditions, change)?)
            }
            "storage.objects.update" => {
                let new = Given::from_json(self.body)?;
                let change = |given: &Given| Ok(Given { name: given.name.clone(), ..new });
                self.shown(&self.storage.change(bucket, object, preconditions, change)?)
            }
            "storage.objects.compose" => {
                let to = ObjectRef { bucket, name: object, preconditions };
                self.shown(&self.storage.compose(to, self.body)?)
            }
            _ => self.copy()?,
        };
        Ok(Json(answer).into_response())
    }

    fn bucket(&self) -> Result<Response, Status> {
        let (storage, bucket) = (self.storage, self.route.bucket.as_str());
        let metageneration = self.preconditions("")?.metageneration;
        let answer = match self.route.name {
            "storage.buckets.list" => storage.list_buckets(&self.query),
            "storage.buckets.insert" => storage.insert_bucket(&self.json()?)?,
            "storage.buckets.get" => storage.get_bucket(bucket)?,
            "storage.buckets.patch" => {
                storage.patch_bucket(bucket, &self.json()?, metageneration)?
            }
            "storage.buckets.update" => {
                storage.update_bucket(bucket, &self.json()?, metageneration)?
            }
            "storage.buckets.delete" => {
                storage.delete_bucket(bucket, metageneration)?;
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            "storage.buckets.testIamPermissions" => {
                storage.get_bucket(bucket)?;
                let asked = self.uri.query().unwrap_or_default().split('&');
                let permissions: Vec<_> = asked
                    .filter_map(|pair| pair.strip_prefix("permissions=").map(decode))
                    .collect();
                let profile = storage.0.faults.conditions().profile();
                json!({ "permissions": rights::granted(&profile.denied, permissions) })
            }
            other => return Err(Status::unimplemented(other)),
        };
        Ok(Json(answer).into_response())
    }

    fn upload(&self) -> Result<Response, Status> {
        let id = self.query.get("upload_id").map(String::as_str).unwrap_or_default();
        match self.route.name {
            "storage.uploads.continue" => {
                return self.storage.continue_upload(id, self.headers, self.body);
            }
            "storage.uploads.cancel" => {
                self.storage.cancel_upload(id);
                // Google answers a cancelled upload with 499, "Client Closed Request".
                let cancelled = StatusCode::from_u16(499).unwrap_or(StatusCode::NO_CONTENT);
                return Ok(cancelled.into_response());
            }
            _ => {}
        }
        let given = Given {
            name: self.query.get("name").cloned(),
            content_encoding: self.query.get("contentEncoding").cloned(),
            ..Given::default()
        };
        let (bucket, preconditions) = (self.route.bucket.as_str(), self.preconditions("")?);
        let kind = self.query.get("uploadType").map(String::as_str);
        match kind {
            Some("media") => {
                self.storage.upload_simple(bucket, given, preconditions, self.headers, self.body)
            }
            Some("multipart") => {
                self.storage.upload_multipart(bucket, given, preconditions, self.headers, self.body)
            }
            Some("resumable") => {
                self.storage.begin_upload(bucket, given, preconditions, self.headers, self.body)
            }
            other => Err(Status::unimplemented(&format!("uploadType {}", other.unwrap_or("none")))),
        }
    }

    fn read(&self) -> Result<Response, Status> {
        let object = self.storage.get(&self.route.bucket, &self.route.object)?;
        let preconditions = self.preconditions("")?;
        let is_named = |header| names_tag(self.headers, header, &object.etag());
        if preconditions.is_unchanged(Some(&object))
            || is_named(header::IF_NONE_MATCH) == Some(true)
        {
            return Ok(StatusCode::NOT_MODIFIED.into_response());
        }
        if is_named(header::IF_MATCH) == Some(false) {
            let text = "the object has another etag";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        preconditions.check(Some(&object))?;
        if self.route.name == "storage.objects.get" {
            return Ok(Json(self.shown(&object)).into_response());
        }
        let (bucket, name) = (object.bucket.as_str(), object.name.as_str());
        let check = |object: &Object| preconditions.check(Some(object));
        let (object, data) = self.storage.open_object(bucket, name, check)?;
        Ok(media(&object, data.read()?, self.headers))
    }

    fn copy(&self) -> Result<Value, Status> {
        let Route { name, bucket, object, destination: (to_bucket, to_object) } = self.route;
        let from = ObjectRef { bucket, name: object, preconditions: self.preconditions("Source")? };
        let preconditions = Preconditions { wanted: None, ..self.preconditions("")? };
        let to = ObjectRef { bucket: to_bucket, name: to_object, preconditions };
        match *name {
            "storage.objects.move" => Ok(self.shown(&self.storage.move_object(from, to)?)),
            "storage.objects.copy" => Ok(self.shown(&self.storage.copy(from, to, self.body)?)),
            "storage.objects.rewrite" => {
                Ok(rewritten(&self.storage.copy(from, to, self.body)?, &self.base()))
            }
            other => Err(Status::unimplemented(other)),
        }
    }

    fn base(&self) -> String {
        self.storage.base(self.headers)
    }

    fn shown(&self, object: &Object) -> Value {
        object.to_json(&self.base())
    }

    fn preconditions(&self, of: &str) -> Result<Preconditions, Status> {
        Preconditions::from_query(&self.query, of)
    }

    fn json(&self) -> Result<Value, Status> {
        serde_json::from_slice(self.body)
            .map_err(|error| Status::invalid(format!("Invalid JSON payload received: {error}")))
    }
}

/// Refuses a request that this emulator would store in another way than the client expects.
pub(super) fn refuse_unsupported(
    query: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Result<(), Status> {
    // Every object has this access anyway, and retention is off.
    let is_default = |value: &str| value == "projectPrivate" || value.eq_ignore_ascii_case("false");
    let parameter = UNSUPPORTED_PARAMETERS
        .iter()
        .find(|name| query.get(**name).is_some_and(|value| !is_default(value)));
    let header = UNSUPPORTED_HEADERS.iter().find(|name| headers.contains_key(**name));
    match (parameter, header) {
        (Some(name), _) => Err(Status::unimplemented(&format!("the parameter {name}"))),
        (_, Some(name)) => Err(Status::unimplemented(&format!("the header {name}"))),
        (None, None) => Ok(()),
    }
}

/// Returns true if `If-Match` or `If-None-Match` lists an etag, and `None` without such a header.
fn names_tag(headers: &HeaderMap, header: HeaderName, etag: &str) -> Option<bool> {
    let tags = headers.get(header)?.to_str().ok()?;
    let mut tags = tags.split(',').map(|tag| tag.trim().trim_matches('"'));
    Some(tags.any(|tag| tag == "*" || tag == etag))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_header_of_etags_names_one_of_them_or_all() {
        for (value, expected) in [
            ("\"tag\"", true),
            ("tag", true),
            ("\"other\", \"tag\"", true),
            ("*", true),
            ("\"other\"", false),
            ("\"ta\"", false),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(header::IF_MATCH, value.clone())]);
            assert_eq!(names_tag(&headers, header::IF_MATCH, "tag"), Some(expected), "{value:?}");
            assert_eq!(names_tag(&headers, header::IF_NONE_MATCH, "tag"), None);
        }
    }

    #[test]
    fn what_would_change_the_object_is_refused_unless_it_is_the_default() {
        let refused = |parameter: &str, value: &str| {
            let query = HashMap::from([(parameter.to_owned(), value.to_owned())]);
            refuse_unsupported(&query, &HeaderMap::new()).err().map(|status| status.message)
        };

        let expected = "this emulator does not support the parameter kmsKeyName";
        assert_eq!(refused("kmsKeyName", "k").as_deref(), Some(expected));
        assert!(refused("predefinedAcl", "publicRead").is_some());
        assert!(refused("predefinedAcl", "projectPrivate").is_none());
        assert!(refused("enableObjectRetention", "False").is_none());
        assert!(refused("prefix", "x").is_none());
        let name = HeaderName::from_static("x-goog-encryption-algorithm");
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("AES256"))]);
        assert!(refuse_unsupported(&HashMap::new(), &headers).is_err());
    }
}
