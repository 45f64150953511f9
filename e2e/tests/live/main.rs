//! Tests of the live page in a browser. They need `chromium` and `chromedriver`.
//!
//! [`odd`] has the states that a running chain shows rarely, from a server with a script.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod access;
mod browser;
mod fixture;
mod odd;
mod screenshots;
mod state;
mod trace;

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Longest wait for an expected event. Only a broken page or server reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come about");
}
