//! The cache's layer in Redis, against real servers: with TLS, as a cluster, behind a sentinel, and with
//! invalidations that reach all replicas.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod invalidation;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use enrich::cache::redis::Redis;
use enrich::cache::{Document, Entry};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("what was waited for did not come about");
}

fn entry(name: &str) -> Entry {
    let document = Document::from_iter([("name".to_owned(), name.into())]);
    Entry { document: Some(Arc::new(document)), read_at: OffsetDateTime::UNIX_EPOCH }
}

/// Keeps an entry under each key, and reads all of them back.
async fn holds(redis: &Redis, keys: &[Arc<str>]) -> Result<bool, String> {
    let entries: Vec<_> =
        keys.iter().map(|key| (Arc::clone(key), entry(key), Duration::from_secs(3600))).collect();
    redis.put(&entries).await.map_err(|error| error.to_string())?;
    let found = redis.get(keys).await.map_err(|error| error.to_string())?;
    Ok(found.into_iter().zip(keys).all(|(found, key)| found == Some(entry(key))))
}
