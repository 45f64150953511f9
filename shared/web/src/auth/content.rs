//! Content of files and URLs with keys, within bounds.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use service::settings::url;

/// Maximum size of a file or an answer.
const MAX_BYTES: usize = 1024 * 1024;
/// Maximum time of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the content of a file. It blocks. The error does not repeat a secret.
pub(super) fn of_file(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut content = Vec::new();
        File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|error| url::unreadable_secret(path, &error))?;
    within_bound(content)
}

/// Returns a client for [`of_url`].
pub(super) fn client() -> reqwest::Result<Client> {
    Client::builder().timeout(TIMEOUT).redirect(Policy::none()).build()
}

/// Returns what a URL answers.
pub(super) async fn of_url(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| format!("{:#}", anyhow::Error::from(error));
    let mut response = client.get(url).send().await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("{url} answered {status}"));
    }
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        content.extend_from_slice(&chunk);
        if content.len() > MAX_BYTES {
            break;
        }
    }
    within_bound(content)
}

fn within_bound(content: Vec<u8>) -> Result<Vec<u8>, String> {
    let is_within = content.len() <= MAX_BYTES;
    is_within.then_some(content).ok_or_else(|| format!("is larger than {MAX_BYTES} bytes"))
}

/// Returns a text without the ends of its last line, which editors and `echo` append.
pub(super) fn without_line_end(mut content: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r'] = content {
        content = rest;
    }
    content
}
