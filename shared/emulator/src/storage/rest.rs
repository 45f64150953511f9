//! The JSON API of Cloud Storage.

use std::collections::{BTreeSet, HashMap};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{Given, Object, Preconditions, Storage};
use crate::rest::{decode, query, read_bytes};
use crate::server::Cloud;
use crate::status::Status;

/// Most items of a page, as with Google's.
const PAGE: usize = 1000;

/// Answers a request below `/storage/v1/`, `/upload/storage/v1/` or `/download/storage/v1/`.
pub(crate) async fn answer(cloud: &Cloud, request: Request) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let upload = path.strip_prefix("/upload/storage/v1/b/");
    let place = upload
        .or_else(|| path.strip_prefix("/download/storage/v1/b/"))
        .or_else(|| path.strip_prefix("/storage/v1/b/"))
        .or_else(|| (path == "/storage/v1/b").then_some(""));
    let unsupported = || Status::unimplemented(&format!("{} {path}", parts.method));
    let place = place.ok_or_else(unsupported)?;
    if let Some(bucket) = place.strip_suffix("/iam/testPermissions") {
        cloud.storage.get_bucket(&decode(bucket))?;
        // Everybody may do everything here.
        let asked = parts.uri.query().unwrap_or_default().split('&');
        let permissions: Vec<_> =
            asked.filter_map(|pair| pair.strip_prefix("permissions=").map(decode)).collect();
        return Ok(Json(json!({ "permissions": permissions })).into_response());
    }
    let (bucket, object) = match place.split_once('/') {
        None => (place, None),
        Some((bucket, "o")) => (bucket, Some("")),
        Some((bucket, rest)) => (bucket, Some(rest.strip_prefix("o/").ok_or_else(unsupported)?)),
    };
    let is_upload = upload.is_some();
    let call = Call {
        storage: &cloud.storage,
        query: query(&parts.uri),
        headers: parts.headers,
        body: read_bytes(body).await?,
        bucket: decode(bucket),
        object: object.map(decode),
    };
    let name = call.name(&parts.method, is_upload).ok_or_else(unsupported)?;
    cloud.faults.around(name, async { call.answer(name) }).await
}

struct Call<'a> {
    storage: &'a Storage,
    query: HashMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
    bucket: String,
    /// Empty for the collection.
    object: Option<String>,
}

