//! Tests of the messages that a source delivers, and of their settlement.

use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use pipeline::Source as _;
use prost::Message as _;
use pubsub::{Connection, Source, SourceMetrics, Subscription};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::env::{PATIENCE, TestEnv, connection, next};
use crate::proxy::TestProxy;

/// Checks that nothing is left: a new source gets nothing.
async fn assert_empty(env: &TestEnv) {
    let mut source = env.source().await;
    assert!(timeout(Duration::from_millis(500), source.receive()).await.is_err());
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_arrives_whole_and_its_acks_are_sent_before_the_close_returns() {
    let env = TestEnv::new(json!({})).await;
    env.publish((0..500).map(|index| index.to_string()), "").await;

    let mut source = env.source().await;
    let mut received = Vec::new();
    for _ in 0..500 {
        let delivery = next(&mut source).await;
        assert_eq!(delivery.message.attributes["key"], "value");
        assert!(!delivery.message.id.is_empty());
        received.push(String::from_utf8(delivery.message.data.to_vec()).unwrap());
        delivery.ack();
    }
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    received.sort_by_key(|data| data.parse::<u32>().unwrap());
    assert_eq!(received, (0..500).map(|index| index.to_string()).collect::<Vec<_>>());
    assert_empty(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_settled_at_the_close_comes_again() {
    let env = TestEnv::new(json!({})).await;
    env.publish(["data".into()], "").await;

    let mut source = env.source().await;
    drop(next(&mut source).await);
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    let mut source = env.source().await;
    next(&mut source).await.ack();
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ordering_keys_are_carried_and_kept() {
    let env = TestEnv::new(json!({ "enableMessageOrdering": true })).await;
    env.publish((0..100).map(|index| index.to_string()), "key").await;

    let mut source = env.source().await;
    for index in 0..100 {
        let delivery = next(&mut source).await;
        assert_eq!(delivery.message.ordering_key, "key");
        assert_eq!(delivery.message.data, index.to_string());
        delivery.ack();
    }
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_acknowledgements_are_confirmed_before_the_close_returns() {
    let env = TestEnv::new(json!({ "enableExactlyOnceDelivery": true })).await;
    env.publish((0..50).map(|index| index.to_string()), "").await;

    let mut source = env.source().await;
    for _ in 0..50 {
        next(&mut source).await.ack();
    }
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    assert_empty(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ended_for_good_is_opened_again() {
    let env = TestEnv::new(json!({})).await;
    // Both streams receive an error that the client does not retry.
    env.emulator.faults().refuse("StreamingPull", 2, Code::PermissionDenied);
    let mut source = env.source().await;

    env.publish(["first".into()], "").await;
    next(&mut source).await.ack();
    env.emulator.faults().cut_streams();
    env.publish(["second".into()], "").await;
    let second = next(&mut source).await;

    assert_eq!(second.message.data, "second");
    second.ack();
    source.close().await.unwrap();
}

fn settings() -> Subscription {
    Subscription {
        id: "subscription".into(),
        streams: 1,
        // Messages on their way to a stream that closes are redelivered after this time.
        lease_extension: Duration::from_secs(10),
        ..Subscription::default()
    }
}

async fn open(connection: &Connection, settings: &Subscription) -> (Source, SourceMetrics) {
    let metrics = SourceMetrics::default();
    (Source::open(connection, "p", settings, metrics.clone()).await.unwrap(), metrics)
}

/// Waits until a condition is true.
async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

fn calls(env: &TestEnv, method: &str) -> u64 {
    env.emulator.faults().calls().get(method).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_stream_is_replaced_though_a_message_is_in_hand() {
    let env = TestEnv::new(json!({})).await;
    let proxy = TestProxy::start(env.emulator.address().port(), None);
    let idle_timeout = Some(Duration::from_secs(1));
    let settings = Subscription { idle_timeout, ..settings() };
    let (mut source, _) = open(&connection(proxy.url()), &settings).await;
    env.publish(["in hand".into()], "").await;
    let in_hand = next(&mut source).await;

    proxy.forget_connections();

    // Pub/Sub does not know that the stream is dead, and gives it some of the messages.
    let publish = async {
        loop {
            env.publish(["second".into()], "").await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    let received = async { while next(&mut source).await.message.data != "second" {} };
    tokio::select! {
        () = publish => {}
        () = received => {}
    }
    drop(in_hand);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_stream_brought_is_acknowledged_through_it() {
    let env = TestEnv::new(json!({})).await;
    let idle_timeout = Some(Duration::from_millis(100));
    let settings = Subscription { idle_timeout, ..settings() };
    let (mut source, metrics) = open(&env.connection, &settings).await;
    env.publish(["data".into()], "").await;
    let in_hand = next(&mut source).await;

    until(|| calls(&env, "StreamingPull") >= 3).await;
    assert_eq!(metrics.unsettled.get(), 1);
    in_hand.ack();
    assert_eq!(metrics.unsettled.get(), 0);
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    assert_empty(&env).await;
    assert_eq!(metrics.reconnects.get(), 0, "an idle stream did not fail");
    assert!(metrics.idle_streams.get() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_may_bring_no_more_is_silent_by_right() {
    let env = TestEnv::new(json!({})).await;
    let idle_timeout = Some(Duration::from_millis(100));
    let settings = Subscription { idle_timeout, max_outstanding_messages: 2, ..settings() };
    let (mut source, _) = open(&env.connection, &settings).await;
    env.publish(["first".into(), "second".into()], "").await;
    let in_hand = [next(&mut source).await, next(&mut source).await];

    let opened = calls(&env, "StreamingPull");
    sleep(Duration::from_secs(1)).await;

    assert_eq!(calls(&env, "StreamingPull"), opened);
    drop(in_hand);
}

/// With a gap, the pipeline would write the later messages first.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_before_the_pipeline_takes_a_message_leaves_no_gap_in_its_key() {
    let env = TestEnv::new(json!({ "enableMessageOrdering": true })).await;
    let max_lease = Duration::from_millis(1);
    let (mut source, _) = open(&env.connection, &Subscription { max_lease, ..settings() }).await;
    // The outbox has room for 64 messages, so some of them wait.
    env.publish((0..200).map(|index| index.to_string()), "key").await;
    let mut held = vec![next(&mut source).await.into_parts().1];
    sleep(Duration::from_millis(100)).await;

    for index in 1..200 {
        let (message, settlement) = next(&mut source).await.into_parts();
        assert_eq!(message.data, index.to_string());
        assert!(settlement.lease_end().unwrap() < Instant::now(), "it counts from the arrival");
        held.push(settlement);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_tells_how_long_it_is_kept_when_its_nack_is_lost() {
    for (is_exactly_once, seconds) in [(false, 27), (true, 27)] {
        let env = TestEnv::new(json!({ "enableExactlyOnceDelivery": is_exactly_once })).await;
        let lease_extension = Duration::from_secs(17);
        let settings = Subscription { lease_extension, ..settings() };
        let (mut source, _) = open(&env.connection, &settings).await;
        env.publish(["data".into()], "").await;

        let (_, settlement) = next(&mut source).await.into_parts();

        assert_eq!(settlement.return_delay(), Duration::from_secs(seconds));
        settlement.ack();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_told_where_a_policy_counts_them() {
    let env = TestEnv::new(json!({})).await;
    let policy = json!({ "deadLetterTopic": "projects/p/topics/topic", "maxDeliveryAttempts": 5 });
    let counting = json!({ "topic": "projects/p/topics/topic", "deadLetterPolicy": policy });
    env.put("subscriptions/counting", counting).await;
    let counting = Subscription { id: "counting".into(), ..settings() };
    let (mut counting, _) = open(&env.connection, &counting).await;
    let (mut plain, _) = open(&env.connection, &settings()).await;
    env.publish(["data".into()], "").await;

    let first = next(&mut counting).await;
    assert_eq!((first.message.attempts, first.message.counts_attempts), (1, true));
    first.nack();
    let second = next(&mut counting).await;
    assert_eq!((second.message.attempts, second.message.counts_attempts), (2, true));
    let uncounted = next(&mut plain).await;
    assert_eq!((uncounted.message.attempts, uncounted.message.counts_attempts), (1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_asks_for_its_share_and_for_the_lease() {
    let env = TestEnv::new(json!({})).await;
    let proxy = TestProxy::start(env.emulator.address().port(), None);
    let asked = Subscription {
        streams: 3,
        max_outstanding_messages: 12,
        max_outstanding_bytes: 2_100,
        lease_extension: Duration::from_secs(17),
        ..settings()
    };
    let _source = open(&connection(proxy.url()), &asked).await;

    let lease = proto::StreamingPullRequest {
        subscription: "projects/p/subscriptions/subscription".into(),
        stream_ack_deadline_seconds: 17,
        ..Default::default()
    };
    let share = proto::StreamingPullRequest {
        max_outstanding_messages: 4,
        max_outstanding_bytes: 700,
        ..Default::default()
    };
    for part in [lease, share] {
        let part = part.encode_to_vec();
        let is_there = || {
            let sent = proxy.sent();
            sent.windows(part.len()).filter(|window| **window == *part).count() == 3
        };
        until(is_there).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_held_beyond_its_longest_lease_comes_again() {
    let env = TestEnv::new(json!({})).await;
    let max_lease = Duration::from_secs(1);
    let (mut source, metrics) =
        open(&env.connection, &Subscription { max_lease, ..settings() }).await;
    env.publish(["data".into()], "").await;
    let held = next(&mut source).await;

    next(&mut source).await.ack();

    assert_eq!(metrics.expired_leases.get(), 0);
    held.ack();
    assert_eq!(metrics.expired_leases.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_pipeline_is_nacked_at_the_close() {
    let env = TestEnv::new(json!({})).await;
    let (mut source, _) = open(&env.connection, &settings()).await;
    env.publish((0..200).map(|index| index.to_string()), "").await;
    next(&mut source).await.ack();
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    let (mut source, _) = open(&env.connection, &settings()).await;
    for _ in 0..199 {
        next(&mut source).await.ack();
    }
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_the_order_of_their_key_however_slowly_they_are_taken() {
    let env = TestEnv::new(json!({ "enableMessageOrdering": true })).await;
    let (mut source, _) = open(&env.connection, &settings()).await;
    env.publish((0..300).map(|index| index.to_string()), "key").await;

    for index in 0..300 {
        let delivery = next(&mut source).await;
        assert_eq!(delivery.message.data, index.to_string());
        delivery.ack();
    }
}
