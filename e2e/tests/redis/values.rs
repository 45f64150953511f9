//! Tests of what enrich leaves in Redis: names, lives and values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use e2e::redis::Redis as Server;
use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Fetch, Freshness, LayerError, Lookup};
use enrich::metrics::Metrics;
use tokio::task::JoinSet;

use crate::until;

/// Source whose documents have the name of their key. The key `none` has no document. Clones count
/// their reads together.
#[derive(Clone, Default)]
struct Source(Arc<AtomicU32>);

impl Fetch for Source {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let document = |key: &str| Document::from_iter([("name".to_owned(), key.into())]);
        Ok(keys.iter().map(|key| (**key != *"none").then(|| document(key))).collect())
    }

    fn origin(&self) -> String {
        "source".into()
    }
}

/// A replica with the caches of enrich.
struct Replica {
    lookup: Lookup<Source>,
    _reading: JoinSet<()>,
}

impl Replica {
    fn start(source: &Source, url: String) -> Self {
        let mut settings = LookupSettings {
            freshness: Freshness {
                fresh_for: Duration::from_secs(1_000),
                stale_for: Duration::from_secs(500),
                absent_for: Duration::from_secs(200),
                jitter_percent: 0,
            },
            ..LookupSettings::default()
        };
        settings.redis.url = Some(url.into());
        settings.redis.key_prefix = "mine:".into();
        let (lookup, reader) = Lookup::new(&settings, source.clone(), Metrics::default()).unwrap();
        let mut reading = JoinSet::new();
        reading.spawn(reader);
        Self { lookup, _reading: reading }
    }

    /// Returns the name in the document of a key.
    async fn name(&self, key: &str) -> Option<String> {
        let document = self.lookup.document(key).await.unwrap();
        document.map(|document| document["name"].as_str().unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_has_the_prefix_in_its_name_and_lives_as_long_as_it_is_of_use() {
    let server = Server::start().await.unwrap();
    let replica = Replica::start(&Source::default(), server.url());

    assert_eq!(replica.name("a").await.as_deref(), Some("a"));
    assert_eq!(replica.name("none").await, None);
    until(async || server.command("DBSIZE").await.unwrap().trim() == ":2").await;

    let names = server.command("KEYS *").await.unwrap();
    for key in ["a", "none"] {
        assert!(names.contains(&format!("mine:source/{key}\r\n")), "{names}");
    }
    // The longest time is that of the settings. Some of it has passed.
    for (key, least, most) in [("a", 1_000_000, 1_500_000), ("none", 1, 200_000)] {
        let answer = server.command(&format!("PTTL mine:source/{key}")).await.unwrap();
        let life: i64 = answer.trim().trim_start_matches(':').parse().unwrap();
        assert!((least..=most).contains(&life), "{key} lives for {life} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_read_is_a_miss_and_is_replaced() {
    let server = Server::start().await.unwrap();
    for foreign in ["SET mine:source/a garbage", "SET mine:source/a {}", "RPUSH mine:source/a x"] {
        server.command("DEL mine:source/a").await.unwrap();
        server.command(foreign).await.unwrap();
        let source = Source::default();

        let one = Replica::start(&source, server.url());
        assert_eq!(one.name("a").await.as_deref(), Some("a"), "{foreign}");
        assert_eq!(one.lookup.redis_state(), "used", "{foreign}");
        let value = async || server.command("GET mine:source/a").await.unwrap_or_default();
        until(async || value().await.contains("read_at")).await;
        let other = Replica::start(&source, server.url());
        assert_eq!(other.name("a").await.as_deref(), Some("a"), "{foreign}");

        assert_eq!(source.0.load(Ordering::Relaxed), 1, "{foreign}");
    }
}
