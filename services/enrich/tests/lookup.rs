//! Tests of the lookup's guarantees, with a source that can fail, hang and count.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Fetch, Freshness, LayerError, Lookup};
use enrich::metrics::{Layer, Metrics};
use pipeline::Recovery;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Source whose documents are named after their keys. Keys that begin with `none` have no document.
/// Each document has the number of the read that it comes from.
#[derive(Clone)]
struct Source(Arc<Inner>);

struct Inner {
    /// Reads so far, each with its keys.
    reads: Mutex<Vec<Vec<String>>>,
    is_down: Mutex<bool>,
    /// Permits of reads. Each read waits for one.
    permits: Semaphore,
    /// Number of reads at each close.
    closes: Mutex<Vec<usize>>,
}

impl Source {
    fn new() -> Self {
        let (reads, is_down) = (Mutex::default(), Mutex::new(false));
        let permits = Semaphore::new(1_000_000);
        Self(Arc::new(Inner { reads, is_down, permits, closes: Mutex::default() }))
    }

    /// Returns a source whose reads wait until they are released.
    fn held() -> Self {
        let source = Self::new();
        source.0.permits.forget_permits(1_000_000);
        source
    }

    fn release(&self) {
        self.0.permits.add_permits(1_000_000);
    }

    fn set_down(&self, is_down: bool) {
        *self.0.is_down.lock().unwrap_or_else(PoisonError::into_inner) = is_down;
    }

    fn closes(&self) -> Vec<usize> {
        self.0.closes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reads(&self) -> Vec<Vec<String>> {
        self.0.reads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Fetch for Source {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        let names = keys.iter().map(ToString::to_string).collect();
        let read = {
            let mut reads = self.0.reads.lock().unwrap_or_else(PoisonError::into_inner);
            reads.push(names);
            reads.len()
        };
        self.0.permits.acquire().await.map_err(|error| LayerError::of(&error))?.forget();
        if *self.0.is_down.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(LayerError("down".into()));
        }
        let document = |key: &str| {
            Document::from_iter([("name".to_owned(), key.into()), ("read".to_owned(), read.into())])
        };
        Ok(keys.iter().map(|key| (!key.starts_with("none")).then(|| document(key))).collect())
    }

    fn origin(&self) -> String {
        "test".into()
    }

    async fn close(&self) {
        let reads = self.reads().len();
        self.0.closes.lock().unwrap_or_else(PoisonError::into_inner).push(reads);
    }
}

struct Rig {
    lookup: Lookup<Source>,
    source: Source,
    metrics: Metrics,
    reader: JoinSet<()>,
}

impl Rig {
    fn new(source: Source, settings: &LookupSettings) -> Self {
        let metrics = Metrics::default();
        let (lookup, reader) = Lookup::new(settings, source.clone(), metrics.clone()).unwrap();
        let mut reading = JoinSet::new();
        reading.spawn(reader);
        Self { lookup, source, metrics, reader: reading }
    }

    /// Returns the name in a key's document.
    async fn name(&self, key: &str) -> Option<String> {
        let document = self.lookup.document(key).await.unwrap();
        document.map(|document| document["name"].as_str().unwrap().to_owned())
    }

    /// Looks keys up concurrently.
    fn spawn(&self, keys: impl IntoIterator<Item = String>) -> JoinSet<Result<bool, Recovery>> {
        let mut lookups = JoinSet::new();
        for key in keys {
            let lookup = self.lookup.clone();
            lookups.spawn(async move {
                let found = lookup.document(&key).await;
                found.map(|found| found.is_some()).map_err(|error| error.recovery())
            });
        }
        lookups
    }
}

/// Runs all tasks until each of them waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_read_serves_all_who_wait_for_a_key() {
    let rig = Rig::new(Source::held(), &LookupSettings::default());
    let lookups = rig.spawn((0..100).map(|_| "a".to_owned()));
    settle().await;
    rig.source.release();

    let found = lookups.join_all().await;

    assert_eq!(found, vec![Ok(true); 100]);
    assert_eq!(rig.source.reads(), [["a"]]);
}

