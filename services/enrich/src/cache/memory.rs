//! First layer: the memory of this process, limited in entries and bytes.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Document, Entry};

/// Number of parts. Each has its own lock, so lanes rarely wait for each other.
const SHARDS: usize = 16;
/// Memory of an entry in addition to its text: the map's slot, the list's links, allocations.
const OVERHEAD: usize = 200;

/// Limits of the cache in memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Bounds {
    /// Maximum number of entries; 16 to 100,000,000, or `unbounded`.
    pub max_entries: Bound,
    /// Maximum bytes, estimated from keys and values; 64 KiB to 64 GiB, or `unbounded`. If it is
    /// unbounded, no entry leaves the memory for its size, and the memory of the process has no bound.
    pub max_bytes: Bound,
}

/// Limit that may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(untagged, expecting = "must be a whole number, or `unbounded`")]
pub enum Bound {
    /// The limit.
    Limit(usize),
    /// A word in place of the limit.
    Word(NoLimit),
}

/// Word for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoLimit {
    /// No limit.
    Unbounded,
}

impl Bound {
    /// No limit.
    pub const UNBOUNDED: Self = Self::Word(NoLimit::Unbounded);

    /// Returns the limit, if there is one.
    #[must_use]
    pub fn limit(self) -> Option<usize> {
        match self {
            Self::Limit(limit) => Some(limit),
            Self::Word(NoLimit::Unbounded) => None,
        }
    }
}

impl From<usize> for Bound {
    fn from(limit: usize) -> Self {
        Self::Limit(limit)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_entries: 100_000.into(), max_bytes: (32 * 1024 * 1024).into() }
    }
}

/// Entries of this process. The least recently used ones are removed first.
#[derive(Debug)]
pub struct Memory {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// Limits of each part.
    most_entries: usize,
    most_bytes: usize,
}

#[derive(Debug)]
struct Shard {
    entries: LruCache<Arc<str>, CachedEntry>,
    bytes: usize,
}

#[derive(Debug)]
struct CachedEntry {
    entry: Entry,
    /// Time of arrival by a monotonic clock, which nobody can set.
    since: Instant,
    bytes: usize,
}

impl CachedEntry {
    /// Returns the entry. Its read time is at most its time of arrival here, even if clocks were
    /// wrong.
    fn entry(&self) -> Entry {
        let latest = OffsetDateTime::now_utc() - self.since.elapsed();
        let Entry { document, read_at } = &self.entry;
        Entry { document: document.clone(), read_at: latest.min(*read_at) }
    }
}

impl Memory {
    /// Creates an empty cache with these limits. Each part gets an equal share of them.
    #[must_use]
    pub fn new(bounds: &Bounds) -> Self {
        let (max_entries, max_bytes) = (bounds.max_entries.limit(), bounds.max_bytes.limit());
        let shard = || {
            let entries = match (max_entries, max_bytes) {
                // The map allocates room for all entries at once, so its size is limited to what fits.
                (Some(entries), Some(bytes)) => LruCache::new(share(entries.min(bytes / OVERHEAD))),
                // This map grows with its entries.
                (None, _) | (_, None) => LruCache::unbounded(),
            };
            Mutex::new(Shard { entries, bytes: 0 })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            most_entries: max_entries.map_or(usize::MAX, |most| share(most).get()),
            most_bytes: max_bytes.map_or(usize::MAX, |most| most / SHARDS),
        }
    }

    /// Returns the entry of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.shard(key).entries.get(key).map(CachedEntry::entry)
    }

    /// Stores an entry, and removes others to make room for it.
    pub fn put(&self, key: &Arc<str>, entry: Entry) {
        let bytes = OVERHEAD + key.len() + entry.document.as_deref().map_or(0, size);
        let mut shard = self.shard(key);
        if bytes > self.most_bytes {
            shard.remove(key);
            return;
        }
        shard.bytes += bytes;
        let cached = CachedEntry { entry, since: Instant::now(), bytes };
        if let Some((_, left)) = shard.entries.push(Arc::clone(key), cached) {
            shard.bytes -= left.bytes;
        }
        while shard.bytes > self.most_bytes || shard.entries.len() > self.most_entries {
            let Some((_, left)) = shard.entries.pop_lru() else { break };
            shard.bytes -= left.bytes;
        }
    }

    /// Removes a key.
    pub fn remove(&self, key: &str) {
        self.shard(key).remove(key);
    }

    /// Removes all keys.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.entries.clear();
            shard.bytes = 0;
        }
    }

    /// Returns the number of entries and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(entries, bytes), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (entries + shard.entries.len(), bytes + shard.bytes)
        })
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the entries of one part; at least one.
fn share(entries: usize) -> NonZeroUsize {
    NonZeroUsize::new(entries / SHARDS).unwrap_or(NonZeroUsize::MIN)
}

