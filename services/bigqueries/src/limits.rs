//! Limits of requests to BigQuery.

/// Maximum bytes of a request, for both APIs. `insertAll` allows 10 MB, and so do the older
/// documents of the Storage Write API.
pub(crate) const MAX_REQUEST_BYTES: usize = 9_000_000;
/// Maximum rows of a request of `insertAll`.
pub(crate) const MAX_INSERT_ALL_ROWS: usize = 50_000;
