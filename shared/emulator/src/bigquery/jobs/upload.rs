//! Load jobs whose data comes with the request: multipart and resumable uploads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tonic::Code;

use super::rest;
use crate::bigquery::BigQuery;
use crate::rest::{decode, query, read_bytes};
use crate::status::Status;
use crate::storage::multipart_bodies;

/// Most uploads in progress.
const MAX_UPLOADS: usize = 16;
/// Time without a request after which an unfinished upload ends, and a finished one is forgotten.
const MAX_IDLE: Duration = Duration::from_secs(600);
/// Most bytes of one upload.
const MAX_BYTES: usize = 1024 * 1024 * 1024;

/// Uploads by their ids.
#[derive(Debug, Default)]
pub(in crate::bigquery) struct Uploads(Mutex<HashMap<String, Shared>>);

/// An upload that one request at a time may continue.
type Shared = Arc<tokio::sync::Mutex<Upload>>;

#[derive(Debug)]
struct Upload {
    project: String,
    /// Body of `jobs.insert`.
    job: Bytes,
    data: BytesMut,
    /// The job, as soon as all data has arrived.
    answer: Option<Value>,
    /// Time of the last piece.
    used: Instant,
}

/// A piece of an upload: its first byte and the total size, if they are known.
struct Piece {
    first: Option<usize>,
    total: Option<usize>,
}

/// Answers a request below `/upload/bigquery/v2/projects/`.
pub(in crate::bigquery) async fn answer(
    bigquery: &BigQuery,
    request: Request,
) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches("/resumable");
    let path = path.trim_start_matches("/upload/bigquery/v2/projects/");
    let project = path.strip_suffix("/jobs").map(decode);
    let parameters = query(&parts.uri);
    let parameter = |key: &str| parameters.get(key).map(String::as_str);
    let project = project
        .ok_or_else(|| Status::unimplemented(&format!("{} {}", parts.method, parts.uri.path())))?;
    let body = read_bytes(body).await?;
    match (&parts.method, parameter("uploadType"), parameter("upload_id")) {
        (&(Method::PUT | Method::POST), _, Some(id)) => {
            bigquery.continue_upload(id, &parts.headers, &body).await
        }
        (&Method::DELETE, _, Some(id)) => {
            bigquery.uploads.cancel(id);
            // Cloud Storage answers a cancelled upload with 499, "Client Closed Request".
            let cancelled = StatusCode::from_u16(499).unwrap_or(StatusCode::NO_CONTENT);
            Ok(cancelled.into_response())
        }
        (&Method::POST, Some("multipart"), None) => {
            let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let bodies = multipart_bodies(kind.unwrap_or_default(), &body)?;
            let [job, data] = bodies.as_slice() else {
                let text = format!("multipart/related needs 2 parts, has {}", bodies.len());
                return Err(Status::invalid(text));
            };
            bigquery.insert_with(&project, job, data.clone()).await
        }
        (&Method::POST, Some("resumable"), None) => {
            let id = bigquery.uploads.begin(project, body)?;
            let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let location = format!(
                "http://{}{}?uploadType=resumable&upload_id={id}",
                host.unwrap_or("127.0.0.1"),
                parts.uri.path(),
            );
            Ok([(header::LOCATION, location)].into_response())
        }
        (method, kind, _) => {
            let kind = kind.unwrap_or("none");
            Err(Status::unimplemented(&format!("{method} of jobs with the uploadType {kind}")))
        }
    }
}

impl BigQuery {
    async fn insert_with(
        &self,
        project: &str,
        job: &[u8],
        data: Bytes,
    ) -> Result<Response, Status> {
        let call = rest::insert(self, project, job, Some(data));
        let job = self.faults.around("bigquery.jobs.insert", call).await?;
        Ok(Json(job).into_response())
    }

