//! Source, sink and guard against the embedded cloud, with Google's client in between.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::HashMap;
use std::time::Duration;

use emulator::{Emulator, Options};
use pipeline::{Delivery, Sink as _, Source as _};
use pubsub::{
    Admin, Connection, Endpoint, Outgoing, Publishers, Sink, Source, SourceMetrics, Subscription,
    TopicGuard, TopicName,
};
use reqwest::Client;
use serde_json::json;
use service::Health;
use tokio::time::timeout;
use tonic::Code;

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    emulator: Emulator,
    connection: Connection,
    topic: TopicName,
    guard: TopicGuard,
}

impl World {
    /// A topic with a subscription of these settings.
    async fn new(subscription: serde_json::Value) -> Self {
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let endpoint = Endpoint { endpoint: Some(emulator.url()), ..Endpoint::default() };
        let topic = TopicName::new("p", "topic");
        let guard = TopicGuard::new([topic.clone()]);
        let world = Self { emulator, connection: Connection::new(endpoint), topic, guard };
        world.put("topics/topic", json!({})).await;
        let mut settings = json!({ "topic": "projects/p/topics/topic", "ackDeadlineSeconds": 10 });
        settings.as_object_mut().unwrap().extend(subscription.as_object().unwrap().clone());
        world.put("subscriptions/subscription", settings).await;
        let admin = Admin::new(&world.connection).await.unwrap();
        assert!(world.guard.look(&admin, &Health::default().condition("topics")).await);
        world
    }

    async fn put(&self, resource: &str, body: serde_json::Value) {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        Client::new().put(url).json(&body).send().await.unwrap().error_for_status().unwrap();
    }

    async fn sink(&self) -> Sink {
        Sink::new(Publishers::new(&self.connection).await.unwrap(), self.guard.clone())
    }

    async fn source(&self) -> Source {
        // What is on its way to a stream that closes comes again after this time.
        let lease_extension = Duration::from_secs(10);
        let id = "subscription".into();
        let settings = Subscription { id, lease_extension, ..Subscription::default() };
        Source::open(&self.connection, "p", &settings, SourceMetrics::default()).await.unwrap()
    }

    async fn publish(&self, data: impl IntoIterator<Item = String>, ordering_key: &str) {
        let sink = self.sink().await;
        let mut batch = sink.open(&self.topic);
        for data in data {
            sink.join(&mut batch, self.outgoing(data, ordering_key), &mut ()).unwrap();
        }
        assert_eq!(sink.write(&sink.seal(batch, &mut ()), PATIENCE).await.unwrap(), []);
    }

    fn outgoing(&self, data: String, ordering_key: &str) -> Outgoing {
        Outgoing {
            topic: self.topic.clone(),
            data: data.into(),
            attributes: HashMap::from([("key".to_owned(), "value".to_owned())]).into(),
            ordering_key: ordering_key.into(),
        }
    }
}

async fn next(source: &mut Source) -> Delivery {
    timeout(PATIENCE, source.receive()).await.unwrap().unwrap().unwrap()
}

