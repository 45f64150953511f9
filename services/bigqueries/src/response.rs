//! Error table: classifies each response of BigQuery to the rows that were sent.
//!
//! | answer | class |
//! |---|---|
//! | `insertAll` 404 | the table is not there (a new one takes a while): not ready |
//! | `insertAll` 401, 403 but for quotas | no rights: not ready |
//! | `insertAll` 403 `quotaExceeded`, `rateLimitExceeded`; 408, 429, 5xx | retry |
//! | `insertAll` 413, or 400 about the size, for a large request | the request is too large: split, until the culprit stands alone |
//! | `insertAll` 400 | the table is at fault, or a row that is not named: not ready |
//! | `insertAll` row `invalid` | that row is refused; the others were written |
//! | `insertAll` row `invalid`, about a column that the settings do not have | the table has changed: retry |
//! | `insertAll` row `invalid`, "no such field" | a new column has not spread yet: retry |
//! | `insertAll` row with any other reason (`stopped`, `timeout`, `backendError`) | retry |
//! | `AppendRows` with row errors | those rows are refused, and none of the others was written yet |
//! | `AppendRows` `NOT_FOUND`, `PERMISSION_DENIED`, `UNAUTHENTICATED` | not ready |
//! | `AppendRows` `INVALID_ARGUMENT` about the size, or `OUT_OF_RANGE`, for a large request without a `StorageError` | the request is too large: split |
//! | `AppendRows` `INVALID_ARGUMENT`, `OUT_OF_RANGE` | the rows do not fit the table, or a new column has not spread: not ready |
//! | `AppendRows` `UNIMPLEMENTED` | no request can succeed: stop |
//! | `AppendRows` anything else; a connection that broke | retry |
//!
//! Before a row is refused, the table is compared with the settings. While the two differ, the row
//! is retried.
//!
//! An answer that is not in this list is retried. It may delay a row, but it cannot lose one.
//!
//! A request that is refused as a whole is not the fault of a row, because BigQuery names bad rows.
//! Such a request waits until somebody corrects the table. So a wrong table does not turn all
//! messages into dead letters.
//!
//! A `StorageError` gives the reason as a code. If a status ends the stream, Google's client keeps
//! the code, as bytes in the cause of its error. If the status is in an answer, the client drops
//! the code, because it converts only the details of `google.rpc`. Then the text of the message
//! decides.

use std::borrow::Cow;

use google_cloud_gax::error::rpc::Code;
use googleapis_tonic_google_rpc::google::rpc::Status;
use pipeline::{Error, Reason, Recovery};
use prost::Message;

use rows::column::Column;

use crate::reasons;

/// Lower bound of all limits on the bytes of a request or a row:
/// <https://cloud.google.com/bigquery/quotas#streaming_inserts>.
const SMALLEST_LIMIT: usize = 1_000_000;

/// Meaning of a refusal because of the size of a request.
const TOO_LARGE: Response = Response::Split(reasons::REQUEST_TOO_LARGE);

/// Meaning of an answer to a whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The rows are in the table.
    Written,
    /// The same request can succeed later.
    Retry,
    /// The request can succeed once the table or a permission exists.
    NotReady,
    /// A row of the request is at fault, but the answer does not name it. The request is split.
    Split(Reason),
    /// No request can ever succeed.
    Stop,
}

/// Meaning of the error of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowResponse {
    /// The row can never succeed.
    Refused,
    /// The row was not at fault.
    Retry,
}

