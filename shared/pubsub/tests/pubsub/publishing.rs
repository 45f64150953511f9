//! Tests of the cost of a publish, and of its end when it is cancelled.

use std::time::Duration;

use pipeline::Recovery;
use pubsub::{Endpoint, Publishers};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::env::{PATIENCE, TestEnv, connection, next};
use crate::proxy::TestProxy;

/// Waits until nothing more is uploaded. Returns the number of bytes.
async fn settled(proxy: &TestProxy) -> u64 {
    loop {
        let before = proxy.uploaded();
        sleep(Duration::from_secs(2)).await;
        if proxy.uploaded() == before {
            return before;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_uploaded_of_an_attempt_that_was_given_up() {
    let env = TestEnv::new(json!({})).await;
    let proxy = TestProxy::start(env.emulator.address().port(), Some(4_000_000));
    let publishers = Publishers::new(&connection(proxy.url())).await.unwrap();
    // One message without a key, and the same number of bytes under each of three keys.
    let batch: Vec<_> =
        ["", "a", "b", "c"].iter().map(|key| env.outgoing("x".repeat(2_000_000), key)).collect();

    let attempt = publishers.publish(&env.topic, &batch);
    assert!(timeout(Duration::from_millis(500), attempt).await.is_err(), "8 MB take 2 s");
    let given_up = settled(&proxy).await;

    // Data in the buffers of h2 and of the sockets is still sent.
    assert!(given_up < 5_000_000, "{given_up} bytes of 8 MB");
    // Control: the whole batch is sent if nobody cancels it.
    timeout(PATIENCE, publishers.publish(&env.topic, &batch)).await.unwrap().unwrap();
    assert!(proxy.uploaded() - given_up > 8_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_the_ordering_keys_of_the_past() {
    let env = TestEnv::new(json!({})).await;
    let publishers = Publishers::new(&env.connection).await.unwrap();
    let publish = async |from: usize| {
        let keyed = |key: usize| env.outgoing("x".into(), &format!("device-{key}"));
        let batch: Vec<_> = (from..from + 500).map(keyed).collect();
        publishers.publish(&env.topic, &batch).await.unwrap();
    };
    let tasks = || Handle::current().metrics().num_alive_tasks();

    publish(0).await;
    let before = tasks();
    for from in (500..5_000).step_by(500) {
        publish(from).await;
    }

    let ended = async {
        while tasks() > before + 500 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, ended).await.is_ok(), "{before} tasks became {}", tasks());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_without_a_word_is_replaced() {
    let env = TestEnv::new(json!({})).await;
    let proxy = TestProxy::start(env.emulator.address().port(), None);
    let publishers = Publishers::new(&connection(proxy.url())).await.unwrap();
    let batch = [env.outgoing("data".into(), "")];
    for _connection in 0..Endpoint::default().channels {
        publishers.publish(&env.topic, &batch).await.unwrap();
    }

    proxy.forget_connections();
    let lost = timeout(Duration::from_secs(1), publishers.publish(&env.topic, &batch)).await;

    assert!(lost.is_err());
    timeout(PATIENCE, publishers.publish(&env.topic, &batch)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_of_one_key_is_the_refusal_of_the_batch() {
    let env = TestEnv::new(json!({})).await;
    let publishers = Publishers::new(&env.connection).await.unwrap();
    let batch: Vec<_> =
        ["", "a", "b", "c"].iter().map(|key| env.outgoing("data".into(), key)).collect();
    let publish = async || {
        let published = publishers.publish(&env.topic, &batch).await;
        published.map(drop).map_err(|error| error.recovery())
    };
    let faults = env.emulator.faults();

    faults.refuse("Publish", 1, Code::Unavailable);
    assert_eq!(publish().await, Err(Recovery::Retry));
    faults.refuse("Publish", 1, Code::InvalidArgument);
    assert_eq!(publish().await, Err(Recovery::Reject(pubsub::reasons::PUBLISH_INVALID)));
    faults.refuse("Publish", 2, Code::InvalidArgument);
    faults.refuse("Publish", 1, Code::Unavailable);
    assert_eq!(publish().await, Err(Recovery::Retry), "no message is at fault in an outage");
    assert_eq!(publish().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_no_further_than_its_first_refusal() {
    let env = TestEnv::new(json!({ "enableMessageOrdering": true })).await;
    let publishers = Publishers::new(&env.connection).await.unwrap();
    let batch: Vec<_> = (0..1_001).map(|index| env.outgoing(index.to_string(), "key")).collect();

    env.emulator.faults().refuse("Publish", 1, Code::Unavailable);
    assert!(publishers.send(&env.topic, &batch).await.is_err());
    publishers.send(&env.topic, &[env.outgoing("later".into(), "key")]).await.unwrap();

    let mut source = env.source().await;
    assert_eq!(next(&mut source).await.message.data, "later");
}