#[tokio::test]
async fn keys_that_wait_together_are_read_together() {
    let settings =
        LookupSettings { max_reads: 1, max_keys_per_read: 10, ..LookupSettings::default() };
    let rig = Rig::new(Source::held(), &settings);
    let first = rig.spawn(["first".to_owned()]);
    settle().await;
    let others = rig.spawn((0..25).map(|key| key.to_string()));
    settle().await;
    rig.source.release();

    first.join_all().await;
    others.join_all().await;

    let sizes: Vec<_> = rig.source.reads().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 10, 10, 5]);
}

#[tokio::test]
async fn a_known_key_is_answered_from_memory() {
    let rig = Rig::new(Source::new(), &LookupSettings::default());

    assert_eq!(rig.name("a").await.as_deref(), Some("a"));
    assert_eq!(rig.name("a").await.as_deref(), Some("a"));

    assert_eq!(rig.source.reads().len(), 1);
    assert_eq!(rig.metrics.answered.get_or_create(&Layer { layer: "memory" }).get(), 1);
    assert_eq!(rig.metrics.source_reads.get(), 1);
}

#[tokio::test]
async fn the_absence_of_a_document_is_remembered() {
    let rig = Rig::new(Source::new(), &LookupSettings::default());

    assert_eq!(rig.name("none").await, None);
    assert_eq!(rig.name("none").await, None);

    assert_eq!(rig.source.reads().len(), 1);
}

