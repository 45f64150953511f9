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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body_util::BodyExt as _;

    use super::super::object::Given;
    use super::*;

    fn object(given: Given) -> Object {
        Object {
            bucket: "b".into(),
            name: "n".into(),
            file: "f".into(),
            size: 10,
            crc32c: 1,
            md5: Some("m".into()),
            components: None,
            generation: 7,
            metageneration: 2,
            time_created: "2025-09-28T22:53:17Z".into(),
            updated: "2025-09-28T22:53:18Z".into(),
            given,
        }
    }

    async fn body(response: Response) -> Bytes {
        response.into_body().collect().await.expect("a body").to_bytes()
    }

    #[test]
    fn a_range_is_cut_to_the_data_and_refused_beyond_it() {
        for (text, expected) in [
            ("bytes=0-3", Some((0, 4))),
            ("bytes=2-", Some((2, 10))),
            ("bytes=-3", Some((7, 10))),
            ("bytes=-30", Some((0, 10))),
            ("bytes=8-30", Some((8, 10))),
            ("bytes=9-9", Some((9, 10))),
            ("bytes=10-", None),
            ("bytes=10-12", None),
            ("bytes=4-2", None),
            ("bytes=-0", None),
            ("bytes=a-b", None),
            ("lines=0-3", None),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_part_names_its_place_in_the_whole() {
        let (object, data) = (object(Given::default()), Bytes::from_static(b"0123456789"));
        let asked = |range: &'static str| {
            HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))])
        };

        let part = media(&object, data.clone(), &asked("bytes=2-4"));
        let refused = media(&object, data, &asked("bytes=10-"));

        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.headers()[header::CONTENT_RANGE], "bytes 2-4/10");
        assert_eq!(part.headers()[header::LAST_MODIFIED], "Sun, 28 Sep 2025 22:53:18 GMT");
        assert_eq!(part.headers()["x-goog-hash"], "crc32c=AAAAAQ==,md5=m");
        assert_eq!(body(part).await, "234");
        assert_eq!(refused.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(body(refused).await, "Request range not satisfiable");
    }

    #[tokio::test]
    async fn gzip_is_undone_for_a_client_without_it_and_only_then() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"plain").expect("a write");
        let data = Bytes::from(encoder.finish().expect("an end"));
        let encoded = |cache: Option<&str>| {
            object(Given {
                content_encoding: Some("gzip".into()),
                cache_control: cache.map(str::to_owned),
                ..Given::default()
            })
        };
        let accepts = |codings: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(codings))])
        };

        for (object, headers, is_undone) in [
            (encoded(None), HeaderMap::new(), true),
            (encoded(None), accepts("br"), true),
            (encoded(None), accepts("br, gzip;q=0.5"), false),
            (encoded(Some("no-transform")), HeaderMap::new(), false),
            (object(Given::default()), HeaderMap::new(), false),
        ] {
            let response = media(&object, data.clone(), &headers);
            let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
            assert_eq!(body(response).await == "plain", is_undone, "{object:?} {headers:?}");
            assert_eq!(encoding.is_some(), !is_undone && object.given.content_encoding.is_some());
        }
        // Data that is no gzip is sent as it is.
        let response = media(&encoded(None), Bytes::from_static(b"no gzip"), &HeaderMap::new());
        assert_eq!(body(response).await, "no gzip");
    }
}
