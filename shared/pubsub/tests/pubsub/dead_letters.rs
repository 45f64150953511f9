//! Tests of the destination of dead letters.

use std::time::Duration;

use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::{DeadLetter, DeadLetters as _, Source as _};
use pubsub::{DeadLetterConfig, DeadLetters, Keyword, Publishers};
use serde_json::json;
use storage::ObjectStore as _;

use crate::env::{PATIENCE, TestEnv, next};

pipeline::reasons! {
    /// Reasons of these tests.
    OF_THE_TESTS {
        /// No route matches the topic.
        NO_ROUTE = "no_route";
    }
}

/// Longest time that a dead letter may take.
const TIME_LIMIT: Duration = PATIENCE;

async fn policy(env: &TestEnv, dead_letters: &DeadLetterConfig) -> Policy<DeadLetters> {
    let publishers = Publishers::new(&env.connection).await.unwrap();
    let storage = storage::Endpoint { endpoint: Some(env.emulator.url().into()), ..<_>::default() };
    let clients = pubsub::Clients::default();
    let policy =
        DeadLetters::policy(dead_letters, "p", &publishers, &env.guard, &storage, &clients);
    policy.await.unwrap()
}

/// Returns the dead letter that arrives on the topic.
async fn dead_lettered(env: &TestEnv, bucket: Option<&str>, message: &Message) -> Message {
    let bucket = bucket.map(Into::into);
    let dead_letters = DeadLetterConfig::Topic { topic_id: "topic".into(), bucket };
    let Policy::Write(dead_letters) = policy(env, &dead_letters).await else { panic!("a topic") };
    let dead_letter = DeadLetter {
        service: "ingestion",
        reason: NO_ROUTE,
        detail: "x".into(),
        attempts: 1,
        first_seen: time::OffsetDateTime::UNIX_EPOCH,
        message,
    };
    dead_letters.write(&dead_letter, TIME_LIMIT).await.unwrap();
    let mut source = env.source().await;
    let (dead_letter, settlement) = next(&mut source).await.into_parts();
    settlement.ack();
    source.close().await.unwrap();
    dead_letter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_arrives_with_attributes_that_pubsub_would_refuse() {
    let env = TestEnv::new(json!({})).await;
    let long = "v".repeat(2000);
    let mut message = Message::new("data").with_attribute("calibration", long.clone());
    for index in 0..120 {
        message = message.with_attribute(format!("p{index}"), "v");
    }
    message = message.with_attribute("mqtt_topic", "devices/d1/unknown");

    let dead_letter = dead_lettered(&env, None, &message).await;

    assert_eq!(dead_letter.attributes["mqtt_topic"], "devices/d1/unknown");
    assert_eq!(dead_letter.attributes["dl_wrapped"], "true");
    let (line, data) = dead_letter.data.split_at(dead_letter.data.len() - "data".len());
    assert_eq!(data, b"data");
    let front: serde_json::Value = serde_json::from_slice(line).unwrap();
    assert_eq!(front["calibration"], long);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_big_is_in_an_object_of_the_bucket() {
    let env = TestEnv::new(json!({})).await;
    env.post("storage/v1/b?project=p", json!({ "name": "dead-letters" })).await;
    let message = Message::new(vec![b'x'; 12_000_000]);

    let dead_letter = dead_lettered(&env, Some("dead-letters"), &message).await;

    assert_eq!(dead_letter.data, "");
    let object = dead_letter.attributes["dl_object"].strip_prefix("gs://dead-letters/").unwrap();
    let storage = storage::Endpoint { endpoint: Some(env.emulator.url().into()), ..<_>::default() };
    let bucket = storage::Bucket::new(&"dead-letters".parse().unwrap(), &storage).await.unwrap();
    assert_eq!(bucket.read(object).await.unwrap(), message.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_instead_of_a_topic_leaves_or_drops() {
    let env = TestEnv::new(json!({})).await;

    let leave = policy(&env, &DeadLetterConfig::Keyword(Keyword::Subscription)).await;
    let drop = policy(&env, &DeadLetterConfig::Keyword(Keyword::Drop)).await;

    assert!(matches!(leave, Policy::Leave));
    assert!(matches!(drop, Policy::Drop));
}