    /// Adds a piece. Answers with the received range, or runs the job if all data has arrived.
    async fn continue_upload(
        &self,
        id: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Status> {
        let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let piece = match range {
            None => Some(Piece { first: Some(0), total: Some(body.len()) }),
            Some(range) => piece(range, body.len()),
        };
        let piece = piece.ok_or_else(|| {
            Status::invalid(format!("Content-Range: {}", range.unwrap_or_default()))
        })?;
        let upload = self.uploads.get(id)?;
        // The job runs under the lock, so a second request for it waits for the answer.
        let mut upload = upload.lock().await;
        if upload.answer.is_none() {
            upload.take(&piece, body)?;
            if piece.total != Some(upload.data.len()) {
                return Ok(incomplete(upload.data.len()));
            }
            let data = Bytes::copy_from_slice(&upload.data);
            // The answer is stored here, so a lost reply does not run the job twice.
            let call = async {
                let answer = rest::insert(self, &upload.project, &upload.job, Some(data)).await?;
                upload.finish(answer);
                Ok(())
            };
            self.faults.around("bigquery.jobs.insert", call).await?;
        }
        Ok(Json(&upload.answer).into_response())
    }
}

impl Uploads {
    fn begin(&self, project: String, job: Bytes) -> Result<String, Status> {
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An upload that a request uses now is neither old nor finished.
        uploads.retain(|_, upload| !upload.try_lock().is_ok_and(|upload| upload.is_old()));
        let is_finished =
            |upload: &&Shared| upload.try_lock().is_ok_and(|upload| upload.answer.is_some());
        if uploads.values().filter(|upload| !is_finished(upload)).count() >= MAX_UPLOADS {
            return Err(Status::new(Code::ResourceExhausted, "too many uploads are under way"));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let upload =
            Upload { project, job, data: BytesMut::new(), answer: None, used: Instant::now() };
        uploads.insert(id.clone(), Shared::new(tokio::sync::Mutex::new(upload)));
        Ok(id)
    }

    fn get(&self, id: &str) -> Result<Shared, Status> {
        let uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || Status::new(Code::NotFound, "the upload has ended or never began");
        uploads.get(id).map(Shared::clone).ok_or_else(gone)
    }

    fn cancel(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Upload {
    fn is_old(&self) -> bool {
        self.used.elapsed() > MAX_IDLE
    }

    /// Adds the part of a piece that has not arrived before.
    fn take(&mut self, piece: &Piece, body: &[u8]) -> Result<(), Status> {
        self.used = Instant::now();
        let Some(first) = piece.first else { return Ok(()) };
        let have = self.data.len();
        if first > have {
            let text = format!("a piece from {first}, {have} bytes are here");
            return Err(Status::invalid(text));
        }
        if first.saturating_add(body.len()) > MAX_BYTES {
            return Err(Status::new(Code::OutOfRange, format!("more than {MAX_BYTES} bytes")));
        }
        // Bytes that arrived before are not added twice.
        self.data.extend_from_slice(&body[(have - first).min(body.len())..]);
        Ok(())
    }

    /// Keeps the answer for a client that missed it, and drops the data.
    fn finish(&mut self, answer: Value) {
        self.answer = Some(answer);
        self.data = BytesMut::new();
        self.used = Instant::now();
    }
}

/// Reads `bytes <first>-<last>/<total>`. If last and total are `*`, the body is the rest.
fn piece(range: &str, len: usize) -> Option<Piece> {
    let (range, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let first: Option<usize> = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.parse().ok()?),
    };
    let total = match (total, first) {
        ("*", Some(first)) if range.ends_with("-*") => first.checked_add(len),
        ("*", _) => None,
        (total, _) => Some(total.parse().ok()?),
    };
    Some(Piece { first, total })
}

/// Answers 308 with the received range. Without a range, nothing has arrived yet.
fn incomplete(have: usize) -> Response {
    let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
    if let Some(last) = have.checked_sub(1)
        && let Ok(range) = format!("bytes=0-{last}").parse()
    {
        response.headers_mut().insert(header::RANGE, range);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload() -> Upload {
        Upload {
            project: "p".into(),
            job: Bytes::new(),
            data: BytesMut::new(),
            answer: None,
            used: Instant::now(),
        }
    }

    #[test]
    fn a_content_range_names_the_first_byte_and_the_size() {
        for (text, expected) in [
            ("bytes 0-3/10", Some((Some(0), Some(10)))),
            ("bytes 4-9/10", Some((Some(4), Some(10)))),
            ("bytes 4-7/*", Some((Some(4), None))),
            ("bytes 4-*/*", Some((Some(4), Some(8)))),
            ("bytes */10", Some((None, Some(10)))),
            ("bytes */*", Some((None, None))),
            ("bytes 0-3", None),
            ("0-3/10", None),
            ("bytes a-3/10", None),
            ("bytes 0-3/x", None),
        ] {
            let found = piece(text, 4).map(|piece| (piece.first, piece.total));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn bytes_that_come_twice_are_added_once_and_gaps_are_refused() {
        let mut upload = upload();
        let mut take = |first, body: &[u8]| {
            let taken = upload.take(&Piece { first, total: None }, body).map_err(|one| one.code);
            (taken, String::from_utf8_lossy(&upload.data).into_owned())
        };

        assert_eq!(take(Some(0), b"abc"), (Ok(()), "abc".into()));
        assert_eq!(take(Some(1), b"bcde"), (Ok(()), "abcde".into()));
        assert_eq!(take(Some(0), b"ab"), (Ok(()), "abcde".into()));
        assert_eq!(take(Some(6), b"g"), (Err(Code::InvalidArgument), "abcde".into()));
        assert_eq!(take(None, b"ignored"), (Ok(()), "abcde".into()));
        assert_eq!(take(Some(usize::MAX), b""), (Err(Code::InvalidArgument), "abcde".into()));
    }

    #[test]
    fn an_incomplete_upload_answers_with_the_range_that_arrived() {
        let range = |have| {
            let response = incomplete(have);
            let range = response.headers().get(header::RANGE).cloned();
            (response.status().as_u16(), range.map(|range| format!("{range:?}")))
        };

        assert_eq!(range(0), (308, None));
        assert_eq!(range(5), (308, Some("\"bytes=0-4\"".into())));
    }

    #[tokio::test]
    async fn finished_uploads_make_room_and_open_ones_do_not() {
        let uploads = Uploads::default();
        let begin = || uploads.begin("p".into(), Bytes::new());
        let ids: Vec<_> = (0..MAX_UPLOADS).map(|_| begin().expect("an upload")).collect();

        let refused = begin().err().map(|one| one.code);
        uploads.get(&ids[0]).expect("an upload").lock().await.finish(Value::Null);
        let after_end = begin();
        uploads.cancel(&ids[1]);
        let after_cancel = begin();

        assert_eq!(refused, Some(Code::ResourceExhausted));
        assert!(after_end.is_ok() && after_cancel.is_ok() && begin().is_err());
        // A client that missed the answer asks for it again.
        assert!(uploads.get(&ids[0]).is_ok());
        assert_eq!(uploads.get(&ids[1]).err().map(|one| one.code), Some(Code::NotFound));
    }
}
