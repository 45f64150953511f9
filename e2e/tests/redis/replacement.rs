//! Tests that a read never replaces a newer document in Redis.

use std::sync::Arc;
use std::time::Duration;

use e2e::redis::{Cluster, Redis as Server};
use enrich::cache::Entry;
use enrich::cache::redis::{Mode, Put, Redis, RedisSettings};
use time::OffsetDateTime;

use crate::{begin, entry};

fn open(url: String, mode: Mode) -> Redis {
    Redis::open(&RedisSettings { url: Some(url.into()), mode, ..RedisSettings::default() })
        .unwrap()
        .unwrap()
}

/// Begins a read of a key now that returns the document of this name.
async fn read(redis: &Redis, key: &str, name: &str) -> [Put; 1] {
    begin(redis, &[(key.into(), entry(name))]).await.unwrap().try_into().unwrap()
}

async fn known(redis: &Redis, key: &str) -> Option<Entry> {
    redis.get(&[Arc::from(key)]).await.unwrap().remove(0).entry
}

/// Writes results of reads that began before an invalidation, at several moments after it.
async fn put_late(redis: &Redis, key: &str) {
    let first = read(redis, key, "first").await;
    let early = read(redis, key, "early").await;
    redis.put(&first).await.unwrap();
    let old = read(redis, key, "old").await;

    redis.invalidate(key).await.unwrap();
    assert_eq!(known(redis, key).await, None);
    let between = read(redis, key, "between").await;
    redis.put(&old).await.unwrap();
    redis.put(&early).await.unwrap();
    assert_eq!(known(redis, key).await, None, "right after an invalidation");

    redis.invalidate(key).await.unwrap();
    redis.put(&between).await.unwrap();
    assert_eq!(known(redis, key).await, None, "after another one");

    let new = read(redis, key, "new").await;
    redis.put(&new).await.unwrap();
    redis.put(&old).await.unwrap();
    redis.put(&early).await.unwrap();
    assert_eq!(known(redis, key).await, Some(entry("new")), "when it was read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_an_invalidation_is_not_put_after_it() {
    let server = Server::start().await.unwrap();

    put_late(&open(server.url(), Mode::Node), "device").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_of_a_cluster_takes_what_was_read_before_an_invalidation() {
    let cluster = Cluster::start().await.unwrap();
    let redis = open(cluster.nodes[0].url(), Mode::Cluster);

    for key in 0..20 {
        put_late(&redis, &format!("device-{key}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_left_can_still_forget() {
    let server = Server::start().await.unwrap();
    let redis = open(server.url(), Mode::Node);
    redis.put(&read(&redis, "device", "old").await).await.unwrap();

    server.command("CONFIG SET maxmemory 1").await.unwrap();
    let refused = redis.put(&read(&redis, "device", "new").await).await.unwrap_err().to_string();
    redis.invalidate("device").await.unwrap();

    assert!(refused.contains("OOM"), "{refused}");
    assert_eq!(known(&redis, "device").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_the_place_of_a_tombstone_stays_as_long_as_it() {
    let server = Server::start().await.unwrap();
    let redis = open(server.url(), Mode::Node);
    let life = async |key: &str| {
        let answer = server.command(&format!("PTTL dataflow:enrich:{key}")).await.unwrap();
        answer.trim().trim_start_matches(':').parse::<u64>().unwrap()
    };
    let put = async |key: &str| {
        let read = read(&redis, key, "new").await;
        redis.put(&read.map(|put| Put { life: Duration::from_secs(30), ..put })).await.unwrap();
    };

    redis.invalidate("device").await.unwrap();
    put("device").await;
    put("other").await;

    assert!(life("device").await > 60_000);
    assert!(life("other").await <= 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_the_future_was_read_now() {
    let server = Server::start().await.unwrap();
    let redis = open(server.url(), Mode::Node);
    // A value that an earlier version wrote, with a clock that is ahead.
    let value = r#""{\"document\":{\"name\":\"old\"},\"read_at\":\"2999-01-01T00:00:00Z\"}""#;
    server.command(&format!("SET dataflow:enrich:device {value}")).await.unwrap();

    let found = known(&redis, "device").await.unwrap();

    assert!(found.read_at <= OffsetDateTime::now_utc(), "{found:?}");
    assert_eq!(found.document, entry("old").document);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_still_stands_is_taken_back() {
    let server = Server::start().await.unwrap();
    let redis = open(server.url(), Mode::Node);
    let one = read(&redis, "one", "old").await;
    let two = read(&redis, "two", "old").await;
    redis.put(&one).await.unwrap();
    redis.put(&two).await.unwrap();
    redis.put(&read(&redis, "two", "new").await).await.unwrap();

    redis.take_back(&one).await.unwrap();
    redis.take_back(&two).await.unwrap();

    assert_eq!(known(&redis, "one").await, None);
    assert_eq!(known(&redis, "two").await, Some(entry("new")));
}
