//! Tests that an invalidation at one replica reaches the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use e2e::proxy::{Link, Proxy};
use e2e::redis::{Cluster, Redis as Server, Sentinel};
use enrich::cache::invalidation::Listener;
use enrich::cache::redis::Mode;
use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Fetch, LayerError, Lookup};
use enrich::metrics::Metrics;
use futures::FutureExt as _;
use service::Health;
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinSet;

use crate::until;

/// A source whose document can change. Clones share the document.
#[derive(Clone, Default)]
struct Source(Arc<Inner>);

#[derive(Default)]
struct Inner {
    version: AtomicU32,
    reads: AtomicU32,
    /// Locked for writing while reads must not end.
    hold: RwLock<()>,
}

impl Source {
    fn change(&self) {
        self.0.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps all reads from ending until the guard is dropped.
    async fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.hold.write().await
    }

    fn reads(&self) -> u32 {
        self.0.reads.load(Ordering::Relaxed)
    }
}

impl Fetch for Source {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        let version = self.0.version.load(Ordering::Relaxed);
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        drop(self.0.hold.read().await);
        let document = || Document::from_iter([("version".to_owned(), version.into())]);
        Ok(keys.iter().map(|_| Some(document())).collect())
    }

    fn origin(&self) -> String {
        "project/(default)/devices".into()
    }
}

/// A replica: its caches, and the tasks that serve them.
struct Replica {
    lookup: Lookup<Source>,
    health: Health,
    tasks: JoinSet<()>,
}

impl Replica {
    async fn start(source: &Source, url: Option<String>, mode: Mode) -> Self {
        let mut replica = Self::deaf(source, url, mode);
        let listener = Listener::start(replica.lookup.clone(), replica.health.clone()).await;
        replica.tasks.spawn(listener.run());
        replica
    }

