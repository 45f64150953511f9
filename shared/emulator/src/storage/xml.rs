//! Objects at the paths of the XML API, `/<bucket>/<object>`, which public and signed URLs use.
//!
//! Signatures and their expiry are accepted without a check.

use std::collections::HashMap;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tonic::Code;

use super::Storage;
use super::media::media;
use super::object::{Given, Object, Preconditions, whole};
use super::rest::refuse_unsupported;
use super::upload::{hash_header, text};
use crate::rest::{decode, query, read_bytes};
use crate::status::Status;

/// Parameters that mean a part of an object other than its data.
const SUBRESOURCES: [&str; 16] = [
    "acl",
    "attributes",
    "compose",
    "encryption",
    "legal-hold",
    "partNumber",
    "policy",
    "restore",
    "retention",
    "select",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
];
/// Headers that would change what is stored.
const UNSUPPORTED_HEADERS: [&str; 2] = ["x-goog-encryption-kms-key-name", "x-goog-tagging"];
/// Headers of a download that a parameter replaces.
const REPLACED_HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];

/// Returns true for the path of an object: its bucket exists, or the URL is signed.
pub(crate) fn is_object_path(storage: &Storage, uri: &Uri) -> bool {
    let is_signed = uri.query().is_some_and(|query| query.contains("X-Goog-Signature="));
    is_signed
        || bucket_and_object(uri).is_some_and(|(bucket, _)| storage.get_bucket(&bucket).is_ok())
}

/// Answers a request for an object. Errors have the form of the XML API.
pub(crate) async fn answer(storage: &Storage, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    let query = query(&uri);
    let outcome = async {
        let unsupported =
            || Status::unimplemented(&format!("{method} {} of the XML API", uri.path()));
        let (bucket, object) = bucket_and_object(&uri)
            .filter(|(_, object)| !object.is_empty())
            .ok_or_else(unsupported)?;
        let name = name(&method, &query, &headers).ok_or_else(unsupported)?;
        refuse_unsupported(&query, &headers)?;
        refuse_parts(&method, &query, &headers)?;
        let body = read_bytes(body).await?;
        let call = XmlCall { storage, bucket, object, query: &query, headers: &headers };
        storage.0.faults.around(name, async { call.answer(name, &body) }).await
    };
    outcome.await.unwrap_or_else(|status| error(&status))
}

/// Returns the name of the call in the JSON API, as faults use it.
fn name(
    method: &Method,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Option<&'static str> {
    let is_upload = query.contains_key("upload_id");
    match *method {
        Method::GET | Method::HEAD => Some("storage.objects.read"),
        Method::PUT if is_upload => Some("storage.uploads.continue"),
        Method::PUT if headers.contains_key("x-goog-copy-source") => None,
        Method::PUT => Some("storage.objects.insert"),
        Method::DELETE => Some("storage.objects.delete"),
        Method::POST if headers.contains_key("x-goog-resumable") => Some("storage.uploads.begin"),
        _ => None,
    }
}

