//! Reads keys from Redis and from the source, several keys at a time.

use std::sync::{Arc, PoisonError};

use futures::stream::{FuturesUnordered, StreamExt as _};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::debug;

use super::layers::Layers;
use super::redis::{Known, Put, Seen};
use super::settings::LookupSettings;
use super::single_flight::KeyRead;
use super::{Document, Entry, Fetch, LayerError, State};

pub(super) struct Reader<F> {
    layers: Arc<Layers<F>>,
    wanted: mpsc::UnboundedReceiver<Arc<KeyRead>>,
    max_keys: usize,
    max_reads: usize,
}

impl<F: Fetch> Reader<F> {
    pub(super) fn new(
        layers: Arc<Layers<F>>,
        wanted: mpsc::UnboundedReceiver<Arc<KeyRead>>,
        settings: &LookupSettings,
    ) -> Self {
        let (max_keys, max_reads) = (settings.max_keys_per_read, settings.max_reads);
        Self { layers, wanted, max_keys, max_reads }
    }

    /// Reads until the lookup is closed or all its clones are dropped. Then finishes what it has
    /// begun, and closes the source. While the maximum number of reads runs, keys collect for the
    /// next read.
    pub(super) async fn run(mut self) {
        let mut running = FuturesUnordered::new();
        let mut closing = self.layers.closing.subscribe();
        loop {
            let mut reads = Vec::new();
            // All branches are cancel safe.
            tokio::select! {
                _ = closing.wait_for(|is_closing| *is_closing), if !self.wanted.is_closed() => {
                    self.wanted.close();
                }
                Some(()) = running.next() => {}
                count = self.wanted.recv_many(&mut reads, self.max_keys), if running.len() < self.max_reads => {
                    if count == 0 {
                        break;
                    }
                    running.push(read(Arc::clone(&self.layers), reads));
                }
            }
        }
        while running.next().await.is_some() {}
        self.layers.source.close().await;
    }
}

/// Read that the source must answer.
struct Missing {
    read: Arc<KeyRead>,
    /// Value in Redis; `None` if it is not known.
    seen: Option<Seen>,
}