    /// Starts a replica that receives no invalidations and makes one read at a time.
    fn deaf(source: &Source, url: Option<String>, mode: Mode) -> Self {
        let mut settings = LookupSettings { max_reads: 1, ..LookupSettings::default() };
        (settings.redis.url, settings.redis.mode) = (url.map(Into::into), mode);
        settings.redis.sentinel.service = Sentinel::SERVICE.into();
        let (lookup, reader) = Lookup::new(&settings, source.clone(), Metrics::default()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(reader);
        Self { lookup, health: Health::default(), tasks }
    }

    /// Returns the version of the document that the replica serves.
    async fn version(&self, key: &str) -> u64 {
        self.lookup.document(key).await.unwrap().unwrap()["version"].as_u64().unwrap()
    }

    fn reach(&self) -> String {
        self.health.report()["invalidation"].as_str().unwrap_or_default().to_owned()
    }

    async fn listens(&self) {
        until(async || self.reach() == "reaches all replicas").await;
    }
}

async fn all_forget(urls: [String; 2], mode: Mode) {
    let source = Source::default();
    let [one, other] = urls.map(|url| Replica::start(&source, Some(url), mode));
    let (one, other) = (one.await, other.await);
    one.listens().await;
    other.listens().await;
    for key in ["a", "b", "c", "d"] {
        assert_eq!((one.version(key).await, other.version(key).await), (0, 0));
    }

    source.change();
    assert_eq!(other.version("a").await, 0, "known until it is invalidated");
    for key in ["a", "b", "c"] {
        one.lookup.invalidate(key).await.unwrap();
        assert_eq!(one.version(key).await, 1);
        until(async || other.version(key).await == 1).await;
    }

    assert_eq!((one.version("d").await, other.version("d").await), (0, 0), "nobody asked for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidated_key_is_forgotten_by_all_replicas() {
    let server = Server::start().await.unwrap();

    all_forget([server.url(), server.url()], Mode::Node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidated_key_is_forgotten_whatever_node_of_a_cluster_a_replica_listens_to() {
    let cluster = Cluster::start().await.unwrap();

    all_forget([cluster.nodes[0].url(), cluster.nodes[1].url()], Mode::Cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_of_a_sentinel_all_replicas_forget_again() {
    let sentinel = Sentinel::start().await.unwrap();
    let source = Source::default();
    let one = Replica::start(&source, Some(sentinel.url()), Mode::Sentinel).await;
    let other = Replica::start(&source, Some(sentinel.url()), Mode::Sentinel).await;
    one.listens().await;
    other.listens().await;
    assert_eq!((one.version("a").await, other.version("a").await), (0, 0));

    sentinel.fail_over().await.unwrap();
    source.change();
    until(async || one.lookup.invalidate("a").await.is_ok()).await;

    assert_eq!(one.version("a").await, 1);
    until(async || other.version("a").await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_under_way_does_not_bring_the_old_document_back() {
    let (server, source) = (Server::start().await.unwrap(), Source::default());
    let one = Replica::start(&source, Some(server.url()), Mode::Node).await;
    let deaf = Replica::deaf(&source, Some(server.url()), Mode::Node);
    let held = source.hold().await;
    let lookup = deaf.lookup.clone();
    let reading = tokio::spawn(async move { lookup.document("a").await.unwrap() });
    until(async || source.reads() == 1).await;

    source.change();
    one.lookup.invalidate("a").await.unwrap();
    drop(held);
    reading.await.unwrap();
    // The replica starts its next read only after it has written the result of the first one to
    // Redis.
    deaf.version("b").await;

    assert_eq!(one.version("a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_invalidates_during_a_read_does_not_stay() {
    let (server, source) = (Server::start().await.unwrap(), Source::default());
    let one = Replica::start(&source, Some(server.url()), Mode::Node).await;
    one.listens().await;
    one.version("b").await;
    let held = source.hold().await;
    let lookup = one.lookup.clone();
    let reading = tokio::spawn(async move { lookup.document("a").await.unwrap() });
    until(async || source.reads() == 2).await;

    source.change();
    // An earlier version leaves no tombstone. After key "b" is forgotten, key "a" is forgotten,
    // too.
    for key in ["a", "b"] {
        let prefix = format!("dataflow:enrich:{}/", source.origin());
        server.command(&format!("DEL {prefix}{key}")).await.unwrap();
        server.command(&format!("PUBLISH {prefix}invalidated {key}")).await.unwrap();
    }
    until(async || one.lookup.document("b").now_or_never().is_none()).await;
    drop(held);
    reading.await.unwrap();
    // The replica starts its next read only after it has written the result of the first one to
    // Redis.
    one.version("c").await;

    assert_eq!(one.version("a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_could_not_listen_forgets_all_it_knew() {
    let (server, source) = (Server::start().await.unwrap(), Source::default());
    let link = Proxy::start(server.port()).unwrap();
    let behind = Some(format!("redis://127.0.0.1:{}", link.port()));
    let one = Replica::start(&source, Some(server.url()), Mode::Node).await;
    let other = Replica::start(&source, behind, Mode::Node).await;
    one.listens().await;
    other.listens().await;
    assert_eq!((one.version("a").await, other.version("a").await), (0, 0));

    link.set(Link::Cut);
    until(async || other.reach().starts_with("does not arrive")).await;
    source.change();
    one.lookup.invalidate("a").await.unwrap();
    assert_eq!(other.version("a").await, 0, "it cannot know");
    link.set(Link::Up);
    other.listens().await;

    assert_eq!(other.version("a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_went_silent_is_noticed() {
    let (server, source) = (Server::start().await.unwrap(), Source::default());
    let link = Proxy::start(server.port()).unwrap();
    let behind = Some(format!("redis://127.0.0.1:{}", link.port()));
    let other = Replica::start(&source, behind, Mode::Node).await;
    other.listens().await;

    link.set(Link::Silent);

    until(async || other.reach().starts_with("does not arrive")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_writes_is_read_only() {
    let (server, source) = (Server::start().await.unwrap(), Source::default());
    let replica = Replica::start(&source, Some(server.url()), Mode::Node).await;
    replica.version("a").await;
    assert_eq!(replica.lookup.redis_state(), "used");

    server.command("CONFIG SET maxmemory 1").await.unwrap();
    for key in ["b", "c", "d", "e"] {
        replica.version(key).await;
    }
    until(async || replica.lookup.redis_state() != "used").await;

    let state = replica.lookup.redis_state();
    assert!(state.starts_with("read only, ") && state.contains("OOM"), "{state}");
    // The replica still invalidates, and its circuit breaker sometimes lets a probe through.
    replica.lookup.invalidate("b").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    replica.lookup.probe_redis().await;
    assert!(replica.lookup.redis_state().starts_with("read only, "));
    server.command("CONFIG SET maxmemory 0").await.unwrap();
    until(async || {
        replica.lookup.probe_redis().await;
        replica.lookup.redis_state() == "used"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_status_says_that_others_are_not_reached() {
    let replica = Replica::start(&Source::default(), None, Mode::Node).await;

    until(async || replica.reach().starts_with("reaches this replica alone")).await;

    replica.lookup.invalidate("a").await.unwrap();
}