/// Refuses parts of objects other than their data, and headers that would change what is stored.
fn refuse_parts(
    method: &Method,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Result<(), Status> {
    if let Some(part) = SUBRESOURCES.iter().find(|part| query.contains_key(**part)) {
        return Err(Status::unimplemented(&format!("{method} with ?{part} of the XML API")));
    }
    let is_refused = |name: &str| {
        name.starts_with("x-amz-")
            || name.starts_with("x-goog-object-lock-")
            || UNSUPPORTED_HEADERS.contains(&name)
    };
    if let Some(name) = headers.keys().map(HeaderName::as_str).find(|name| is_refused(name)) {
        return Err(Status::unimplemented(&format!("the header {name}")));
    }
    match text(headers, "x-goog-acl") {
        // Every object has this access anyway.
        None => Ok(()),
        Some(acl) if acl == "project-private" => Ok(()),
        Some(acl) => Err(Status::unimplemented(&format!("x-goog-acl: {acl}"))),
    }
}

/// Checks the size of an upload against `x-goog-content-length-range: least,most`.
fn check_size(headers: &HeaderMap, size: usize) -> Result<(), Status> {
    let Some(range) = text(headers, "x-goog-content-length-range") else { return Ok(()) };
    let ends = range.split_once(',').and_then(|(least, most)| {
        Some((least.trim().parse::<usize>().ok()?, most.trim().parse::<usize>().ok()?))
    });
    let (least, most) = ends.ok_or_else(|| {
        let text = format!("x-goog-content-length-range must be two numbers, not {range}");
        Status::invalid(text)
    })?;
    if (least..=most).contains(&size) {
        return Ok(());
    }
    Err(Status::invalid(format!("The object has {size} bytes, and {range} are allowed.")))
}

/// Replaces headers of a download by the parameters `response-...`.
fn replace_headers(response: &mut Response, query: &HashMap<String, String>) {
    for name in REPLACED_HEADERS {
        let value = query.get(&format!("response-{name}"));
        let value = value.and_then(|value| HeaderValue::from_str(value).ok());
        if let Some(value) = value {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}

struct XmlCall<'a> {
    storage: &'a Storage,
    bucket: String,
    object: String,
    query: &'a HashMap<String, String>,
    headers: &'a HeaderMap,
}

impl XmlCall<'_> {
    fn answer(&self, name: &str, body: &Bytes) -> Result<Response, Status> {
        let (storage, bucket) = (self.storage, self.bucket.as_str());
        let preconditions = self.preconditions()?;
        match name {
            "storage.objects.read" => {
                let check = |object: &Object| preconditions.check(Some(object));
                let (object, data) = storage.open_object(bucket, &self.object, check)?;
                let mut response = media(&object, data.read()?, self.headers);
                replace_headers(&mut response, self.query);
                Ok(response)
            }
            "storage.objects.delete" => {
                storage.delete(bucket, &self.object, preconditions)?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            "storage.uploads.begin" => {
                if self.headers.contains_key("x-goog-content-length-range") {
                    let what = "x-goog-content-length-range of a resumable upload";
                    return Err(Status::unimplemented(what));
                }
                let (headers, body) = (self.headers, &Bytes::new());
                let begun =
                    storage.begin_upload(bucket, self.given(), preconditions, headers, body)?;
                let location = begun.headers()[header::LOCATION].clone();
                Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
            }
            "storage.uploads.continue" => {
                let id = self.query.get("upload_id").map_or("", String::as_str);
                storage.continue_upload(id, self.headers, body)
            }
            _ => {
                check_size(self.headers, body.len())?;
                let object = storage.insert(bucket, self.given(), preconditions, body)?;
                let generation = [("x-goog-generation", object.generation.to_string())];
                Ok((generation, [(header::ETAG, object.etag())]).into_response())
            }
        }
    }

    fn given(&self) -> Given {
        let header = |name: &str| text(self.headers, name);
        let metadata = self.headers.iter().filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix("x-goog-meta-")?;
            Some((key.to_owned(), value.to_str().ok()?.to_owned()))
        });
        Given {
            name: Some(self.object.clone()),
            content_type: header("content-type"),
            content_encoding: header("content-encoding"),
            content_disposition: header("content-disposition"),
            content_language: header("content-language"),
            cache_control: header("cache-control"),
            custom_time: header("x-goog-custom-time"),
            storage_class: header("x-goog-storage-class"),
            crc32c: hash_header(self.headers, "crc32c="),
            md5_hash: hash_header(self.headers, "md5=").or(header("content-md5")),
            metadata: metadata.collect(),
        }
    }

    fn preconditions(&self) -> Result<Preconditions, Status> {
        let number = |text: Option<String>| text.map(|text| whole(&text)).transpose();
        Ok(Preconditions {
            wanted: number(self.query.get("generation").cloned())?,
            generation: number(text(self.headers, "x-goog-if-generation-match"))?,
            metageneration: number(text(self.headers, "x-goog-if-metageneration-match"))?,
            ..Preconditions::default()
        })
    }
}

fn bucket_and_object(uri: &Uri) -> Option<(String, String)> {
    let path = uri.path().strip_prefix('/')?;
    let (bucket, object) = path.split_once('/').unwrap_or((path, ""));
    Some((decode(bucket), decode(object)))
}

