//! Tests of leases, acks and nacks while Pub/Sub is slow or refuses requests.

use std::time::Duration;

use pipeline::Source as _;
use pubsub::{Source, SourceMetrics, Subscription};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::env::{PATIENCE, TestEnv, connection, next};
use crate::proxy::TestProxy;

async fn open(env: &TestEnv, lease_extension: Duration) -> Source {
    let id = "subscription".into();
    let settings = Subscription { id, streams: 1, lease_extension, ..Subscription::default() };
    Source::open(&env.connection, "p", &settings, SourceMetrics::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_and_an_ack_that_were_refused_are_sent_again() {
    let env = TestEnv::new(json!({})).await;
    let faults = env.emulator.faults();
    // Longer than the patience: a message whose nack is lost would come too late.
    let mut source = open(&env, PATIENCE * 2).await;
    env.publish(["data".into()], "").await;

    faults.refuse("ModifyAckDeadline", 1, Code::Unavailable);
    next(&mut source).await.nack();
    faults.refuse("Acknowledge", 1, Code::Unavailable);
    next(&mut source).await.ack();
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    assert_eq!(faults.planned().len(), 0, "both were refused");
    assert_eq!(faults.calls()["Acknowledge"], 1, "refused calls are not counted");
}

/// A stream that stays open would get messages that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_to_a_stream_that_was_replaced() {
    let env = TestEnv::new(json!({})).await;
    let proxy = TestProxy::start(env.emulator.address().port(), None);
    // With three open streams that nobody reads, most messages would go there again and again.
    let settings = Subscription {
        id: "subscription".into(),
        streams: 1,
        lease_extension: Duration::from_secs(10),
        idle_timeout: Some(Duration::from_secs(1)),
        ..Subscription::default()
    };
    let connection = connection(proxy.url());
    let metrics = SourceMetrics::default();
    let mut source = Source::open(&connection, "p", &settings, metrics.clone()).await.unwrap();
    let replaced = async {
        while metrics.idle_streams.get() < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, replaced).await.unwrap();

    env.publish((0..40).map(|index| index.to_string()), "").await;
    let all = async {
        for _ in 0..40 {
            next(&mut source).await.ack();
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_credentials_are_refused_is_replaced() {
    let env = TestEnv::new(json!({})).await;
    let proxy = TestProxy::start(env.emulator.address().port(), None);
    let id = "subscription".into();
    let settings = Subscription { id, streams: 1, ..Subscription::default() };
    let (connection, metrics) = (connection(proxy.url()), SourceMetrics::default());
    let mut source = Source::open(&connection, "p", &settings, metrics).await.unwrap();
    env.publish(["1", "2", "3", "4"].map(str::to_owned), "").await;
    let faults = env.emulator.faults();

    // The first request opens the connection.
    let codes = [Code::Ok, Code::Unavailable, Code::Unauthenticated, Code::PermissionDenied];
    for (code, confirmed) in codes.into_iter().zip(1..) {
        let before = proxy.connections();
        if code != Code::Ok {
            faults.refuse("Acknowledge", 1, code);
        }
        next(&mut source).await.ack();
        let acked = async {
            while faults.calls().get("Acknowledge").copied() != Some(confirmed) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, acked).await.unwrap();

        if code != Code::Ok {
            let is_replaced = proxy.connections() > before;
            assert_eq!(is_replaced, code != Code::Unavailable, "{code:?}");
        }
    }
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();
}
