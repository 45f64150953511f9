//! Asks the layers, one after another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipeline::{Error, Recovery};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::breaker::Breaker;
use super::flights::{Flight, Flights};
use super::memory::{Bounds, Memory};
use super::reader::Reader;
use super::redis::{self, Redis};
use super::{Document, Entry, Fetch, Freshness, LayerError, State};
use crate::metrics::Metrics;

/// Between two attempts of a message that waits for the source, at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// The caches, and how they are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// How long what was read is good for.
    pub freshness: Freshness,
    /// Bounds of the cache in memory.
    pub memory: Bounds,
    /// Redis, if there is one.
    pub redis: redis::Settings,
    /// Most keys in one read; 1 to 300.
    pub max_keys_per_read: usize,
    /// Most reads under way at a time; 1 to 100.
    pub max_reads: usize,
    /// Most messages that wait for a source that fails; further ones are handed back to Pub/Sub, so
    /// that messages of known keys go on. Below `pipeline.max_messages_in_flight`.
    pub max_waiting: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            freshness: Freshness::default(),
            memory: Bounds::default(),
            redis: redis::Settings::default(),
            max_keys_per_read: 100,
            max_reads: 8,
            max_waiting: 2_000,
        }
    }
}

/// Documents by key; clones share the caches.
pub struct Lookup<F> {
    pub(super) layers: Arc<Layers<F>>,
    wanted: mpsc::UnboundedSender<Arc<Flight>>,
    waiting: Arc<AtomicUsize>,
    max_waiting: usize,
}

impl<F> Clone for Lookup<F> {
    fn clone(&self) -> Self {
        Self {
            layers: Arc::clone(&self.layers),
            wanted: self.wanted.clone(),
            waiting: Arc::clone(&self.waiting),
            max_waiting: self.max_waiting,
        }
    }
}

/// What all look-ups share.
pub(super) struct Layers<F> {
    pub memory: Memory,
    pub redis: Option<Redis>,
    pub redis_breaker: Breaker,
    /// Of writes alone: a server that refuses them answers reads all the same.
    pub redis_writes: Breaker,
    pub source: F,
    pub source_breaker: Breaker,
    pub freshness: Freshness,
    pub flights: Flights,
    pub metrics: Metrics,
    /// A key that the source failed to answer, to ask it for when nobody else asks.
    pub unanswered: Mutex<Option<Arc<str>>>,
}

