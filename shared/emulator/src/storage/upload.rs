//! Uploads: simple, multipart, and resumable.

use std::sync::PoisonError;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::object::{Given, Preconditions};
use super::sessions::UploadSession;
use super::{Storage, multipart};
use crate::status::Status;

/// Header `Content-Range: bytes <first>-<last>/<total>`. Each part may be `*`.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: Option<u64>,
    total: Option<u64>,
    /// True for `<first>-*`: the data ends where the body ends.
    is_last: bool,
}

impl Storage {
    /// Uploads an object whose data is the whole body. Its name is in the query.
    pub(super) fn upload_simple(
        &self,
        bucket: &str,
        mut given: Given,
        preconditions: Preconditions,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Status> {
        given.content_type = text(headers, header::CONTENT_TYPE.as_str());
        given.content_encoding =
            given.content_encoding.or_else(|| text(headers, header::CONTENT_ENCODING.as_str()));
        given.crc32c = hash_header(headers, "crc32c=");
        given.md5_hash = hash_header(headers, "md5=");
        let object = self.insert(bucket, given, preconditions, body)?;
        Ok(axum::Json(object.to_json(&self.base(headers))).into_response())
    }

    /// Uploads an object whose metadata and data are parts of the body.
    pub(super) fn upload_multipart(
        &self,
        bucket: &str,
        of_query: Given,
        preconditions: Preconditions,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Status> {
        let kind = text(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let (mut given, data) = multipart::parse(&kind, body)?;
        given.name = of_query.name.or(given.name);
        given.content_encoding = of_query.content_encoding.or(given.content_encoding);
        let object = self.insert(bucket, given, preconditions, &data)?;
        Ok(axum::Json(object.to_json(&self.base(headers))).into_response())
    }

    /// Begins a resumable upload, and returns the URL for its data.
    pub(super) fn begin_upload(
        &self,
        bucket: &str,
        of_query: Given,
        preconditions: Preconditions,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Status> {
        self.get_bucket(bucket)?;
        let mut given = Given::from_json(body)?;
        given.name = of_query.name.or(given.name);
        given.content_encoding = of_query.content_encoding.or(given.content_encoding);
        given.content_type = given.content_type.or_else(|| text(headers, "x-upload-content-type"));
        let id = Uuid::new_v4().to_string();
        let location = format!(
            "{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}",
            self.base(headers)
        );
        let session = UploadSession {
            bucket: bucket.to_owned(),
            given,
            preconditions,
            data: BytesMut::new(),
            object: None,
        };
        self.0.sessions.begin(id.clone(), session);
        let id = (HeaderName::from_static("x-guploader-uploadid"), id);
        Ok([(header::LOCATION, location), id].into_response())
    }

    /// Adds a piece to a resumable upload, or reports how much has arrived.
    ///
    /// A finished upload answers with its object for every request. If the object cannot be
    /// written, the upload keeps its data, and the client sends the last piece again.
    pub(super) fn continue_upload(
        &self,
        id: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Status> {
        let session = self.0.sessions.get(id)?;
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = &session.object {
            return Ok(axum::Json(object.to_json(&self.base(headers))).into_response());
        }
        let range = text(headers, header::CONTENT_RANGE.as_str());
        let range = match range {
            Some(range) => parse_range(&range)
                .ok_or_else(|| Status::invalid(format!("Content-Range: {range}")))?,
            None => Range { first: Some(0), total: None, is_last: true },
        };
        session.take(&range, body)?;
        let have = session.data.len() as u64;
        if !range.is_last && range.total != Some(have) {
            return Ok(incomplete(have));
        }
        let mut given = session.given.clone();
        given.crc32c = same(hash_header(headers, "crc32c="), given.crc32c)?;
        given.md5_hash = same(hash_header(headers, "md5="), given.md5_hash)?;
        let data = session.data.split().freeze();
        let object = match self.insert(&session.bucket, given, session.preconditions, &data) {
            Ok(object) => object,
            Err(status) => {
                session.data = BytesMut::from(data);
                return Err(status);
            }
        };
        let shown = object.to_json(&self.base(headers));
        session.object = Some(object);
        self.0.sessions.finish(id);
        Ok(axum::Json(shown).into_response())
    }

    /// Removes a resumable upload.
    pub(super) fn cancel_upload(&self, id: &str) {
        self.0.sessions.cancel(id);
    }
}

impl UploadSession {
    /// Adds the part of a piece that has not arrived before.
    fn take(&mut self, range: &Range, body: &[u8]) -> Result<(), Status> {
        let Some(first) = range.first else { return Ok(()) };
        let have = self.data.len() as u64;
        if first > have {
            return Err(Status::invalid(format!("a piece from {first}, {have} bytes are here")));
        }
        // Bytes that arrived before are not added twice.
        let known = usize::try_from(have - first).unwrap_or(usize::MAX).min(body.len());
        let ends_at = first + body.len() as u64;
        let is_last = range.is_last || range.total == Some(ends_at);
        let kept = if is_last { body.len() } else { kept_of(body.len())? };
        self.data.extend_from_slice(&body[known.min(kept)..kept]);
        Ok(())
    }
}

/// Returns the length that is kept of a piece that is not the last: a multiple of 256 KiB. The
/// answer tells the client from where to send the rest again.
///
/// <https://cloud.google.com/storage/docs/performing-resumable-uploads#chunked-upload>
fn kept_of(length: usize) -> Result<usize, Status> {
    const UNIT: usize = 256 * 1024;
    if (1..UNIT).contains(&length) {
        return Err(Status::invalid(format!(
            "Invalid request.  The number of bytes uploaded is required to be equal or greater than \
             {UNIT}, except for the final request (it's recommended to be the exact multiple of \
             {UNIT}).  The received request contained {length} bytes, which does not meet this \
             requirement."
        )));
    }
    Ok(length - length % UNIT)
}

/// Answers 308 with the received range. Without a range, nothing has arrived yet.
fn incomplete(have: u64) -> Response {
    let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
    if let Some(last) = have.checked_sub(1)
        && let Ok(range) = format!("bytes=0-{last}").parse()
    {
        response.headers_mut().insert(header::RANGE, range);
    }
    response
}

fn parse_range(text: &str) -> Option<Range> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, is_last) = match range {
        "*" => (None, false),
        range => {
            let (first, last) = range.split_once('-')?;
            (Some(first.parse().ok()?), last == "*" && total == "*")
        }
    };
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some(Range { first, total, is_last })
}

/// Returns a checksum of the header `x-goog-hash: crc32c=...,md5=...` by its name.
pub(super) fn hash_header(headers: &HeaderMap, name: &str) -> Option<String> {
    let hashes = headers.get_all("x-goog-hash").into_iter();
    let hashes = hashes.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    hashes.map(str::trim).find_map(|hash| hash.strip_prefix(name)).map(str::to_owned)
}

/// Returns the checksum that a client gives in two places. Both must be the same.
fn same(header: Option<String>, metadata: Option<String>) -> Result<Option<String>, Status> {
    match (header, metadata) {
        (Some(header), Some(metadata)) if header != metadata => Err(Status::invalid(format!(
            "Provided hash \"{metadata}\" doesn't match the hash \"{header}\" of the header."
        ))),
        (header, metadata) => Ok(header.or(metadata)),
    }
}

pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_piece_that_is_not_the_last_whole_units_are_kept() {
        const UNIT: usize = 262_144;

        assert_eq!(kept_of(2 * UNIT).ok(), Some(2 * UNIT));
        assert_eq!(kept_of(UNIT + 1).ok(), Some(UNIT));
        assert_eq!(kept_of(0).ok(), Some(0));
        assert!(kept_of(UNIT - 1).is_err());
    }

    #[test]
    fn ranges_may_leave_out_any_part() {
        let parse = |text| parse_range(text).map(|range| (range.first, range.total));
        let is_last = |text| parse_range(text).is_some_and(|range| range.is_last);

        assert_eq!(parse("bytes 0-99/*"), Some((Some(0), None)));
        assert_eq!(parse("bytes 100-149/150"), Some((Some(100), Some(150))));
        assert_eq!(parse("bytes */150"), Some((None, Some(150))));
        assert_eq!(parse("bytes */*"), Some((None, None)));
        assert_eq!(parse("0-99/100"), None);
        assert!(is_last("bytes 0-*/*") && !is_last("bytes 0-99/*") && !is_last("bytes */*"));
    }
}