impl Call<'_> {
    /// The method's name in the JSON API, as faults know it.
    fn name(&self, method: &Method, is_upload: bool) -> Option<&'static str> {
        let is_media = self.query.get("alt").is_some_and(|alt| alt == "media");
        Some(match (method, self.bucket.as_str(), self.object.as_deref()) {
            (&Method::POST | &Method::PUT | &Method::DELETE, _, Some(_))
                if is_upload && self.query.contains_key("upload_id") =>
            {
                if *method == Method::DELETE {
                    "storage.uploads.cancel"
                } else {
                    "storage.uploads.continue"
                }
            }
            (&Method::POST, _, Some("")) if is_upload => "storage.objects.insert",
            (&Method::GET, "", None) => "storage.buckets.list",
            (&Method::POST, "", None) => "storage.buckets.insert",
            (&Method::GET, _, None) => "storage.buckets.get",
            (&Method::DELETE, _, None) => "storage.buckets.delete",
            (&Method::GET, _, Some("")) => "storage.objects.list",
            (&Method::GET, _, Some(_)) if is_media => "storage.objects.read",
            (&Method::GET, _, Some(_)) => "storage.objects.get",
            (&Method::DELETE, _, Some(_)) => "storage.objects.delete",
            (&Method::PATCH, _, Some(_)) => "storage.objects.patch",
            _ => return None,
        })
    }

    fn answer(&self, name: &str) -> Result<Response, Status> {
        let (storage, bucket) = (self.storage, self.bucket.as_str());
        let object = self.object.as_deref().unwrap_or_default();
        let answer = match name {
            "storage.buckets.list" => storage.list_buckets(),
            "storage.buckets.insert" => storage.create_bucket(&self.json::<NewBucket>()?.name)?,
            "storage.buckets.get" => storage.get_bucket(bucket)?,
            "storage.buckets.delete" => {
                storage.delete_bucket(bucket)?;
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            "storage.objects.list" => self.list()?,
            "storage.objects.read" => return self.read(&storage.get(bucket, object)?),
            "storage.objects.get" => {
                let object = storage.get(bucket, object)?;
                self.preconditions().check(Some(&object))?;
                object.to_json()
            }
            "storage.objects.delete" => {
                storage.delete(bucket, object, self.preconditions())?;
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            "storage.objects.patch" => {
                storage.patch(bucket, object, self.preconditions(), self.json()?)?.to_json()
            }
            "storage.objects.insert" => return self.upload(),
            "storage.uploads.continue" => {
                let id = self.query.get("upload_id").map(String::as_str).unwrap_or_default();
                return storage.continue_upload(id, &self.headers, &self.body);
            }
            "storage.uploads.cancel" => {
                storage.cancel_upload(self.query.get("upload_id").map_or("", String::as_str));
                // What Google answers to a cancelled upload: "Client Closed Request".
                let cancelled = StatusCode::from_u16(499).unwrap_or(StatusCode::NO_CONTENT);
                return Ok(cancelled.into_response());
            }
            other => return Err(Status::unimplemented(other)),
        };
        Ok(Json(answer).into_response())
    }

    fn upload(&self) -> Result<Response, Status> {
        let given = Given { name: self.query.get("name").cloned(), ..Given::default() };
        let content = (&self.headers, &self.body);
        let (bucket, preconditions) = (self.bucket.as_str(), self.preconditions());
        let kind = self.query.get("uploadType").map(String::as_str);
        match kind {
            Some("media") => self.storage.upload_simple(bucket, given, preconditions, content),
            Some("multipart") => {
                self.storage.upload_multipart(bucket, given, preconditions, content)
            }
            Some("resumable") => self.storage.begin_upload(bucket, given, preconditions, content),
            other => Err(Status::unimplemented(&format!("uploadType {}", other.unwrap_or("none")))),
        }
    }

    fn read(&self, object: &Object) -> Result<Response, Status> {
        self.preconditions().check(Some(object))?;
        let data = self.storage.read(object)?;
        let kind = object.given.content_type.clone();
        let mut headers = HeaderMap::new();
        let values = [
            ("content-type", kind.unwrap_or_else(|| "application/octet-stream".into())),
            ("x-goog-generation", object.generation.to_string()),
            ("x-goog-metageneration", object.metageneration.to_string()),
            ("x-goog-stored-content-length", object.size.to_string()),
            ("x-goog-hash", format!("crc32c={}", super::encode_crc32c(object.crc32c))),
        ];
        for (name, value) in values {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
        let range = self.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let Some(range) = range else { return Ok((headers, data).into_response()) };
        let total = data.len();
        let (first, end) = parse_range(range, total)
            .ok_or_else(|| Status::new(tonic::Code::OutOfRange, format!("Range: {range}")))?;
        if let Ok(value) = format!("bytes {first}-{}/{total}", end - 1).parse() {
            headers.insert(header::CONTENT_RANGE, value);
        }
        Ok((StatusCode::PARTIAL_CONTENT, headers, data.slice(first..end)).into_response())
    }

    /// Objects by prefix; with a delimiter, what lies deeper is folded into prefixes.
    fn list(&self) -> Result<serde_json::Value, Status> {
        let parameter = |name: &str| self.query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
        let after = decode(parameter("pageToken"));
        let size = parameter("maxResults").parse().unwrap_or(PAGE).clamp(1, PAGE);
        let buckets = self.storage.buckets();
        let bucket = buckets.get(&self.bucket).ok_or_else(super::no_bucket)?;
        let (mut items, mut prefixes) = (Vec::new(), BTreeSet::new());
        let mut last = String::new();
        let mut next = None;
        for (name, object) in bucket.objects.range(after.clone()..) {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            let depth = if delimiter.is_empty() { None } else { rest.find(delimiter) };
            let folded = depth.map(|at| &name[..prefix.len() + at + delimiter.len()]);
            let is_done = *name <= after || folded.is_some_and(|folded| after.starts_with(folded));
            if !after.is_empty() && is_done
                || folded.is_some_and(|folded| prefixes.contains(folded))
            {
                continue;
            }
            if items.len() + prefixes.len() == size {
                next = Some(last);
                break;
            }
            last = name.clone();
            match folded {
                Some(folded) => drop(prefixes.insert(folded.to_owned())),
                None => items.push(object.to_json()),
            }
        }
        let mut listed = json!({ "kind": "storage#objects", "items": items });
        if !prefixes.is_empty() {
            listed["prefixes"] = json!(prefixes);
        }
        if let Some(next) = next {
            listed["nextPageToken"] = next.into();
        }
        Ok(listed)
    }

    fn preconditions(&self) -> Preconditions {
        let number = |name: &str| self.query.get(name).and_then(|value| value.parse().ok());
        Preconditions {
            generation: number("ifGenerationMatch"),
            not_generation: number("ifGenerationNotMatch"),
            metageneration: number("ifMetagenerationMatch"),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Status> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Status::invalid(format!("Invalid JSON payload received: {error}")))
    }
}

#[derive(Deserialize)]
struct NewBucket {
    name: String,
}

/// The first byte and the one after the last of `Range: bytes=a-b`, within `total`.
fn parse_range(text: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, end) = match (first, last) {
        ("", last) => (total.saturating_sub(last.parse().ok()?), total),
        (first, "") => (first.parse().ok()?, total),
        (first, last) => {
            (first.parse().ok()?, last.parse::<usize>().ok()?.checked_add(1)?.min(total))
        }
    };
    (first < end).then_some((first, end))
}
