//! Lookup that asks the layers, one after another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipeline::{Error, Recovery};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use super::breaker::Breaker;
use super::layers::Layers;
use super::memory::Memory;
use super::reader::Reader;
use super::redis::Redis;
use super::settings::LookupSettings;
use super::single_flight::{KeyRead, SingleFlight};
use super::{Document, Entry, Fetch, LayerError, State};
use crate::metrics::Metrics;

/// Minimum and maximum time between two attempts of a message that waits for the source.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// Lookup of documents by key. Clones share the caches.
pub struct Lookup<F> {
    pub(super) layers: Arc<Layers<F>>,
    wanted: mpsc::UnboundedSender<Arc<KeyRead>>,
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

/// Counter guard for a message that waits for the source. Dropping it ends the count.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Fetch> Lookup<F> {
    /// Creates a lookup, and the task that reads for it. Without the running task, the lookup waits
    /// forever. The task ends after [`close`](Self::close), or when all clones of the lookup are
    /// dropped.
    ///
    /// # Errors
    /// Fails for invalid settings of Redis.
    pub fn new(
        settings: &LookupSettings,
        source: F,
        metrics: Metrics,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<F>), LayerError> {
        let redis = Redis::open(&settings.redis)?;
        Ok(Self::with_redis(settings, redis, source, metrics))
    }

    /// Creates a lookup with this Redis, if any, and the task that reads for it. Without the running
    /// task, the lookup waits forever.
    pub fn with_redis(
        settings: &LookupSettings,
        redis: Option<Redis>,
        source: F,
        metrics: Metrics,
    ) -> (Self, impl Future<Output = ()> + Send + use<F>) {
        let layers = Arc::new(Layers {
            memory: Memory::new(&settings.memory),
            redis: redis.map(|redis| redis.of_source(&source.origin())),
            redis_breaker: Breaker::new("redis"),
            redis_writes: Breaker::new("redis writes"),
            source,
            source_breaker: Breaker::new("source"),
            freshness: settings.freshness.clone(),
            reads: SingleFlight::default(),
            metrics,
            unanswered: Mutex::default(),
            closing: watch::Sender::new(false),
        });
        // Its length is limited by the reads that have not started, one per key.
        let (wanted, requests) = mpsc::unbounded_channel();
        let reader = Reader::new(Arc::clone(&layers), requests, settings);
        let waiting = Arc::default();
        let max_waiting = settings.max_waiting;
        (Self { layers, wanted, waiting, max_waiting }, reader.run())
    }

    /// Returns the document of a key, or `None` if the key has none.
    ///
    /// Waits for as long as the source cannot be asked. Cancel safe.
    ///
    /// # Errors
    /// Fails with `Nack` when too many messages wait for the source already, and with `Stop`
    /// when the reading task has ended.
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

    /// Lets the reading task finish the reads that were asked for, with what they write to Redis. It
    /// then closes the source and ends. From now on, a document that is not in memory is an error.
    pub fn close(&self) {
        self.layers.closing.send_replace(true);
    }

    /// Removes a key from this process, from Redis, and from all replicas that listen there.
    ///
    /// # Errors
    /// Fails when Redis cannot be asked. The key is removed from this process in any case.
    pub async fn invalidate(&self, key: &str) -> Result<(), LayerError> {
        // The key is forgotten twice. A read before Redis has forgotten the key can still bring the
        // old document.
        self.forget(key);
        let invalidated = match &self.layers.redis {
            Some(redis) => redis.invalidate(key).await,
            None => Ok(()),
        };
        self.forget(key);
        invalidated
    }

    /// Removes a key from this process.
    pub(super) fn forget(&self, key: &str) {
        self.layers.reads.invalidate(key);
        self.layers.memory.remove(key);
    }

    /// Removes all keys from this process.
    pub(super) fn forget_all(&self) {
        self.layers.reads.invalidate_all();
        self.layers.memory.clear();
    }

    pub(super) fn redis(&self) -> Option<&Redis> {
        self.layers.redis.as_ref()
    }

