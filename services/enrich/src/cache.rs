//! Cache library: documents by key, from memory, then Redis, then their source.
//!
//! [`Lookup`] asks the layers in that order. It fills the layers before the one that answered. A
//! layer that fails is not a miss. Its [`Breaker`] skips it for a while, and the next layer is
//! asked.
//!
//! Only one read per key runs at a time, and all messages with this key wait for it. Keys that wait
//! at the same time are read together. [`presence`] stores other values that live only for a short
//! time.

pub mod breaker;
pub mod firestore;
mod function;
pub mod invalidation;
mod layers;
pub mod lookup;
pub mod memory;
pub mod presence;
mod reader;
pub mod redis;
pub mod settings;
mod single_flight;

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

pub use breaker::Breaker;
pub use function::{FromFn, from_fn};
pub use lookup::Lookup;

/// Document of a key: fields by name.
pub type Document = Map<String, Value>;

/// Failure of a layer, with the layer's error text.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LayerError(pub String);

impl LayerError {
    /// Returns an error and its causes in one line.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(service::credentials::explain(error))
    }
}

/// Source of documents behind the caches.
pub trait Fetch: Send + Sync + 'static {
    /// Returns the documents of these keys, in their order. The value is `None` for a key without a
    /// document.
    ///
    /// # Errors
    /// Fails when the source cannot be asked. Then nothing is known about any of the keys.
    fn fetch(
        &self,
        keys: &[Arc<str>],
    ) -> impl Future<Output = Result<Vec<Option<Document>>, LayerError>> + Send;

    /// Returns a name that is unique among all sources that share one Redis, such as
    /// `my-project/(default)/devices`.
    fn origin(&self) -> String;

    /// Returns whether a key can exist there at all. A key that cannot exist is absent and is never
    /// asked for.
    fn can_exist(&self, key: &str) -> bool {
        !key.is_empty()
    }
}

/// Document, or its absence, as it was read from the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Document; `None` for a key that has none.
    pub document: Option<Arc<Document>>,
    /// Time at which it was read from the source.
    pub read_at: OffsetDateTime,
}

/// Times for which entries are used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Freshness {
    /// Time for which a document is served without a new read from its source; at most 1y.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub fresh_for: Duration,
    /// Time after `fresh_for` during which a document is still served; at most 1y. Meanwhile it is
    /// read again in the background, unless its source cannot be asked.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub stale_for: Duration,
    /// Time for which the absence of a document is remembered; at most 1y.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub absent_for: Duration,
    /// Maximum percentage by which `fresh_for` and `absent_for` are shortened; 0 to 50. The share
    /// differs from key to key, so entries that were read together are not read again together.
    pub jitter_percent: u8,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            fresh_for: Duration::from_secs(3600),
            stale_for: Duration::from_secs(3600),
            absent_for: Duration::from_secs(30),
            jitter_percent: 10,
        }
    }
}

/// State of an entry at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The entry is served.
    Fresh,
    /// The entry is served and read again.
    Stale,
    /// The entry is treated as missing.
    Expired,
}

impl Freshness {
    /// Returns the state of an entry at the time `now`.
    #[must_use]
    pub fn state(&self, key: &str, entry: &Entry, now: OffsetDateTime) -> State {
        let age = entry.age(now);
        let (fresh, all) = match entry.document {
            Some(_) => (self.fresh_for, self.fresh_for + self.stale_for),
            None => (self.absent_for, self.absent_for),
        };
        match age {
            age if age < self.varied(key, fresh) => State::Fresh,
            age if age < all => State::Stale,
            _ => State::Expired,
        }
    }

    /// Returns the time for which an entry is still useful.
    #[must_use]
    pub fn life_left(&self, entry: &Entry, now: OffsetDateTime) -> Duration {
        let whole = match entry.document {
            Some(_) => self.fresh_for + self.stale_for,
            None => self.absent_for,
        };
        whole.saturating_sub(entry.age(now))
    }

    /// Returns a duration that is shorter by up to the jitter. It is the same for the same key.
    fn varied(&self, key: &str, duration: Duration) -> Duration {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(key);
        let share = f64::from(u32::try_from(hash % 1000).unwrap_or(0)) / 1000.0;
        duration.mul_f64(1.0 - share * f64::from(self.jitter_percent.min(50)) / 100.0)
    }
}

impl Entry {
    /// Returns the time since the entry was read from the source.
    #[must_use]
    pub fn age(&self, now: OffsetDateTime) -> Duration {
        // If the clock was set back, the age is zero.
        Duration::try_from(now - self.read_at).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_fresh_then_stale_then_expired() {
        let freshness = Freshness { jitter_percent: 0, ..Freshness::default() };
        let entry = |document: Option<Document>, seconds: i64| Entry {
            document: document.map(Arc::new),
            read_at: OffsetDateTime::UNIX_EPOCH - time::Duration::seconds(seconds),
        };
        let state = |entry| freshness.state("k", &entry, OffsetDateTime::UNIX_EPOCH);

        assert_eq!(state(entry(Some(Document::new()), 3599)), State::Fresh);
        assert_eq!(state(entry(Some(Document::new()), 3600)), State::Stale);
        assert_eq!(state(entry(Some(Document::new()), 7200)), State::Expired);
        assert_eq!(state(entry(None, 29)), State::Fresh);
        assert_eq!(state(entry(None, 30)), State::Expired);
    }

    #[test]
    fn jitter_differs_from_key_to_key_and_stays_within_its_bound() {
        let freshness = Freshness { jitter_percent: 10, ..Freshness::default() };
        let times: Vec<_> = (0..100)
            .map(|key: u32| freshness.varied(&key.to_string(), Duration::from_secs(100)))
            .collect();

        assert!(times.iter().all(|time| (90..=100).contains(&time.as_secs())));
        assert!(times.iter().max() > times.iter().min());
    }
}
