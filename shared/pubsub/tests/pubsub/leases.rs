//! Tests of leases, acks and nacks while Pub/Sub is slow or refuses requests.

use std::time::Duration;

use pipeline::Source as _;
use pubsub::{Source, SourceMetrics, Subscription};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::proxy::Proxy;
use crate::world::{PATIENCE, World, connection, next};

async fn open(world: &World, lease_extension: Duration) -> Source {
    let id = "subscription".into();
    let settings = Subscription { id, streams: 1, lease_extension, ..Subscription::default() };
    Source::open(&world.connection, "p", &settings, SourceMetrics::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_and_an_ack_that_were_refused_are_sent_again() {
    let world = World::new(json!({})).await;
    let faults = world.emulator.faults();
    // Longer than the patience: a message whose nack is lost would come too late.
    let mut source = open(&world, PATIENCE * 2).await;
    world.publish(["data".into()], "").await;

    faults.refuse("ModifyAckDeadline", 1, Code::Unavailable);
    next(&mut source).await.nack();
    faults.refuse("Acknowledge", 1, Code::Unavailable);
    next(&mut source).await.ack();
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    assert_eq!(faults.planned().len(), 0, "both were refused");
    let mut source = open(&world, PATIENCE * 2).await;
    assert!(timeout(Duration::from_millis(500), source.receive()).await.is_err());
}

/// Each request holds the ids of a thousand messages, so requests without an answer would fill the
/// memory.
#[tokio::test(flavor = "multi_thread")]
async fn extensions_do_not_accumulate_while_pubsub_is_slow() {
    const MOST: usize = 1_000;
    let world = World::new(json!({})).await;
    let mut source = open(&world, Duration::from_secs(30)).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        world.publish((0..1_000).map(|index| index.to_string()), "").await;
    }
    for _ in 0..6_000 {
        held.push(next(&mut source).await);
    }
    let faults = world.emulator.faults();
    faults.delay("ModifyAckDeadline", MOST as u64, Duration::from_secs(60));
    let begun = || {
        let planned = faults.planned();
        MOST as u64 - planned.first().map_or(0, |fault| fault.count)
    };

    let first = async {
        while begun() < 6 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, first).await.unwrap();
    // Two further checks of the leases, and less than the time-out of a request.
    sleep(Duration::from_secs(7)).await;

    assert_eq!(begun(), 6, "one request for each thousand");
}

/// A stream that stays open would get messages that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_to_a_stream_that_was_replaced_or_closed() {
    let world = World::new(json!({})).await;
    let proxy = Proxy::start(world.emulator.address().port(), None);
    let settings = Subscription {
        id: "subscription".into(),
        streams: 1,
        lease_extension: PATIENCE * 2,
        idle_timeout: Some(Duration::from_millis(100)),
        ..Subscription::default()
    };
    let connection = connection(proxy.url());
    let metrics = SourceMetrics::default();
    let mut source = Source::open(&connection, "p", &settings, metrics.clone()).await.unwrap();
    let replaced = async {
        while metrics.idle_streams.get() < 5 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, replaced).await.unwrap();

    for index in 0..20 {
        world.publish([index.to_string()], "").await;
        next(&mut source).await.ack();
    }
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    world.publish(["last".into()], "").await;
    let mut source = open(&world, PATIENCE * 2).await;
    next(&mut source).await.ack();
    source.close().await.unwrap();
}