impl Response {
    /// Returns the error for the pipeline, or `None` if the rows were written.
    pub fn because(
        self,
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Option<Error> {
        let recovery = match self {
            Self::Written => return None,
            // The pipeline reports "not ready" while a write is retried.
            Self::Retry | Self::NotReady => Recovery::Retry,
            Self::Split(reason) => Recovery::Reject(reason),
            Self::Stop => Recovery::Stop,
        };
        Some(recovery.because(action, source))
    }
}

/// Classifies an HTTP status of `insertAll`, with the reason and the message of its body, for a
/// request with this many bytes.
#[must_use]
pub fn of_insert_all(status: u16, reason: &str, message: &str, bytes: usize) -> Response {
    match (status, reason) {
        (200, _) => Response::Written,
        (413, _) | (400, "uploadTooLarge") if bytes >= SMALLEST_LIMIT => TOO_LARGE,
        (400, _) if is_about_size(message, bytes) => TOO_LARGE,
        (403, "quotaExceeded" | "rateLimitExceeded") => Response::Retry,
        // A small request is not too large for BigQuery, so something between us and it refuses.
        (400 | 401 | 403 | 404 | 413, _) => Response::NotReady,
        _ => Response::Retry,
    }
}

/// Classifies the error of a row in an answer of `insertAll`. The rows have these columns.
#[must_use]
pub fn of_inserted_row(
    reason: &str,
    location: &str,
    message: &str,
    columns: &[Column],
) -> RowResponse {
    // The table had all columns of the rows when it was checked. So an unknown column has not
    // spread yet, and a column that is not ours was added later.
    let is_spreading = message.starts_with("no such field");
    let is_foreign = !location.is_empty() && !has_column(columns, location);
    // A row without a required value is refused before it is sent, unless BigQuery has a default
    // for the column. So this error means that a new default has not spread yet.
    let is_missing = message.starts_with("Missing required field");
    if reason != "invalid" || is_spreading || is_foreign || is_missing {
        return RowResponse::Retry;
    }
    RowResponse::Refused
}

/// Returns true if there is a column at a path such as `a.b`, `a[0].b` or `Msg_0_QUERY.a.b`.
fn has_column(columns: &[Column], path: &str) -> bool {
    let names = path.split('.').map(|name| name.split('[').next().unwrap_or(name));
    let is_place = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut names = names.filter(|name| !is_place(name)).peekable();
    let is_ours = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    names.next_if(|name| name.starts_with("Msg_") && !is_ours(name));
    let mut columns = Cow::Borrowed(columns);
    names.all(|name| {
        let mut all = columns.iter();
        let Some(column) = all.find(|column| column.name.eq_ignore_ascii_case(name)) else {
            return false;
        };
        columns = column.parts().into_owned().into();
        true
    })
}

/// Classifies a status of the Storage Write API, with the code of its `StorageError` if it has one,
/// for a request with this many bytes.
#[must_use]
pub fn of_append(code: Code, storage_error: Option<i32>, message: &str, bytes: usize) -> Response {
    match code {
        Code::NotFound | Code::PermissionDenied | Code::Unauthenticated => Response::NotReady,
        // All codes of a `StorageError` are about the table, its schema, the stream or a key. The
        // text does not matter.
        Code::InvalidArgument | Code::OutOfRange if storage_error.is_some_and(|code| code != 0) => {
            Response::NotReady
        }
        Code::InvalidArgument if is_about_size(message, bytes) => TOO_LARGE,
        Code::OutOfRange if bytes >= SMALLEST_LIMIT => TOO_LARGE,
        Code::InvalidArgument | Code::OutOfRange => Response::NotReady,
        Code::Unimplemented => Response::Stop,
        // `ALREADY_EXISTS` too: it is about offsets, and the default stream has none.
        _ => Response::Retry,
    }
}

/// The parts of a `google.cloud.bigquery.storage.v1.StorageError` that are read.
#[derive(Clone, PartialEq, Message)]
struct StorageError {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// Returns the code of the `StorageError` in the details of a gRPC status. The details are a
/// `google.rpc.Status`.
#[must_use]
pub fn storage_error(details: &[u8]) -> Option<i32> {
    const NAME: &str = "google.cloud.bigquery.storage.v1.StorageError";
    let status = Status::decode(details).ok()?;
    let details = status.details.iter();
    let mut errors = details.filter(|detail| detail.type_url.rsplit('/').next() == Some(NAME));
    Some(StorageError::decode(errors.next()?.value.as_slice()).ok()?.code)
}

/// Returns true if a request was refused because of its size.
///
/// Google's texts are "AppendRows request too large", "MessageSize is too large" and "Request
/// payload size exceeds the limit". For a small request such a text has another meaning.
fn is_about_size(message: &str, bytes: usize) -> bool {
    let message = message.to_ascii_lowercase();
    bytes >= SMALLEST_LIMIT && (message.contains("too large") || message.contains("size exceeds"))
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;
    use rows::column::{Kind, Mode};

    #[test]
    fn every_status_of_insert_all_has_its_meaning() {
        let table = [
            (200, "", Response::Written),
            (400, "invalid", Response::NotReady),
            (400, "uploadTooLarge", Response::NotReady),
            (401, "authError", Response::NotReady),
            (403, "accessDenied", Response::NotReady),
            (403, "billingNotEnabled", Response::NotReady),
            (403, "quotaExceeded", Response::Retry),
            (403, "rateLimitExceeded", Response::Retry),
            (404, "notFound", Response::NotReady),
            (408, "", Response::Retry),
            (413, "", Response::NotReady),
            (418, "", Response::Retry),
            (429, "", Response::Retry),
            (500, "internalError", Response::Retry),
            (503, "backendError", Response::Retry),
        ];
        for (status, reason, response) in table {
            assert_eq!(of_insert_all(status, reason, "", 1), response, "{status} {reason}");
        }
        let size = "Request payload size exceeds the limit: 10485760 bytes.";
        for (status, reason, message) in
            [(400, "badRequest", size), (413, "", ""), (400, "uploadTooLarge", "")]
        {
            let sized = |bytes| of_insert_all(status, reason, message, bytes);
            assert_eq!(sized(SMALLEST_LIMIT), TOO_LARGE, "{status} {reason}");
            assert_eq!(sized(SMALLEST_LIMIT - 1), Response::NotReady, "{status} {reason}");
        }
    }

    #[test]
    fn every_meaning_has_its_next_step() {
        let table = [
            (Response::Written, None),
            (Response::Retry, Some(Recovery::Retry)),
            (Response::NotReady, Some(Recovery::Retry)),
            (TOO_LARGE, Some(Recovery::Reject(reasons::REQUEST_TOO_LARGE))),
            (Response::Stop, Some(Recovery::Stop)),
        ];
        for (response, recovery) in table {
            let error = response.because("write", "cause");
            assert_eq!(error.as_ref().map(Error::recovery), recovery, "{response:?}");
        }
    }

    fn columns() -> Vec<Column> {
        let required = Column::new("a", Kind::Int64).with_mode(Mode::Required);
        let record = Column::record("r", vec![required.clone()]);
        let others = ["n", "Msg_c"].map(|name| Column::new(name, Kind::Int64));
        others.into_iter().chain([required, record.with_mode(Mode::Repeated)]).collect()
    }

    #[test]
    fn a_row_is_refused_for_its_values_alone() {
        let bad = "Cannot convert value to integer (bad value): x";
        for (reason, location, message, response) in [
            ("invalid", "N", bad, RowResponse::Refused),
            ("invalid", "", bad, RowResponse::Refused),
            ("invalid", "r[0].a", bad, RowResponse::Refused),
            ("invalid", "r.0.a", bad, RowResponse::Refused),
            ("invalid", "Msg_0_QUERY_TABLE.n", bad, RowResponse::Refused),
            ("invalid", "Msg_0_QUERY_TABLE.later", bad, RowResponse::Retry),
            // A column of ours whose name begins in the same way.
            ("invalid", "Msg_c", bad, RowResponse::Refused),
            // A row without this value is refused before it is sent, so the default has not spread
            // yet.
            ("invalid", "a", "Missing required field: a.", RowResponse::Retry),
            ("invalid", "", "Missing required field: Msg_0_QUERY_TABLE.r.a.", RowResponse::Retry),
            ("invalid", "n", "no such field: n.", RowResponse::Retry),
            ("stopped", "", "", RowResponse::Retry),
            ("timeout", "", "", RowResponse::Retry),
            ("backendError", "", "", RowResponse::Retry),
            ("", "", "", RowResponse::Retry),
        ] {
            let found = of_inserted_row(reason, location, message, &columns());
            assert_eq!(found, response, "{reason} {location} {message}");
        }
    }

    #[test]
    fn a_table_that_has_other_columns_than_ours_refuses_no_row() {
        for (location, message) in [
            ("later", "Cannot convert value to integer (bad value): x"),
            ("r.later", "bad value"),
            ("n.later", "bad value"),
            ("later", "Missing required field: later."),
            ("", "Missing required field: Msg_0_QUERY_TABLE.later."),
            // This column may be null in the settings, so the table became stricter.
            ("n", "Missing required field: n."),
        ] {
            let found = of_inserted_row("invalid", location, message, &columns());
            assert_eq!(found, RowResponse::Retry, "{location} {message}");
        }
    }

    #[test]
    fn every_code_of_the_storage_write_api_has_its_meaning() {
        let extra = "Input schema has more fields than BigQuery schema, extra fields: 'a'";
        let large = "AppendRows request too large: 11MB limit 10MB";
        let table = [
            (Code::AlreadyExists, "", Response::Retry),
            (Code::NotFound, "", Response::NotReady),
            (Code::PermissionDenied, "", Response::NotReady),
            (Code::Unauthenticated, "", Response::NotReady),
            (Code::InvalidArgument, extra, Response::NotReady),
            (Code::InvalidArgument, "malformed", Response::NotReady),
            (Code::InvalidArgument, large, TOO_LARGE),
            (Code::InvalidArgument, "MessageSize is TOO LARGE.", TOO_LARGE),
            (Code::OutOfRange, "", TOO_LARGE),
            (Code::Unimplemented, "", Response::Stop),
            (Code::Aborted, "", Response::Retry),
            (Code::Cancelled, "", Response::Retry),
            (Code::DeadlineExceeded, "", Response::Retry),
            (Code::FailedPrecondition, "", Response::Retry),
            (Code::Internal, "", Response::Retry),
            (Code::ResourceExhausted, "", Response::Retry),
            (Code::Unavailable, "", Response::Retry),
            (Code::Unknown, "", Response::Retry),
        ];
        for (code, message, response) in table {
            assert_eq!(
                of_append(code, None, message, SMALLEST_LIMIT),
                response,
                "{code:?} {message}"
            );
        }
    }

    #[test]
    fn a_storage_error_says_more_than_words_about_the_size() {
        for code in [Code::InvalidArgument, Code::OutOfRange] {
            let sized = |error, bytes| of_append(code, error, "The schema is too large.", bytes);

            assert_eq!(sized(Some(7), SMALLEST_LIMIT), Response::NotReady);
            for none in [None, Some(0)] {
                assert_eq!(sized(none, SMALLEST_LIMIT), TOO_LARGE);
                assert_eq!(sized(none, SMALLEST_LIMIT - 1), Response::NotReady);
            }
        }
    }

    #[test]
    fn the_code_is_found_in_the_details_of_a_status() {
        let any = |name: &str, value: Vec<u8>| Any {
            type_url: format!("type.googleapis.com/{name}"),
            value,
        };
        let error = any(
            "google.cloud.bigquery.storage.v1.StorageError",
            StorageError { code: 7 }.encode_to_vec(),
        );
        let other = any("google.rpc.DebugInfo", vec![8, 1]);
        let details = |details| Status { details, ..Default::default() }.encode_to_vec();

        assert_eq!(storage_error(&details(vec![other.clone(), error])), Some(7));
        assert_eq!(storage_error(&details(vec![other])), None);
        assert_eq!(storage_error(b"no status"), None);
        assert_eq!(storage_error(&[]), None);
    }
}
