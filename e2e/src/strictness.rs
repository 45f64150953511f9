//! Makes the embedded cloud as strict as Google's, with times that suit tests.

use anyhow::Context as _;
use reqwest::Client;
use serde_json::{Value, json};

/// Behaviour of the embedded cloud toward its clients, apart from faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Limits like Google's: latencies, quotas, and delays before new tables and columns are
    /// visible. Idle or old streams and old connections end.
    LikeGoogle,
    /// Without these limits.
    Lenient,
}

impl Strictness {
    /// Reads `DATAFLOW_E2E_LENIENT`: any value that is not empty means lenient.
    #[must_use]
    pub fn from_environment() -> Self {
        match std::env::var_os("DATAFLOW_E2E_LENIENT") {
            Some(value) if !value.is_empty() => Self::Lenient,
            _ => Self::LikeGoogle,
        }
    }
}

/// Makes the embedded cloud at `url` as slow and as strict as Google's. Times of minutes become
/// seconds. Only the project `local` exists.
///
/// # Errors
/// Fails when the cloud does not answer, or has no such profile.
pub async fn imitate_google(url: &str) -> anyhow::Result<()> {
    let whole = Client::new().post(format!("{url}/emulator/v1/profile/like-google")).send().await;
    whole.and_then(reqwest::Response::error_for_status).context("set the profile")?;
    set(url, &scaled()).await
}

/// Changes parts of the profile of the embedded cloud at `url`, such as `{"append_idle_millis":
/// 500}`.
///
/// # Errors
/// Fails when the cloud does not answer, or the profile has no such part.
pub async fn set(url: &str, parts: &Value) -> anyhow::Result<()> {
    let patched =
        Client::new().patch(format!("{url}/emulator/v1/profile")).json(parts).send().await;
    patched.and_then(reqwest::Response::error_for_status).context("change the profile").map(drop)
}

fn scaled() -> Value {
    json!({
        "append_idle_millis": 2_000,
        "stream_age_millis": 20_000,
        "connection_age_millis": 30_000,
        "new_table_millis": 500,
        "new_column_millis": 1_000,
        "projects": ["local"],
        "databases": ["projects/local/databases/(default)"],
    })
}
