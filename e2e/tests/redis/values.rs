//! Tests of what enrich leaves in Redis: names, lives, and values at a close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use e2e::redis::Redis as Server;
use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Fetch, Freshness, LayerError, Lookup};
use enrich::metrics::Metrics;
use tokio::task::JoinSet;

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

/// A replica that is closed like one that drains.
struct Replica {
    lookup: Lookup<Source>,
    reading: JoinSet<()>,
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
        settings.redis.timeout = Duration::from_secs(10);
        let (lookup, reader) = Lookup::new(&settings, source.clone(), Metrics::default()).unwrap();
        let mut reading = JoinSet::new();
        reading.spawn(reader);
        Self { lookup, reading }
    }

    /// Returns the name in the document of a key.
    async fn name(&self, key: &str) -> Option<String> {
        let document = self.lookup.document(key).await.unwrap();
        document.map(|document| document["name"].as_str().unwrap().to_owned())
    }

    async fn close(mut self) {
        self.lookup.close();
        self.reading.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_has_the_prefix_in_its_name_and_lives_as_long_as_it_is_of_use() {
    let server = Server::start().await.unwrap();
    let replica = Replica::start(&Source::default(), server.url());

    assert_eq!(replica.name("a").await.as_deref(), Some("a"));
    assert_eq!(replica.name("none").await, None);
    replica.close().await;

    let names = server.command("KEYS *").await.unwrap();
    assert!(names.starts_with("*2\r\n"), "{names}");
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
        one.close().await;
        let other = Replica::start(&source, server.url());
        assert_eq!(other.name("a").await.as_deref(), Some("a"), "{foreign}");

        assert_eq!(source.0.load(Ordering::Relaxed), 1, "{foreign}");
    }
}

/// The server takes no writes for a while, so the write lasts until after the close.
#[tokio::test]
async fn what_is_being_written_to_redis_at_a_close_arrives() {
    let server = Server::start().await.unwrap();
    let mut replica = Replica::start(&Source::default(), server.url());
    server.command("CLIENT PAUSE 600000 WRITE").await.unwrap();
    assert_eq!(replica.name("a").await.as_deref(), Some("a"));

    replica.lookup.close();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(replica.reading.try_join_next().is_none(), "a write is under way");
    server.command("CLIENT UNPAUSE").await.unwrap();
    replica.close().await;

    assert_eq!(server.command("EXISTS mine:source/a").await.unwrap().trim(), ":1");
}