/// Nothing is left: a new source gets nothing.
async fn assert_empty(world: &World) {
    let mut source = world.source().await;
    assert!(timeout(Duration::from_millis(500), source.receive()).await.is_err());
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_arrives_whole_and_its_acks_are_sent_before_the_close_returns() {
    let world = World::new(json!({})).await;
    world.publish((0..500).map(|index| index.to_string()), "").await;

    let mut source = world.source().await;
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
    assert_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_settled_at_the_close_comes_again() {
    let world = World::new(json!({})).await;
    world.publish(["data".into()], "").await;

    let mut source = world.source().await;
    drop(next(&mut source).await);
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    let mut source = world.source().await;
    next(&mut source).await.ack();
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ordering_keys_are_carried_and_kept() {
    let world = World::new(json!({ "enableMessageOrdering": true })).await;
    world.publish((0..100).map(|index| index.to_string()), "key").await;

    let mut source = world.source().await;
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
    let world = World::new(json!({ "enableExactlyOnceDelivery": true })).await;
    world.publish((0..50).map(|index| index.to_string()), "").await;

    let mut source = world.source().await;
    for _ in 0..50 {
        next(&mut source).await.ack();
    }
    timeout(PATIENCE, source.close()).await.unwrap().unwrap();

    assert_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ended_for_good_is_opened_again() {
    let world = World::new(json!({})).await;
    // Both streams meet an error that the client does not retry.
    world.emulator.faults().refuse("StreamingPull", 2, Code::PermissionDenied);
    let mut source = world.source().await;

    world.publish(["first".into()], "").await;
    next(&mut source).await.ack();
    world.emulator.faults().cut_streams();
    world.publish(["second".into()], "").await;
    let second = next(&mut source).await;

    assert_eq!(second.message.data, "second");
    second.ack();
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publish_is_retried_by_the_pipeline_or_rejected() {
    let world = World::new(json!({})).await;
    let sink = world.sink().await;
    let write = async || {
        let mut batch = sink.open(&world.topic);
        sink.join(&mut batch, world.outgoing("data".into(), "key"), &mut ()).unwrap();
        sink.write(&sink.seal(batch, &mut ()), PATIENCE).await.map_err(|error| error.recovery())
    };

    world.emulator.faults().refuse("Publish", 1, Code::Unavailable);
    assert_eq!(write().await, Err(pipeline::Recovery::Retry));
    world.emulator.faults().refuse("Publish", 1, Code::NotFound);
    assert_eq!(write().await, Err(pipeline::Recovery::Retry));
    world.emulator.faults().refuse("Publish", 1, Code::InvalidArgument);
    assert_eq!(write().await, Err(pipeline::Recovery::Reject("publish_invalid")));
    // A key that the client had paused goes on.
    assert_eq!(write().await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pubsub_would_refuse_never_joins_a_batch() {
    let world = World::new(json!({})).await;
    let sink = world.sink().await;
    let refused = |change: fn(&mut Outgoing)| {
        let mut outgoing = world.outgoing("data".into(), "");
        change(&mut outgoing);
        match sink.join(&mut sink.open(&world.topic), outgoing, &mut ()) {
            Err(pipeline::Join::Refused(error)) => error.recovery(),
            other => panic!("{other:?}"),
        }
    };

    let reject = pipeline::Recovery::Reject;
    assert_eq!(refused(|m| m.data = vec![0; 10_000_000].into()), reject("message_too_large"));
    assert_eq!(
        refused(|m| drop(m.attributes.insert("k".into(), "v".repeat(1025)))),
        reject("attribute_invalid")
    );
    assert_eq!(refused(|m| m.ordering_key = "k".repeat(1025)), reject("ordering_key_too_long"));
    let many =
        |m: &mut Outgoing| m.attributes.extend((0..101).map(|i| (i.to_string(), String::new())));
    assert_eq!(refused(many), reject("too_many_attributes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_lets_nothing_pass_where_nobody_listens() {
    let world = World::new(json!({})).await;
    let lonely = TopicName::new("p", "lonely");
    world.put("topics/lonely", json!({})).await;
    let guard = TopicGuard::new([lonely.clone()]);
    let admin = Admin::new(&world.connection).await.unwrap();
    let condition = Health::default().condition("topics");
    let sink = Sink::new(Publishers::new(&world.connection).await.unwrap(), guard.clone());
    let write = async || {
        let mut batch = sink.open(&lonely);
        let outgoing = Outgoing { topic: lonely.clone(), ..world.outgoing("data".into(), "") };
        sink.join(&mut batch, outgoing, &mut ()).unwrap();
        sink.write(&sink.seal(batch, &mut ()), PATIENCE).await.is_ok()
    };

    assert!(!guard.look(&admin, &condition).await);
    assert!(!write().await);
    world.put("topics/kept", json!({ "messageRetentionDuration": "600s" })).await;
    let kept = TopicGuard::new([TopicName::new("p", "kept")]);
    assert!(kept.look(&admin, &condition).await, "retention is an audience");
    let settings = json!({ "topic": lonely.as_str() });
    world.put("subscriptions/listener", settings).await;

    assert!(guard.look(&admin, &condition).await);
    assert!(write().await);
    // No right to look: what was known still counts, and it is said.
    world.emulator.faults().refuse("GetTopic", 2, Code::PermissionDenied);
    assert!(guard.look(&admin, &condition).await);
    assert_eq!(guard.unchecked(), std::slice::from_ref(&lonely));
}