#[tokio::test]
async fn a_stale_value_is_served_while_it_is_read_again() {
    let freshness = Freshness { fresh_for: Duration::ZERO, ..Freshness::default() };
    let rig = Rig::new(Source::new(), &LookupSettings { freshness, ..LookupSettings::default() });
    rig.name("a").await;
    settle().await;
    let permits = rig.source.0.permits.available_permits();
    rig.source.0.permits.forget_permits(permits);

    // If these calls waited for the read, they would wait forever.
    assert_eq!(rig.name("a").await.as_deref(), Some("a"));
    assert_eq!(rig.name("a").await.as_deref(), Some("a"));
    settle().await;

    assert_eq!(rig.source.reads().len(), 2, "one read at a time");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_source_holds_up_unknown_keys_alone() {
    let settings = LookupSettings { max_waiting: 3, ..LookupSettings::default() };
    let rig = Rig::new(Source::new(), &settings);
    rig.name("known").await;
    rig.source.set_down(true);

    let unknown = rig.spawn((0..3).map(|key| key.to_string()));
    tokio::time::sleep(Duration::from_secs(60)).await;

    assert_eq!(rig.name("known").await.as_deref(), Some("known"));
    let one_more = rig.lookup.document("one more").await.unwrap_err();
    assert_eq!(one_more.recovery(), Recovery::Nack);
    assert!(rig.lookup.source_outage().is_some());
    let reads = rig.source.reads().len();
    assert!(reads < 60, "the breaker spares the source, {reads} reads");
    rig.source.set_down(false);
    assert_eq!(unknown.join_all().await, vec![Ok(true); 3]);
    assert_eq!(rig.lookup.source_outage(), None);
}

#[tokio::test]
async fn what_is_invalidated_during_its_read_is_not_kept() {
    let rig = Rig::new(Source::held(), &LookupSettings::default());
    let lookup = rig.spawn(["a".to_owned()]);
    settle().await;

    rig.lookup.invalidate("a").await.unwrap();
    rig.source.release();
    lookup.join_all().await;
    settle().await;
    rig.name("a").await;

    assert_eq!(rig.source.reads().len(), 2);
}

#[tokio::test]
async fn who_comes_after_an_invalidation_does_not_get_the_read_before_it() {
    let rig = Rig::new(Source::held(), &LookupSettings::default());
    let read = || {
        let lookup = rig.lookup.clone();
        async move { lookup.document("a").await.unwrap().unwrap()["read"].as_u64() }
    };
    let early = tokio::spawn(read());
    settle().await;

    rig.lookup.invalidate("a").await.unwrap();
    let late = tokio::spawn(read());
    settle().await;
    rig.source.release();

    assert_eq!(early.await.unwrap(), Some(1), "it came before");
    assert_eq!(late.await.unwrap(), Some(2));
    assert_eq!(read().await, Some(2), "the second read is kept");
    assert_eq!(rig.source.reads().len(), 2);
}

/// Source that breaks its contract: it returns one document less than requested.
struct Short;

impl Fetch for Short {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        Ok(keys.iter().skip(1).map(|_| None).collect())
    }

    fn origin(&self) -> String {
        "short".into()
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_leaves_a_key_out_has_failed() {
    let settings = LookupSettings { max_waiting: 1, ..LookupSettings::default() };
    let (lookup, reader) = Lookup::new(&settings, Short, Metrics::default()).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(reader);
    let waiting = lookup.clone();
    tasks.spawn(async move { drop(waiting.document("first").await) });
    tokio::time::sleep(Duration::from_secs(10)).await;

    let refused = lookup.document("second").await.unwrap_err();

    assert_eq!(refused.recovery(), Recovery::Nack);
    assert!(lookup.source_outage().unwrap().contains("answered 0 of 1 keys"));
}

/// Source that panics while this is true.
struct Panicking(Arc<AtomicBool>);

impl Fetch for Panicking {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        assert!(!self.0.load(Ordering::Relaxed), "no such column");
        Ok(keys.iter().map(|_| Some(Document::default())).collect())
    }

    fn origin(&self) -> String {
        "panicking".into()
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_has_failed_and_is_asked_again() {
    let panics = Arc::new(AtomicBool::new(true));
    let settings = LookupSettings::default();
    let source = Panicking(Arc::clone(&panics));
    let (lookup, reader) = Lookup::new(&settings, source, Metrics::default()).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(reader);

    let waiting = lookup.clone();
    let found = tokio::spawn(async move { waiting.document("first").await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let outage = lookup.source_outage().unwrap();
    panics.store(false, Ordering::Relaxed);

    assert!(outage.contains("the source panicked: no such column"), "{outage}");
    assert!(found.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn waiters_that_give_up_leave_nothing_behind() {
    let rig = Rig::new(Source::held(), &LookupSettings::default());
    let mut lookups = rig.spawn((0..10).map(|_| "a".to_owned()));
    settle().await;
    lookups.shutdown().await;
    rig.source.release();

    assert_eq!(rig.name("a").await.as_deref(), Some("a"));

    let all: HashMap<_, _> =
        rig.source.reads().into_iter().flatten().map(|key| (key, ())).collect();
    assert_eq!(all.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_answers_again_is_noticed_though_nobody_asks() {
    let rig = Rig::new(Source::new(), &LookupSettings::default());
    rig.source.set_down(true);
    let lookups = rig.spawn(["a".to_owned()]);
    while rig.lookup.source_outage().is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(lookups);
    rig.source.set_down(false);

    while rig.lookup.source_outage().is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.lookup.probe_source().await;
    }

    assert_eq!(rig.source.reads().last().unwrap(), &["a"]);
}

#[tokio::test]
async fn a_closed_lookup_finishes_what_was_asked_for_and_then_closes_the_source() {
    let settings = LookupSettings { max_reads: 1, ..LookupSettings::default() };
    let mut rig = Rig::new(Source::held(), &settings);
    let under_way = rig.spawn(["under way".to_owned()]);
    settle().await;
    let waiting = rig.spawn(["waiting".to_owned()]);
    settle().await;

    rig.lookup.close();
    settle().await;
    assert!(rig.source.closes().is_empty(), "reads are under way");
    rig.source.release();

    assert_eq!(under_way.join_all().await, [Ok(true)]);
    assert_eq!(waiting.join_all().await, [Ok(true)]);
    rig.reader.join_next().await.unwrap().unwrap();
    assert_eq!(rig.source.closes(), [2], "once, after both reads");
    let late = rig.lookup.document("late").await.unwrap_err();
    assert_eq!(late.recovery(), Recovery::Stop);
}
