//! The error table: what each answer of BigQuery means for the rows that were sent.
//!
//! | answer | meaning |
//! |---|---|
//! | `insertAll` 404 | the table is not there (a new one takes a while): not ready |
//! | `insertAll` 401, 403 but for quotas | no rights: not ready |
//! | `insertAll` 403 `quotaExceeded`, `rateLimitExceeded`; 408, 429, 5xx | retry |
//! | `insertAll` 413; 400 about the size | the request is too large: split, until the culprit stands alone |
//! | `insertAll` 400 | the request does not fit the table: not ready |
//! | `insertAll` row `invalid` | that row is refused; the others were written |
//! | `insertAll` row `invalid`, "no such field" | a new column has not spread yet: retry |
//! | `insertAll` row with any other reason (`stopped`, `timeout`, `backendError`) | retry |
//! | `AppendRows` with row errors | those rows are refused, and none of the others was written yet |
//! | `AppendRows` `ALREADY_EXISTS` | written before |
//! | `AppendRows` `NOT_FOUND`, `PERMISSION_DENIED`, `UNAUTHENTICATED` | not ready |
//! | `AppendRows` `INVALID_ARGUMENT` about the size, `OUT_OF_RANGE` | the request is too large: split |
//! | `AppendRows` `INVALID_ARGUMENT` | the rows do not fit the table, or a new column has not spread: not ready |
//! | `AppendRows` `UNIMPLEMENTED` | no request can succeed: stop |
//! | `AppendRows` anything else; a connection that broke | retry |
//!
//! What is not in the table is retried: a row too many is waited for, never one too few written.
//!
//! A request that is refused as a whole is no row's fault: BigQuery names bad rows. So it waits for
//! somebody to mend the table, and is never a flood of dead letters.

use google_cloud_gax::error::rpc::Code;
use pipeline::{Error, Recovery};

/// What an answer to a whole request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The rows are in the table.
    Written,
    /// The same request can succeed later.
    Retry,
    /// It can succeed once the table or a right is there.
    NotReady,
    /// A row in it is at fault, and it is not said which.
    Split(&'static str),
    /// No request can ever succeed.
    Stop,
}

/// What an error of one row means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowMeaning {
    /// The row can never succeed.
    Refused,
    /// It was not at fault.
    Retry,
}

impl Meaning {
    /// The error for the pipeline, or `None` for what was written.
    pub fn because(
        self,
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Option<Error> {
        let recovery = match self {
            Self::Written => return None,
            // The pipeline says "not ready" while a write is retried.
            Self::Retry | Self::NotReady => Recovery::Retry,
            Self::Split(reason) => Recovery::Reject(reason),
            Self::Stop => Recovery::Stop,
        };
        Some(recovery.because(action, source))
    }
}

/// What an HTTP status of `insertAll`, with the reason and the message in its body, means.
#[must_use]
pub fn of_insert_all(status: u16, reason: &str, message: &str) -> Meaning {
    match (status, reason) {
        (200, _) => Meaning::Written,
        (413, _) | (400, "uploadTooLarge") => Meaning::Split("request_too_large"),
        (400, _) if is_about_size(message) => Meaning::Split("request_too_large"),
        (400, _) => Meaning::NotReady,
        (403, "quotaExceeded" | "rateLimitExceeded") => Meaning::Retry,
        (401 | 403 | 404, _) => Meaning::NotReady,
        _ => Meaning::Retry,
    }
}

/// What the error of a row in an answer of `insertAll` means.
#[must_use]
pub fn of_inserted_row(reason: &str, message: &str) -> RowMeaning {
    // Rows have the columns of the table as it was found, so an unknown one is on its way.
    let is_spreading = message.starts_with("no such field");
    if reason == "invalid" && !is_spreading { RowMeaning::Refused } else { RowMeaning::Retry }
}

/// What a status of the Storage Write API means.
#[must_use]
pub fn of_append(code: Code, message: &str) -> Meaning {
    match code {
        Code::AlreadyExists => Meaning::Written,
        Code::NotFound | Code::PermissionDenied | Code::Unauthenticated => Meaning::NotReady,
        Code::InvalidArgument if is_about_size(message) => Meaning::Split("request_too_large"),
        Code::InvalidArgument => Meaning::NotReady,
        Code::OutOfRange => Meaning::Split("request_too_large"),
        Code::Unimplemented => Meaning::Stop,
        _ => Meaning::Retry,
    }
}

/// Whether a request is refused for its size, in Google's words: "AppendRows request too large",
/// "MessageSize is too large", "Request payload size exceeds the limit".
fn is_about_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("too large") || message.contains("size exceeds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_insert_all_has_its_meaning() {
        let table = [
            (200, "", Meaning::Written),
            (400, "invalid", Meaning::NotReady),
            (400, "uploadTooLarge", Meaning::Split("request_too_large")),
            (401, "authError", Meaning::NotReady),
            (403, "accessDenied", Meaning::NotReady),
            (403, "billingNotEnabled", Meaning::NotReady),
            (403, "quotaExceeded", Meaning::Retry),
            (403, "rateLimitExceeded", Meaning::Retry),
            (404, "notFound", Meaning::NotReady),
            (408, "", Meaning::Retry),
            (413, "", Meaning::Split("request_too_large")),
            (418, "", Meaning::Retry),
            (429, "", Meaning::Retry),
            (500, "internalError", Meaning::Retry),
            (503, "backendError", Meaning::Retry),
        ];
        for (status, reason, meaning) in table {
            assert_eq!(of_insert_all(status, reason, ""), meaning, "{status} {reason}");
        }
        let size = "Request payload size exceeds the limit: 10485760 bytes.";
        assert_eq!(of_insert_all(400, "badRequest", size), Meaning::Split("request_too_large"));
    }

