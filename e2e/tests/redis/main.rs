//! Tests of the cache layer in Redis against real servers: with TLS, as a cluster, and behind a
//! sentinel. Invalidations must reach all replicas.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod invalidation;
mod replacement;
mod servers;
mod values;

use std::sync::Arc;
use std::time::Duration;

use enrich::cache::redis::{Put, Redis};
use enrich::cache::{Document, Entry};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
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

/// Writes an entry under each key. Returns true if all of them are read back.
async fn holds(redis: &Redis, keys: &[Arc<str>]) -> Result<bool, String> {
    let entries: Vec<_> = keys.iter().map(|key| (Arc::clone(key), entry(key))).collect();
    let puts = begin(redis, &entries).await?;
    redis.put(&puts).await.map_err(|error| error.to_string())?;
    let found = redis.get(keys).await.map_err(|error| error.to_string())?;
    Ok(found.into_iter().zip(keys).all(|(found, key)| found.entry == Some(entry(key))))
}

/// Begins reads now that return these entries.
async fn begin(redis: &Redis, entries: &[(Arc<str>, Entry)]) -> Result<Vec<Put>, String> {
    let keys: Vec<_> = entries.iter().map(|(key, _)| Arc::clone(key)).collect();
    let known = redis.get(&keys).await.map_err(|error| error.to_string())?;
    let put = |((key, entry), seen): (&(Arc<str>, Entry), _)| Put {
        key: Arc::clone(key),
        entry: entry.clone(),
        life: Duration::from_secs(3600),
        seen,
    };
    Ok(entries.iter().zip(known.into_iter().map(|known| known.seen)).map(put).collect())
}