/// Counts a message that waits for the source, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Fetch> Lookup<F> {
    /// A lookup, and the task that reads for it; the lookup waits for ever where nobody runs that.
    ///
    /// # Errors
    /// For settings of Redis that are wrong.
    pub fn new(
        settings: &Settings,
        source: F,
        metrics: Metrics,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<F>), LayerError> {
        let layers = Arc::new(Layers {
            memory: Memory::new(&settings.memory),
            redis: Redis::open(&settings.redis)?.map(|redis| redis.of_source(&source.origin())),
            redis_breaker: Breaker::new("redis"),
            redis_writes: Breaker::new("redis writes"),
            source,
            source_breaker: Breaker::new("source"),
            freshness: settings.freshness.clone(),
            flights: Flights::default(),
            metrics,
            unanswered: Mutex::default(),
        });
        // Its length is bounded by the flights that have not started, one per key.
        let (wanted, requests) = mpsc::unbounded_channel();
        let reader = Reader::new(Arc::clone(&layers), requests, settings);
        let waiting = Arc::default();
        let max_waiting = settings.max_waiting;
        Ok((Self { layers, wanted, waiting, max_waiting }, reader.run()))
    }

    /// The document of a key, `None` for one that has none.
    ///
    /// Waits for as long as the source cannot be asked. Cancel safe.
    ///
    /// # Errors
    /// `HandBack` when too many wait for the source already, `Stop` when nobody reads any more.
    pub async fn document(&self, key: &str) -> Result<Option<Arc<Document>>, Error> {
        let layers = &self.layers;
        let now = OffsetDateTime::now_utc();
        if let Some(entry) = layers.memory.get(key) {
            match layers.freshness.state(key, &entry, now) {
                State::Fresh => return Ok(self.hit(entry, "memory", now)),
                State::Stale => {
                    self.refresh(key);
                    return Ok(self.hit(entry, "memory_stale", now));
                }
                State::Expired => {}
            }
        }
        if !layers.source.can_exist(key) {
            layers.metrics.answered("impossible");
            return Ok(None);
        }
        self.wait(&Arc::from(key)).await
    }

    /// Forgets a key in this process, in Redis, and in all replicas that listen there.
    ///
    /// # Errors
    /// When Redis cannot be asked: this process has forgotten it all the same.
    pub async fn invalidate(&self, key: &str) -> Result<(), LayerError> {
        // Twice: what is read before Redis has forgotten it can be the old document, too.
        self.forget(key);
        let invalidated = match &self.layers.redis {
            Some(redis) => redis.invalidate(key).await,
            None => Ok(()),
        };
        self.forget(key);
        invalidated
    }

    /// Forgets a key in this process.
    pub(super) fn forget(&self, key: &str) {
        self.layers.flights.invalidate(key);
        self.layers.memory.remove(key);
    }

    /// Forgets all keys in this process.
    pub(super) fn forget_all(&self) {
        self.layers.flights.invalidate_all();
        self.layers.memory.clear();
    }

    pub(super) fn redis(&self) -> Option<&Redis> {
        self.layers.redis.as_ref()
    }

    /// Why the source is left alone at the moment, if it is.
    #[must_use]
    pub fn source_outage(&self) -> Option<String> {
        self.layers.source_breaker.open_reason()
    }

    /// Asks a source that is left alone whether it answers again, as often as its breaker allows: while
    /// all keys that come are known, nobody else does.
    pub async fn probe_source(&self) {
        let layers = &self.layers;
        let unanswered = layers.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (Some(key), Some(_)) = (unanswered, self.source_outage()) {
            // The breaker takes note of the answer.
            drop(layers.source_breaker.call(layers.source.fetch(&[key])).await);
        }
    }

    /// Asks a Redis that refuses writes whether it takes them again, as often as its breaker allows: while
    /// nothing is read from the source, nobody else does.
    pub async fn probe_redis(&self) {
        let layers = &self.layers;
        let is_read_only = layers.redis_breaker.open_reason().is_none()
            && layers.redis_writes.open_reason().is_some();
        if let Some(redis) = layers.redis.as_ref().filter(|_| is_read_only) {
            // The breaker takes note of the answer.
            drop(layers.redis_writes.call(redis.probe()).await);
        }
    }

    /// State of Redis in a few words: not set, used, or read only or left alone and why.
    #[must_use]
    pub fn redis_state(&self) -> String {
        let layers = &self.layers;
        if layers.redis.is_none() {
            return "not set".into();
        }
        match (layers.redis_breaker.open_reason(), layers.redis_writes.open_reason()) {
            (None, None) => "used".into(),
            (None, Some(why)) => format!("read only, {why}"),
            (Some(why), _) => format!("left alone, {why}"),
        }
    }

    async fn wait(&self, key: &Arc<str>) -> Result<Option<Arc<Document>>, Error> {
        let mut is_waiting = None;
        loop {
            let (landed, new) = self.layers.flights.join(key);
            if let Some(flight) = new
                && let Some(entry) = self.start(flight)?
            {
                return Ok(self.hit(entry, "memory", OffsetDateTime::now_utc()));
            }
            if let Ok(Some(entry)) = landed.await {
                return Ok(entry.document);
            }
            if is_waiting.is_none() {
                is_waiting = Some(self.begin_waiting()?);
            }
            let wait = rand::random_range(WAITS.0..WAITS.1);
            tokio::time::sleep(wait).await;
        }
    }

    /// Has a key read whose read was just noted, unless another one has landed since memory was asked:
    /// then what that one brought.
    fn start(&self, flight: Arc<Flight>) -> Result<Option<Entry>, Error> {
        let (layers, key) = (&self.layers, &flight.key);
        let find = || {
            let entry = layers.memory.get(key)?;
            let state = layers.freshness.state(key, &entry, OffsetDateTime::now_utc());
            (state == State::Fresh).then_some(entry)
        };
        if let Some(entry) = layers.flights.end_with(&flight, find) {
            return Ok(Some(entry));
        }
        // A source of one's own has panicked, for example.
        let ended = |_| Recovery::Stop.because("look up", "the reader has ended");
        self.wanted.send(flight).map_err(ended)?;
        Ok(None)
    }

    fn begin_waiting(&self) -> Result<Waiting<'_>, Error> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let why = self.source_outage().unwrap_or_else(|| "the source fails".into());
            return Err(Recovery::HandBack.because("look up", why));
        }
        Ok(Waiting(&self.waiting))
    }

    fn refresh(&self, key: &str) {
        if let Some(flight) = self.layers.flights.begin(&Arc::from(key))
            && self.start(Arc::clone(&flight)).is_err()
        {
            self.layers.flights.land(&flight);
        }
    }

    fn hit(&self, entry: Entry, layer: &'static str, now: OffsetDateTime) -> Option<Arc<Document>> {
        self.layers.metrics.answered(layer);
        self.layers.metrics.age.observe(entry.age(now).as_secs_f64());
        entry.document
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::metrics::Layer;

    /// A source that nobody may ask.
    struct Forbidden;

    impl Fetch for Forbidden {
        async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
            Err(LayerError(format!("{keys:?} are read again")))
        }

        fn origin(&self) -> String {
            "forbidden".into()
        }
    }

    #[test]
    fn what_landed_since_memory_was_asked_is_not_read_again() {
        let metrics = Metrics::default();
        let (lookup, _reader) =
            Lookup::new(&Settings::default(), Forbidden, metrics.clone()).unwrap();
        let key: Arc<str> = "d1".into();
        let document = Some(Arc::new(Document::new()));
        let entry = Entry { document: document.clone(), read_at: OffsetDateTime::now_utc() };

        // Another message's read lands after this one has looked into memory.
        lookup.layers.memory.put(&key, entry);
        let found = lookup.wait(&key).now_or_never().expect("nobody has to read");

        assert_eq!(found.unwrap(), document);
        assert_eq!(metrics.answered.get_or_create(&Layer { layer: "memory" }).get(), 1);
        assert!(lookup.layers.flights.begin(&key).is_some(), "no read is noted any more");
    }
}