    #[test]
    fn every_meaning_has_its_next_step() {
        let table = [
            (Meaning::Written, None),
            (Meaning::Retry, Some(Recovery::Retry)),
            (Meaning::NotReady, Some(Recovery::Retry)),
            (Meaning::Split("why"), Some(Recovery::Reject("why"))),
            (Meaning::Stop, Some(Recovery::Stop)),
        ];
        for (meaning, recovery) in table {
            let error = meaning.because("write", "cause");
            assert_eq!(error.as_ref().map(Error::recovery), recovery, "{meaning:?}");
        }
    }

    #[test]
    fn a_row_is_refused_for_its_values_alone() {
        let table = [
            ("invalid", "Cannot convert value to integer (bad value): x", RowMeaning::Refused),
            ("invalid", "Missing required field: a.", RowMeaning::Refused),
            ("invalid", "no such field: a.", RowMeaning::Retry),
            ("stopped", "", RowMeaning::Retry),
            ("timeout", "", RowMeaning::Retry),
            ("backendError", "", RowMeaning::Retry),
            ("", "", RowMeaning::Retry),
        ];
        for (reason, message, meaning) in table {
            assert_eq!(of_inserted_row(reason, message), meaning, "{reason} {message}");
        }
    }

    #[test]
    fn every_code_of_the_storage_write_api_has_its_meaning() {
        let extra = "Input schema has more fields than BigQuery schema, extra fields: 'a'";
        let large = "AppendRows request too large: 11MB limit 10MB";
        let table = [
            (Code::AlreadyExists, "", Meaning::Written),
            (Code::NotFound, "", Meaning::NotReady),
            (Code::PermissionDenied, "", Meaning::NotReady),
            (Code::Unauthenticated, "", Meaning::NotReady),
            (Code::InvalidArgument, extra, Meaning::NotReady),
            (Code::InvalidArgument, "malformed", Meaning::NotReady),
            (Code::InvalidArgument, large, Meaning::Split("request_too_large")),
            (
                Code::InvalidArgument,
                "MessageSize is TOO LARGE.",
                Meaning::Split("request_too_large"),
            ),
            (Code::OutOfRange, "", Meaning::Split("request_too_large")),
            (Code::Unimplemented, "", Meaning::Stop),
            (Code::Aborted, "", Meaning::Retry),
            (Code::Cancelled, "", Meaning::Retry),
            (Code::DeadlineExceeded, "", Meaning::Retry),
            (Code::FailedPrecondition, "", Meaning::Retry),
            (Code::Internal, "", Meaning::Retry),
            (Code::ResourceExhausted, "", Meaning::Retry),
            (Code::Unavailable, "", Meaning::Retry),
            (Code::Unknown, "", Meaning::Retry),
        ];
        for (code, message, meaning) in table {
            assert_eq!(of_append(code, message), meaning, "{code:?} {message}");
        }
    }
}