/// Builds an error in the form of the XML API.
fn error(status: &Status) -> Response {
    let code = match status.code {
        Code::NotFound if status.message == super::no_bucket().message => "NoSuchBucket",
        Code::NotFound => "NoSuchKey",
        Code::FailedPrecondition => "PreconditionFailed",
        Code::InvalidArgument => "InvalidArgument",
        Code::Unimplemented => "NotImplemented",
        Code::PermissionDenied => "AccessDenied",
        Code::ResourceExhausted => "SlowDown",
        Code::Unavailable => "ServiceUnavailable",
        _ => "InternalError",
    };
    let message = status.message.replace('&', "&amp;").replace('<', "&lt;");
    let body = format!(
        "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let kind = [(header::CONTENT_TYPE, "application/xml; charset=UTF-8")];
    let mut response = (status.http(), kind, body).into_response();
    status.set_retry_after(&mut response);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn an_upload_keeps_to_the_sizes_of_its_url() {
        let check = |range: &'static str, size| {
            let name = HeaderName::from_static("x-goog-content-length-range");
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(range))]);
            check_size(&headers, size).is_ok()
        };

        assert_eq!([1, 2, 5, 6].map(|size| check("2, 5", size)), [false, true, true, false]);
        assert!(!check("2", 2) && !check("2,x", 2));
        assert!(check_size(&HeaderMap::new(), 7).is_ok());
    }

    #[test]
    fn a_request_is_named_by_its_method_and_headers() {
        let call = |method: Method, id: &str, header: &'static str| {
            let query = HashMap::from([(id.to_owned(), "x".to_owned())]);
            let value = HeaderValue::from_static("x");
            let headers = HeaderMap::from_iter([(HeaderName::from_static(header), value)]);
            name(&method, &query, &headers)
        };

        assert_eq!(call(Method::GET, "-", "x-none"), Some("storage.objects.read"));
        assert_eq!(call(Method::HEAD, "-", "x-none"), Some("storage.objects.read"));
        assert_eq!(call(Method::PUT, "-", "x-none"), Some("storage.objects.insert"));
        assert_eq!(call(Method::PUT, "upload_id", "x-none"), Some("storage.uploads.continue"));
        assert_eq!(call(Method::PUT, "-", "x-goog-copy-source"), None);
        assert_eq!(call(Method::DELETE, "-", "x-none"), Some("storage.objects.delete"));
        assert_eq!(call(Method::POST, "-", "x-goog-resumable"), Some("storage.uploads.begin"));
        assert_eq!(call(Method::POST, "-", "x-none"), None);
    }

    #[tokio::test]
    async fn errors_have_the_codes_of_the_xml_api() {
        for (status, code, http) in [
            (super::super::no_bucket(), "NoSuchBucket", 404),
            (Status::new(Code::NotFound, "x"), "NoSuchKey", 404),
            (Status::new(Code::FailedPrecondition, "x"), "PreconditionFailed", 412),
            (Status::invalid("x"), "InvalidArgument", 400),
            (Status::unimplemented("x"), "NotImplemented", 501),
            (Status::new(Code::PermissionDenied, "x"), "AccessDenied", 403),
            (Status::new(Code::ResourceExhausted, "x"), "SlowDown", 429),
            (Status::new(Code::Unavailable, "x"), "ServiceUnavailable", 503),
            (Status::new(Code::Internal, "<x> & y"), "InternalError", 500),
        ] {
            let response = error(&Status { retry_after: Some(2), ..status.clone() });

            assert_eq!(
                (response.status().as_u16(), response.headers()["retry-after"].as_bytes()),
                (http, b"2".as_slice())
            );
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            let message = if http == 500 { "&lt;x> &amp; y" } else { &status.message };
            let expected = format!("<Code>{code}</Code><Message>{message}</Message></Error>");
            assert!(String::from_utf8_lossy(&body).ends_with(&expected), "{body:?}");
        }
    }

    #[test]
    fn headers_of_a_download_are_replaced_by_its_parameters() {
        let query =
            [("response-content-type", "a/b"), ("response-etag", "x"), ("response-expires", "\n")];
        let query = query.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut response =
            ([(header::CONTENT_TYPE, "c/d"), (header::ETAG, "y")], "").into_response();

        replace_headers(&mut response, &HashMap::from(query));

        assert_eq!(response.headers()[header::CONTENT_TYPE], "a/b");
        assert_eq!(response.headers()[header::ETAG], "y");
        assert!(!response.headers().contains_key(header::EXPIRES));
    }
}
