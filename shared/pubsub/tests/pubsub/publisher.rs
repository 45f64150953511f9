//! Tests of the publisher for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline::{Recovery, Sink as _};
use pubsub::{NewMessage, Publisher, PublisherLimits, TopicName, reasons};
use serde_json::{Value, json};
use service::Health;
use tokio::time::timeout;
use tonic::Code;

use crate::env::{PATIENCE, TestEnv, next};

async fn open(env: &TestEnv) -> Publisher {
    open_with(env, PublisherLimits::default()).await
}

async fn open_with(env: &TestEnv, limits: PublisherLimits) -> Publisher {
    Publisher::open(&env.connection, env.topic.clone(), limits).await.unwrap()
}

fn numbered(numbers: std::ops::Range<usize>, keys: usize) -> Vec<NewMessage> {
    let message = |number: usize| {
        NewMessage::new(number.to_string()).with_ordering_key(format!("key-{}", number % keys))
    };
    numbers.map(message).collect()
}

/// Returns the data of this number of messages, by their ids.
async fn received(env: &TestEnv, count: usize) -> BTreeMap<String, String> {
    let mut source = env.source().await;
    let mut by_id = BTreeMap::new();
    while by_id.len() < count {
        let delivery = next(&mut source).await;
        let data = String::from_utf8(delivery.message.data.to_vec()).unwrap();
        by_id.insert(delivery.message.id.clone(), data);
        delivery.ack();
    }
    by_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_the_id_that_its_reader_sees() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;

    let message = NewMessage::new("data").with_attribute("unit", "C").with_ordering_key("key");
    let id = publisher.publish(message).await.unwrap();

    let read = next(&mut env.source().await).await.message;
    assert_eq!((read.id, &read.data[..], &*read.ordering_key), (id, &b"data"[..], "key"));
    assert_eq!(read.attributes.get("unit").map(String::as_str), Some("C"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_several_keys_has_its_ids_in_order() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;

    let ids = publisher.publish_batch(numbered(0..1_200, 7)).await.unwrap();

    let by_id = received(&env, 1_200).await;
    let data: Vec<_> = ids.iter().map(|id| by_id[id].clone()).collect();
    assert_eq!(data, (0..1_200).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_callers_at_the_same_time_share_a_request() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;
    env.emulator.faults().delay("Publish", 1, Duration::from_secs(1));

    let sent = (0..100).map(|number: usize| publisher.publish(NewMessage::new(number.to_string())));
    let ids = futures::future::join_all(sent).await;

    assert!(ids.iter().all(Result::is_ok), "{ids:?}");
    let calls = env.emulator.faults().calls();
    assert!(calls["Publish"] <= 3, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_what_nobody_waits_for() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;
    env.emulator.faults().refuse("Publish", 1, Code::Unavailable);
    for message in numbered(0..100, 3) {
        drop(publisher.enqueue(message).await.unwrap());
    }

    publisher.stop(PATIENCE).await.unwrap();

    assert_eq!(received(&env, 100).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_of_messages_that_failed_unseen() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;
    env.emulator.faults().refuse("Publish", 1, Code::InvalidArgument);
    drop(publisher.enqueue(NewMessage::new("refused")).await.unwrap());

    let error = publisher.stop(PATIENCE).await.unwrap_err();

    let told = "flush: 1 messages failed, and nobody waited for them";
    assert_eq!((error.recovery(), format!("{error:#}").as_str()), (Recovery::Retry, told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_of_failures_that_nobody_read() {
    let env = TestEnv::new(json!({})).await;
    // Each message waits until the one before has its answer.
    let limits = PublisherLimits { max_waiting_bytes: 1, ..PublisherLimits::default() };
    let publisher = open_with(&env, limits).await;
    env.emulator.faults().refuse("Publish", 2, Code::InvalidArgument);

    let read = publisher.publish(NewMessage::new("read")).await;
    let unread = publisher.enqueue(NewMessage::new("unread")).await.unwrap();
    publisher.publish(NewMessage::new("next")).await.unwrap();
    drop(unread);
    let error = publisher.stop(PATIENCE).await.unwrap_err();

    assert!(read.is_err(), "{read:?}");
    let told = "flush: 1 messages failed, and nobody waited for them";
    assert_eq!((error.recovery(), format!("{error:#}").as_str()), (Recovery::Retry, told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_sent_again() {
    let env = TestEnv::new(json!({})).await;
    let limits = PublisherLimits { timeout: Duration::from_secs(12), ..PublisherLimits::default() };
    let publisher = open_with(&env, limits).await;
    env.emulator.faults().delay("Publish", 1, PATIENCE * 2);

    let sent = publisher.publish(NewMessage::new("data")).await;

    assert!(sent.is_ok(), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_refused_batch_share_its_time() {
    let env = TestEnv::new(json!({})).await;
    let limits = PublisherLimits { timeout: Duration::from_secs(12), ..PublisherLimits::default() };
    let publisher = open_with(&env, limits).await;
    let faults = env.emulator.faults();
    // The first request holds up the others, so they wait together.
    faults.delay("Publish", 1, Duration::from_millis(500));
    let first = publisher.enqueue(NewMessage::new("first")).await.unwrap();
    while !faults.planned().is_empty() {
        tokio::task::yield_now().await;
    }
    faults.refuse("Publish", 1, Code::InvalidArgument);
    faults.delay("Publish", 1_000, PATIENCE * 2);

    let sent = (0..10).map(|number: usize| publisher.publish(NewMessage::new(number.to_string())));
    let sent = timeout(limits.timeout * 3, futures::future::join_all(sent)).await;

    let sent = sent.expect("one limit for all of them, not one for each");
    first.await.unwrap();
    let failed = |sent: &Result<String, pipeline::Error>| {
        sent.as_ref().is_err_and(|error| error.recovery() == Recovery::Retry)
    };
    assert!(sent.iter().all(failed), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_sent_message_by_message() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;
    let faults = env.emulator.faults();
    // The first request holds up the others, so they wait together.
    faults.delay("Publish", 1, Duration::from_millis(500));
    let first = publisher.enqueue(NewMessage::new("first")).await.unwrap();
    while !faults.planned().is_empty() {
        tokio::task::yield_now().await;
    }
    faults.refuse("Publish", 2, Code::InvalidArgument);

    let sent = ["2", "3"].map(|data| publisher.publish(NewMessage::new(data)));
    let sent = timeout(PATIENCE, futures::future::join_all(sent)).await.unwrap();

    first.await.unwrap();
    let refused = sent[0].as_ref().map_err(pipeline::Error::recovery);
    assert_eq!(refused, Err(Recovery::Reject(reasons::PUBLISH_INVALID)));
    assert!(sent[1].is_ok(), "only one was refused alone: {sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pubsub_would_refuse_is_refused_at_once() {
    let env = TestEnv::new(json!({})).await;
    let publisher = open(&env).await;

    let error = publisher.publish(NewMessage::default()).await.unwrap_err();

    assert_eq!(error.recovery(), Recovery::Reject(reasons::EMPTY_MESSAGE));
    assert_eq!(env.emulator.faults().calls().get("Publish"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_room() {
    let env = TestEnv::new(json!({})).await;
    let limits = PublisherLimits { max_waiting_bytes: 1, ..PublisherLimits::default() };
    let publisher = open_with(&env, limits).await;
    env.emulator.faults().delay("Publish", 1, PATIENCE * 2);
    let first = publisher.enqueue(NewMessage::new("first")).await.unwrap();

    let second = publisher.enqueue(NewMessage::new("second"));
    let waited = timeout(Duration::from_millis(300), second).await;

    assert!(waited.is_err(), "the first message has all of the room");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_that_nobody_would_see() {
    let env = TestEnv::new(json!({})).await;
    env.put("topics/unheard", json!({})).await;
    let topic = TopicName::new("p", "unheard");

    let opened = Publisher::open(&env.connection, topic, PublisherLimits::default()).await;

    let error = opened.map(drop).unwrap_err();
    assert_eq!(error.recovery(), Recovery::Retry);
    assert!(format!("{error:#}").contains("has neither a subscription nor retention"), "{error:#}");
}

#[test]
fn the_page_quotes_the_examples() {
    let page = include_str!("../../../../docs/clients.md");
    let examples = [
        include_str!("../../examples/publisher.rs"),
        include_str!("../../../../services/enrich/examples/own_clients.rs"),
    ];

    let quotes: Vec<_> = page.split("```rust\n").skip(1).collect();

    assert_eq!(quotes.len(), examples.len());
    for (quote, example) in quotes.iter().zip(examples) {
        let code = quote.split("```").next().unwrap();
        assert!(example.contains(code), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_last_confirmed_message_of_a_sink() {
    let env = TestEnv::new(json!({})).await;
    let health = Health::default();
    let sink = env.sink().await.reporting_to(&health);
    assert_eq!(health.report()["last_published"], Value::Null);
    let mut batch = sink.open(&env.topic);
    sink.push(&mut batch, env.outgoing("data".into(), ""), &mut ()).unwrap();

    sink.write(&sink.encode(batch, &mut ()), PATIENCE).await.unwrap();

    let read = next(&mut env.source().await).await.message;
    let last = &health.report()["last_published"];
    assert_eq!(
        (&last["topic"], &last["message_id"]),
        (&json!(env.topic.as_str()), &json!(read.id))
    );
}