impl Shard {
    fn remove(&mut self, key: &str) {
        if let Some(cached) = self.entries.pop(key) {
            self.bytes -= cached.bytes;
        }
    }
}

/// Returns the approximate memory of a document in bytes.
fn size(document: &Document) -> usize {
    document.iter().map(|(key, value)| key.len() + 80 + size_of_value(value)).sum()
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(text) => 32 + text.len(),
        Value::Array(items) => 32 + items.iter().map(size_of_value).sum::<usize>(),
        Value::Object(map) => 32 + size(map),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(text: &str) -> Entry {
        let document = Document::from_iter([("name".to_owned(), text.into())]);
        Entry { document: Some(Arc::new(document)), read_at: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn it_holds_to_its_bound_in_entries() {
        let memory = Memory::new(&Bounds { max_entries: 160.into(), ..Bounds::default() });

        for key in 0..10_000 {
            memory.put(&key.to_string().into(), entry("x"));
        }

        assert!(memory.size().0 <= 160);
        assert!(memory.get("9999").is_some());
    }

    #[test]
    fn it_holds_to_its_bound_in_bytes() {
        let max_bytes = 64 * 1024;
        let memory = Memory::new(&Bounds { max_bytes: max_bytes.into(), ..Bounds::default() });

        for key in 0..1000 {
            memory.put(&key.to_string().into(), entry(&"x".repeat(key)));
        }
        memory.put(&"huge".into(), entry(&"x".repeat(max_bytes)));

        assert!(memory.size().1 <= max_bytes);
        assert!(memory.size().0 > 0);
        assert_eq!(memory.get("huge"), None);
    }

    #[test]
    fn each_limit_may_be_left_out_and_the_other_one_holds() {
        let (entries, bytes) = (160, 64 * 1024);
        let most = 16_000;
        for (max_entries, max_bytes) in [
            (entries.into(), Bound::UNBOUNDED),
            (Bound::UNBOUNDED, bytes.into()),
            (Bound::UNBOUNDED, Bound::UNBOUNDED),
        ] {
            let memory = Memory::new(&Bounds { max_entries, max_bytes });

            for key in 0..most {
                memory.put(&key.to_string().into(), entry("x"));
            }

            let size = memory.size();
            assert!(max_entries.limit().is_none_or(|limit| size.0 <= limit), "{size:?}");
            assert!(max_bytes.limit().is_none_or(|limit| size.1 <= limit), "{size:?}");
            let is_whole = (max_entries.limit(), max_bytes.limit()) == (None, None);
            assert_eq!(size.0 == most, is_whole, "{size:?}");
            assert!(memory.get("15999").is_some());
        }
    }

    #[test]
    fn a_limit_that_is_left_out_reserves_nothing() {
        // Room for all of these entries would take hundreds of gigabytes.
        for max_entries in [Bound::UNBOUNDED, usize::MAX.into()] {
            let memory = Memory::new(&Bounds { max_entries, max_bytes: Bound::UNBOUNDED });

            assert_eq!(memory.size(), (0, 0));
        }
    }

    #[test]
    fn a_replaced_entry_is_counted_once() {
        let memory = Memory::new(&Bounds::default());
        memory.put(&"k".into(), entry("long text"));
        let before = memory.size();

        memory.put(&"k".into(), entry("long text"));

        assert_eq!(memory.size(), before);
        memory.remove("k");
        assert_eq!(memory.size(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_was_read_in_the_future_grows_old() {
        let memory = Memory::new(&Bounds::default());
        let (now, day) = (OffsetDateTime::now_utc(), Duration::from_secs(86_400));
        memory.put(&"k".into(), Entry { read_at: now + day, ..entry("x") });

        tokio::time::advance(day).await;
        let age = memory.get("k").unwrap().age(OffsetDateTime::now_utc());

        assert!(age >= day, "{age:?}");
    }
}
