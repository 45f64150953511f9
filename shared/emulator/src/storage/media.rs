//! Answers with the data of an object: headers, ranges, and decompression for clients without gzip.

use std::io::Read as _;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tonic::Code;

use super::object::Object;
use crate::status::Status;

/// Most bytes of an object after decompression.
const MAX_PLAIN_BYTES: u64 = 512 * 1024 * 1024;

/// Answers with the data, or with the range in the headers `asked`.
///
/// Data that is stored with `contentEncoding: gzip` is sent unchanged to clients that accept gzip.
/// All others get it decompressed and complete
/// (<https://cloud.google.com/storage/docs/transcoding>).
pub(super) fn media(object: &Object, data: Bytes, asked: &HeaderMap) -> Response {
    let mut headers = describe(object);
    if is_gzip(object) && !takes_gzip(asked) && !forbids_change(object) {
        let mut plain = Vec::new();
        let mut decoder = MultiGzDecoder::new(data.as_ref()).take(MAX_PLAIN_BYTES + 1);
        // Data that is not really gzip is sent unchanged.
        if decoder.read_to_end(&mut plain).is_ok() {
            if plain.len() as u64 > MAX_PLAIN_BYTES {
                let what = format!("undoing gzip to more than {MAX_PLAIN_BYTES} bytes");
                return Status::unimplemented(&what).into_response();
            }
            headers.remove(header::CONTENT_ENCODING);
            headers.insert(header::WARNING, HeaderValue::from_static("214 UploadServer gunzipped"));
            return (headers, plain).into_response();
        }
    }
    let range = asked.get(header::RANGE).and_then(|range| range.to_str().ok());
    let Some(range) = range else { return (headers, data).into_response() };
    let total = data.len();
    let Some((first, end)) = parse_range(range, total) else {
        let refused = no_media(&Status::new(Code::OutOfRange, "Request range not satisfiable"));
        return (StatusCode::RANGE_NOT_SATISFIABLE, refused).into_response();
    };
    insert(&mut headers, header::CONTENT_RANGE, &format!("bytes {first}-{}/{total}", end - 1));
    (StatusCode::PARTIAL_CONTENT, headers, data.slice(first..end)).into_response()
}

/// Builds the error of a download. It is text, even in the JSON API
/// ([an example](https://github.com/firebase/firebase-tools/pull/3647)).
pub(super) fn no_media(status: &Status) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/html; charset=UTF-8")];
    let mut response = (status.http(), kind, status.message.clone()).into_response();
    status.set_retry_after(&mut response);
    response
}

fn describe(object: &Object) -> HeaderMap {
    let given = &object.given;
    let mut headers = HeaderMap::new();
    let kind = given.content_type.as_deref().unwrap_or("application/octet-stream");
    let encoding = given.content_encoding.as_deref();
    for (name, value) in [
        (header::CONTENT_TYPE, Some(kind)),
        (header::CONTENT_ENCODING, encoding.filter(|encoding| *encoding != "identity")),
        (header::CONTENT_DISPOSITION, given.content_disposition.as_deref()),
        (header::CONTENT_LANGUAGE, given.content_language.as_deref()),
        (header::CACHE_CONTROL, given.cache_control.as_deref()),
        (header::ACCEPT_RANGES, Some("bytes")),
        (header::ETAG, Some(object.etag().as_str())),
        (header::LAST_MODIFIED, http_date(&object.updated).as_deref()),
    ] {
        if let Some(value) = value {
            insert(&mut headers, name, value);
        }
    }
    for (name, value) in [
        ("x-goog-generation", object.generation.to_string()),
        ("x-goog-metageneration", object.metageneration.to_string()),
        ("x-goog-storage-class", given.storage_class.clone().unwrap_or("STANDARD".into())),
        ("x-goog-stored-content-length", object.size.to_string()),
        ("x-goog-stored-content-encoding", encoding.unwrap_or("identity").to_owned()),
    ] {
        insert(&mut headers, HeaderName::from_static(name), &value);
    }
    for (name, value) in &given.metadata {
        if let Ok(name) = HeaderName::try_from(format!("x-goog-meta-{name}")) {
            insert(&mut headers, name, value);
        }
    }
    let mut sums = format!("crc32c={}", super::encode_crc32c(object.crc32c));
    if let Some(md5) = &object.md5 {
        sums.push_str(&format!(",md5={md5}"));
    }
    insert(&mut headers, HeaderName::from_static("x-goog-hash"), &sums);
    headers
}

/// Inserts a header. A value that is not valid in a header is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn is_gzip(object: &Object) -> bool {
    object.given.content_encoding.as_deref() == Some("gzip")
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    let accepted = asked.get_all(header::ACCEPT_ENCODING).into_iter();
    let mut codings = accepted.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    codings.any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

fn forbids_change(object: &Object) -> bool {
    object.given.cache_control.as_deref().is_some_and(|cache| cache.contains("no-transform"))
}

/// Converts a time of RFC 3339 to the form of HTTP.
fn http_date(text: &str) -> Option<String> {
    use time::format_description::well_known::Rfc3339;
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let time = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
    time.format(FORM).ok()
}

/// Parses `Range: bytes=a-b`, limited to `total`. Returns the first byte and the byte after the
/// last.
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