    /// Returns the reason why the source's breaker is open, if it is.
    #[must_use]
    pub fn source_outage(&self) -> Option<String> {
        self.layers.source_breaker.open_reason()
    }

    /// Asks the source again while its breaker is open, as often as the breaker allows. If all
    /// arriving keys are in the caches, no other call would find out that the source has recovered.
    pub async fn probe_source(&self) {
        let layers = &self.layers;
        if *layers.closing.borrow() {
            return;
        }
        let unanswered = layers.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (Some(key), Some(_)) = (unanswered, self.source_outage()) {
            // The breaker records the answer.
            drop(layers.source_breaker.call(layers.fetch(&[key])).await);
        }
    }

    /// Writes to Redis again while the breaker of writes is open, as often as the breaker allows.
    /// If nothing is read from the source, no other call would find out that Redis accepts writes
    /// again.
    pub async fn probe_redis(&self) {
        let layers = &self.layers;
        let is_read_only = layers.redis_breaker.open_reason().is_none()
            && layers.redis_writes.open_reason().is_some();
        if let Some(redis) = layers.redis.as_ref().filter(|_| is_read_only) {
            // The breaker records the answer.
            drop(layers.redis_writes.call(redis.probe()).await);
        }
    }

    /// Returns the state of Redis in a few words: not set, used, read only with the reason, or left
    /// alone with the reason.
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
            let (answer, new) = self.layers.reads.join(key);
            if let Some(read) = new
                && let Some(entry) = self.start(read)?
            {
                return Ok(self.hit(entry, "memory", OffsetDateTime::now_utc()));
            }
            if let Ok(Some(entry)) = answer.await {
                return Ok(entry.document);
            }
            if is_waiting.is_none() {
                is_waiting = Some(self.begin_waiting()?);
            }
            let wait = rand::random_range(WAITS.0..WAITS.1);
            tokio::time::sleep(wait).await;
        }
    }

    /// Starts a newly registered read. If another read has ended since memory was asked, its entry
    /// is returned instead.
    fn start(&self, read: Arc<KeyRead>) -> Result<Option<Entry>, Error> {
        let (layers, key) = (&self.layers, &read.key);
        let find = || {
            let entry = layers.memory.get(key)?;
            let state = layers.freshness.state(key, &entry, OffsetDateTime::now_utc());
            (state == State::Fresh).then_some(entry)
        };
        if let Some(entry) = layers.reads.complete_with(&read, find) {
            return Ok(Some(entry));
        }
        let ended = |_| Recovery::Stop.because("look up", "the reader has ended");
        self.wanted.send(read).map_err(ended)?;
        Ok(None)
    }

    fn begin_waiting(&self) -> Result<Waiting<'_>, Error> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let why = self.source_outage().unwrap_or_else(|| "the source fails".into());
            return Err(Recovery::Nack.because("look up", why));
        }
        Ok(Waiting(&self.waiting))
    }

    fn refresh(&self, key: &str) {
        if let Some(read) = self.layers.reads.start(&Arc::from(key))
            && self.start(Arc::clone(&read)).is_err()
        {
            self.layers.reads.complete(&read);
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

    /// Source that must not be asked.
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
    fn what_was_read_since_memory_was_asked_is_not_read_again() {
        let metrics = Metrics::default();
        let (lookup, _reader) =
            Lookup::new(&LookupSettings::default(), Forbidden, metrics.clone()).unwrap();
        let key: Arc<str> = "d1".into();
        let document = Some(Arc::new(Document::new()));
        let entry = Entry { document: document.clone(), read_at: OffsetDateTime::now_utc() };

        // The read of another message ends after this one has asked memory.
        lookup.layers.memory.put(&key, entry);
        let found = lookup.wait(&key).now_or_never().expect("nobody has to read");

        assert_eq!(found.unwrap(), document);
        assert_eq!(metrics.answered.get_or_create(&Layer { layer: "memory" }).get(), 1);
        assert!(lookup.layers.reads.start(&key).is_some(), "no read is registered any more");
    }
}