async fn read<F: Fetch>(layers: Arc<Layers<F>>, reads: Vec<Arc<KeyRead>>) {
    layers.reads.mark_started(&reads);
    let missing = read_redis(&layers, reads).await;
    if !missing.is_empty() {
        read_source(&layers, missing).await;
    }
    let (entries, bytes) = layers.memory.size();
    layers.metrics.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    layers.metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// Answers the reads that Redis knows. Returns the reads that the source must answer.
async fn read_redis<F: Fetch>(layers: &Layers<F>, reads: Vec<Arc<KeyRead>>) -> Vec<Missing> {
    let Some(known) = ask_redis(layers, &reads).await else {
        return reads.into_iter().map(|read| Missing { read, seen: None }).collect();
    };
    let now = OffsetDateTime::now_utc();
    let mut missing = Vec::new();
    for (read, Known { entry, seen }) in reads.into_iter().zip(known) {
        let key = &read.key;
        let state = entry.as_ref().map(|entry| layers.freshness.state(key, entry, now));
        let (Some(entry), Some(state @ (State::Fresh | State::Stale))) = (entry, state) else {
            missing.push(Missing { read, seen: Some(seen) });
            continue;
        };
        layers.metrics.answered(if state == State::Fresh { "redis" } else { "redis_stale" });
        layers.metrics.age.observe(entry.age(now).as_secs_f64());
        layers.reads.answer(&read, &entry, || layers.memory.put(key, entry.clone()));
        if state == State::Fresh {
            layers.reads.complete(&read);
        } else {
            missing.push(Missing { read, seen: Some(seen) });
        }
    }
    missing
}

/// Asks Redis for the keys of these reads. Returns `None` while Redis cannot be asked.
async fn ask_redis<F: Fetch>(layers: &Layers<F>, reads: &[Arc<KeyRead>]) -> Option<Vec<Known>> {
    let redis = layers.redis.as_ref()?;
    let keys: Vec<_> = reads.iter().map(|read| Arc::clone(&read.key)).collect();
    match layers.redis_breaker.call(redis.get(&keys)).await? {
        Ok(known) => Some(known),
        Err(error) => {
            debug!(%error, "Redis failed, asking the source");
            layers.metrics.failed("redis");
            None
        }
    }
}

/// Reads from the source, answers the reads, and fills the caches.
async fn read_source<F: Fetch>(layers: &Layers<F>, missing: Vec<Missing>) {
    let keys: Vec<_> = missing.iter().map(|missing| Arc::clone(&missing.read.key)).collect();
    let Some(documents) = ask_source(layers, &keys).await else {
        for Missing { read, .. } in &missing {
            layers.reads.complete(read);
        }
        return;
    };
    let read_at = OffsetDateTime::now_utc();
    let mut reads = Vec::with_capacity(missing.len());
    let mut puts = Vec::new();
    for (Missing { read, seen }, document) in missing.into_iter().zip(documents) {
        let (key, entry) = (&read.key, Entry { document: document.map(Arc::new), read_at });
        layers.metrics.answered(if entry.document.is_some() { "source" } else { "absent" });
        let is_kept = layers.reads.answer(&read, &entry, || layers.memory.put(key, entry.clone()));
        if let Some(seen) = seen.filter(|_| is_kept) {
            let life = layers.freshness.life_left(&entry, read_at);
            puts.push(Put { key: Arc::clone(key), entry, life, seen });
        }
        reads.push(read);
    }
    put(layers, &puts).await;
    reads.retain(|read| layers.reads.complete(read));
    puts.retain(|put| reads.iter().any(|invalidated| invalidated.key == put.key));
    take_back(layers, &puts).await;
}

/// Returns the documents of these keys, in their order. Returns `None` while the source cannot be
/// asked.
async fn ask_source<F: Fetch>(
    layers: &Layers<F>,
    keys: &[Arc<str>],
) -> Option<Vec<Option<Document>>> {
    let fetch = async {
        let documents = layers.fetch(keys).await?;
        // A custom source may return too few documents. The waiters must learn of that.
        let (answered, asked) = (documents.len(), keys.len());
        let is_whole = answered == asked;
        let why = || LayerError(format!("the source answered {answered} of {asked} keys"));
        if is_whole { Ok(documents) } else { Err(why()) }
    };
    match layers.source_breaker.call(fetch).await? {
        Ok(documents) => {
            layers.metrics.source_reads.inc_by(keys.len() as u64);
            Some(documents)
        }
        Err(error) => {
            debug!(%error, "the source failed");
            layers.metrics.failed("source");
            let mut unanswered = layers.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
            *unanswered = keys.first().cloned();
            None
        }
    }
}

/// Writes entries to Redis.
async fn put<F: Fetch>(layers: &Layers<F>, puts: &[Put]) {
    // This check comes before the breaker. If all entries are too late, Redis is not asked, so the
    // breaker must not count a success.
    let is_any_in_time = puts.iter().any(Put::is_in_time);
    let Some(redis) = layers.redis.as_ref().filter(|_| is_any_in_time) else { return };
    if let Some(Err(error)) = layers.redis_writes.call(redis.put(puts)).await {
        debug!(%error, "Redis did not take what was read");
        layers.metrics.failed("redis");
    }
}

/// Removes entries that were invalidated while they were written to Redis.
///
/// Normally Redis refuses such entries itself. It cannot if it has lost the tombstone, or if the
/// invalidating replica has a version without tombstones.
async fn take_back<F: Fetch>(layers: &Layers<F>, puts: &[Put]) {
    let Some(redis) = layers.redis.as_ref().filter(|_| !puts.is_empty()) else { return };
    // This call ignores the breaker, because otherwise an old document would stay.
    if let Err(error) = redis.take_back(puts).await {
        debug!(%error, "Redis did not forget an invalidated key");
        layers.metrics.failed("redis");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::cache::Lookup;
    use crate::cache::redis::{MAX_READ_AGE, RedisSettings};
    use crate::metrics::Metrics;

    /// Source without documents.
    struct Empty;

    impl Fetch for Empty {
        async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
            Ok(keys.iter().map(|_| None).collect())
        }

        fn origin(&self) -> String {
            "empty".into()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_sent_tells_nothing_of_writes() {
        let url = Some("redis://127.0.0.1:1".into());
        let redis = RedisSettings { url, ..RedisSettings::default() };
        let settings = LookupSettings { redis, ..LookupSettings::default() };
        let (lookup, _reader) = Lookup::new(&settings, Empty, Metrics::default()).unwrap();
        let puts = [Put {
            key: "d1".into(),
            entry: Entry { document: None, read_at: OffsetDateTime::now_utc() },
            life: Duration::from_secs(3600),
            seen: Seen { bytes: Vec::new(), at: Instant::now() },
        }];
        for _ in 0..3 {
            // No server listens there.
            put(&lookup.layers, &puts).await;
        }
        let before = lookup.layers.redis_writes.open_reason();

        tokio::time::advance(MAX_READ_AGE).await;
        put(&lookup.layers, &puts).await;

        assert!(before.is_some());
        assert_eq!(lookup.layers.redis_writes.open_reason(), before, "still left alone");
    }
}
