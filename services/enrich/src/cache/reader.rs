//! Reads keys that are wanted together, from Redis and from the source.

use std::sync::{Arc, PoisonError};

use futures::stream::{FuturesUnordered, StreamExt as _};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::debug;

use super::lookup::{Layers, Settings};
use super::{Entry, Fetch, LayerError, State};

pub(super) struct Reader<F> {
    layers: Arc<Layers<F>>,
    wanted: mpsc::UnboundedReceiver<Arc<str>>,
    max_keys: usize,
    max_reads: usize,
}

impl<F: Fetch> Reader<F> {
    pub(super) fn new(
        layers: Arc<Layers<F>>,
        wanted: mpsc::UnboundedReceiver<Arc<str>>,
        settings: &Settings,
    ) -> Self {
        let (max_keys, max_reads) = (settings.max_keys_per_read, settings.max_reads);
        Self { layers, wanted, max_keys, max_reads }
    }

    /// Reads until nobody can want anything any more. While all reads are under way, keys gather
    /// for the next one.
    pub(super) async fn run(mut self) {
        let mut reads = FuturesUnordered::new();
        loop {
            let mut keys = Vec::new();
            // Both branches are cancel safe.
            tokio::select! {
                Some(()) = reads.next() => {}
                count = self.wanted.recv_many(&mut keys, self.max_keys), if reads.len() < self.max_reads => {
                    if count == 0 {
                        break;
                    }
                    reads.push(read(Arc::clone(&self.layers), keys));
                }
            }
        }
        while reads.next().await.is_some() {}
    }
}

async fn read<F: Fetch>(layers: Arc<Layers<F>>, keys: Vec<Arc<str>>) {
    let missing = read_redis(&layers, keys).await;
    if !missing.is_empty() {
        read_source(&layers, missing).await;
    }
    let (entries, bytes) = layers.memory.size();
    layers.metrics.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    layers.metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// Answers what Redis knows, and gives back what must be read from the source.
async fn read_redis<F: Fetch>(layers: &Layers<F>, keys: Vec<Arc<str>>) -> Vec<Arc<str>> {
    let Some(redis) = &layers.redis else { return keys };
    let found = match layers.redis_breaker.call(redis.get(&keys)).await {
        Some(Ok(found)) => found,
        Some(Err(error)) => {
            debug!(%error, "Redis failed, asking the source");
            layers.metrics.failed("redis");
            return keys;
        }
        None => return keys,
    };
    let now = OffsetDateTime::now_utc();
    let mut missing = Vec::new();
    for (key, entry) in keys.into_iter().zip(found) {
        let state = entry.as_ref().map(|entry| layers.freshness.state(&key, entry, now));
        let (Some(entry), Some(state @ (State::Fresh | State::Stale))) = (entry, state) else {
            missing.push(key);
            continue;
        };
        layers.metrics.answered(if state == State::Fresh { "redis" } else { "redis_stale" });
        layers.metrics.age.observe(entry.age(now).as_secs_f64());
        layers.flights.answer(&key, &entry, || layers.memory.put(&key, entry.clone()));
        if state == State::Fresh {
            layers.flights.land(&key);
        } else {
            missing.push(key);
        }
    }
    missing
}

/// Reads from the source, answers, and fills the caches.
async fn read_source<F: Fetch>(layers: &Layers<F>, keys: Vec<Arc<str>>) {
    let fetch = async {
        let documents = layers.source.fetch(&keys).await?;
        // A source of one's own may break its promise; who waits must learn of it.
        let (answered, asked) = (documents.len(), keys.len());
        let is_whole = answered == asked;
        let why = || LayerError(format!("the source answered {answered} of {asked} keys"));
        if is_whole { Ok(documents) } else { Err(why()) }
    };
    let fetched = layers.source_breaker.call(fetch).await;
    let Some(Ok(documents)) = fetched else {
        if let Some(Err(error)) = fetched {
            debug!(%error, "the source failed");
            layers.metrics.failed("source");
            let mut unanswered = layers.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
            *unanswered = keys.first().cloned();
        }
        for key in &keys {
            layers.flights.land(key);
        }
        return;
    };
    layers.metrics.source_reads.inc_by(keys.len() as u64);
    let read_at = OffsetDateTime::now_utc();
    let mut entries = Vec::with_capacity(keys.len());
    for (key, document) in keys.into_iter().zip(documents) {
        let entry = Entry { document: document.map(Arc::new), read_at };
        layers.metrics.answered(if entry.document.is_some() { "source" } else { "absent" });
        layers.flights.answer(&key, &entry, || layers.memory.put(&key, entry.clone()));
        let life = layers.freshness.life_left(&entry, read_at);
        entries.push((key, entry, life));
    }
    if let Some(redis) = &layers.redis
        && let Some(Err(error)) = layers.redis_breaker.call(redis.put(&entries)).await
    {
        debug!(%error, "Redis did not take what was read");
        layers.metrics.failed("redis");
    }
    for (key, ..) in entries {
        if layers.flights.land(&key) {
            forget(layers, &key).await;
        }
    }
}

/// Forgets again what was invalidated while it was being read.
async fn forget<F: Fetch>(layers: &Layers<F>, key: &str) {
    layers.memory.remove(key);
    if let Some(redis) = &layers.redis
        && let Some(Err(error)) = layers.redis_breaker.call(redis.remove(key)).await
    {
        debug!(%error, "Redis did not forget an invalidated key");
        layers.metrics.failed("redis");
    }
}
