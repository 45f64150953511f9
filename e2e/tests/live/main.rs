//! Tests of the live page in a browser. They need `chromium` and `chromedriver`.
//!
//! [`chain`] has the page over all services. [`odd`], [`trace`] and [`access`] have it over a server
//! with a script, for states that a running chain shows rarely.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod access;
mod browser;
mod chain;
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
