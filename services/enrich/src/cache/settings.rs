//! Settings of the caches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::memory::Bounds;
use super::{Freshness, redis};

/// Caches, and limits on reading them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct LookupSettings {
    /// Times for which entries are used.
    pub freshness: Freshness,
    /// Limits of the cache in memory.
    pub memory: Bounds,
    /// Redis; not used if its `url` is unset.
    pub redis: redis::RedisSettings,
    /// Maximum number of keys in one read; 1 to 300.
    pub max_keys_per_read: usize,
    /// Maximum number of reads at the same time; 1 to 100.
    pub max_reads: usize,
    /// Maximum number of messages that wait for a source that fails. Further ones are nacked
    /// to Pub/Sub, so messages of known keys continue. It must be below
    /// `pipeline.max_messages_in_flight`.
    pub max_waiting: usize,
}

impl Default for LookupSettings {
    fn default() -> Self {
        Self {
            freshness: Freshness::default(),
            memory: Bounds::default(),
            redis: redis::RedisSettings::default(),
            max_keys_per_read: 100,
            max_reads: 8,
            max_waiting: 2_000,
        }
    }
}
