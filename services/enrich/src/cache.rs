//! The cache library: documents by key, from memory, then Redis, then their source.
//!
//! [`Lookup`] asks the layers in that order and fills those before the one that answered. A layer
//! that fails is not a miss: its [`Breaker`] leaves it out for a while and the next one is asked.
//! One read per key is under way at a time, however many messages wait for it, and keys that wait
//! together are read together. [`presence`] keeps short-lived values of one's own.

pub mod breaker;
pub mod firestore;
mod flights;
pub mod invalidation;
pub mod lookup;
pub mod memory;
pub mod presence;
mod reader;
pub mod redis;

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

pub use breaker::Breaker;
pub use lookup::Lookup;

/// What is known about a key: fields by name.
pub type Document = Map<String, Value>;

/// A failure of a layer, in its own words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LayerError(pub String);

impl LayerError {
    /// An error and its causes in one line.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(service::credentials::explain(error))
    }
}

/// Where documents come from: the source of truth behind the caches.
pub trait Fetch: Send + Sync + 'static {
    /// The documents of these keys, in their order; `None` for those that do not exist.
    ///
    /// # Errors
    /// When the source cannot be asked: then nothing is known of any of the keys.
    fn fetch(
        &self,
        keys: &[Arc<str>],
    ) -> impl Future<Output = Result<Vec<Option<Document>>, LayerError>> + Send;

    /// Its name among all sources whose documents lie in one Redis, such as
    /// `my-project/(default)/devices`.
    fn origin(&self) -> String;

    /// Whether a key can exist there at all; one that cannot is absent and never asked for.
    fn can_exist(&self, key: &str) -> bool {
        !key.is_empty()
    }
}

/// A document, or its absence, as it was read from the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `None` for a key that has no document.
    pub document: Option<Arc<Document>>,
    /// When it was read from the source.
    pub read_at: OffsetDateTime,
}

/// How long what was read is good for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Freshness {
    /// How long a document is served without asking its source again; at most 1y.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub fresh_for: Duration,
    /// How long after that it is still served, while it is read again in the background or its
    /// source cannot be asked; at most 1y.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub stale_for: Duration,
    /// How long the absence of a document is remembered; at most 1y.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub absent_for: Duration,
    /// By how many percent these times vary from entry to entry, so that what was read together
    /// does not expire together; 0 to 50.
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

/// What an entry is good for at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is served.
    Fresh,
    /// It is served and read again.
    Stale,
    /// It is as if it were not there.
    Expired,
}

impl Freshness {
    /// The state of an entry of this age.
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

    /// How much longer an entry is of use.
    #[must_use]
    pub fn life_left(&self, entry: &Entry, now: OffsetDateTime) -> Duration {
        let whole = match entry.document {
            Some(_) => self.fresh_for + self.stale_for,
            None => self.absent_for,
        };
        whole.saturating_sub(entry.age(now))
    }

    /// A duration that is shorter by up to the jitter, the same for the same key.
    fn varied(&self, key: &str, duration: Duration) -> Duration {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(key);
        let share = f64::from(u32::try_from(hash % 1000).unwrap_or(0)) / 1000.0;
        duration.mul_f64(1.0 - share * f64::from(self.jitter_percent.min(50)) / 100.0)
    }
}

impl Entry {
    /// Time since it was read from the source.
    #[must_use]
    pub fn age(&self, now: OffsetDateTime) -> Duration {
        // A clock that was set back makes nothing older.
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
