//! Clients that a program hands in.

use google_cloud_storage::client::Storage;

/// Clients of Cloud Storage that a program hands in. Those that are left out are built from the
/// settings. No client that is handed in is rebuilt after a time-out.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Client that creates objects. It has its own endpoint and credentials.
    pub uploads: Option<Storage>,
    /// Client of all other calls: checks of the bucket, lists and reads. The calls carry the
    /// credentials of the service.
    pub http: Option<reqwest::Client>,
}
