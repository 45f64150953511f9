//! Tests of the guard over topics.

use pipeline::Sink as _;
use pubsub::{
    Admin, Audience, FindAudience, Outgoing, Publishers, SharedAudience, Sink, TopicGuard,
    TopicName,
};
use serde_json::json;
use service::Health;
use tokio::time::timeout;
use tonic::Code;

use crate::env::{PATIENCE, TestEnv};

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_lets_nothing_pass_where_nobody_listens() {
    let env = TestEnv::new(json!({})).await;
    let lonely = TopicName::new("p", "lonely");
    env.put("topics/lonely", json!({})).await;
    let guard = TopicGuard::new([lonely.clone()]);
    let admin = Admin::new(&env.connection).await.unwrap();
    let sink = Sink::new(Publishers::new(&env.connection).await.unwrap(), guard.clone());
    let write = async || {
        let mut batch = sink.open(&lonely);
        let outgoing = Outgoing { topic: lonely.clone(), ..env.outgoing("data".into(), "") };
        sink.push(&mut batch, outgoing, &mut ()).unwrap();
        sink.write(&sink.encode(batch, &mut ()), PATIENCE).await.is_ok()
    };

    assert!(guard.look(&admin).await.is_err());
    assert!(!write().await);
    env.put("topics/kept", json!({ "messageRetentionDuration": "600s" })).await;
    let kept = TopicGuard::new([TopicName::new("p", "kept")]);
    assert!(kept.look(&admin).await.is_ok(), "retention is an audience");
    let settings = json!({ "topic": lonely.as_str() });
    env.put("subscriptions/listener", settings).await;

    assert!(guard.look(&admin).await.is_ok());
    assert!(write().await);
    // Without the permission to look, the last result stays valid, and the topic is reported as
    // unchecked.
    env.emulator.faults().refuse("GetTopic", 2, Code::PermissionDenied);
    assert!(guard.look(&admin).await.is_ok());
    assert_eq!(guard.unchecked(), std::slice::from_ref(&lonely));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_says_nothing_about_who_listens() {
    let env = TestEnv::new(json!({})).await;
    let admin = Admin::new(&env.connection).await.unwrap();
    let fresh = TopicGuard::new([env.topic.clone()]);

    // The client tries twice.
    env.emulator.faults().refuse("GetTopic", 2, Code::Unavailable);
    assert!(env.guard.look(&admin).await.is_ok(), "the last look still counts");
    env.emulator.faults().refuse("GetTopic", 2, Code::Unavailable);
    assert!(fresh.look(&admin).await.is_err(), "there was none");

    assert!(env.guard.unchecked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_may_not_be_seen_leaves_the_topic_unchecked() {
    let env = TestEnv::new(json!({})).await;
    let admin = Admin::new(&env.connection).await.unwrap();

    env.emulator.faults().refuse("GetSubscription", 1, Code::PermissionDenied);
    assert!(env.guard.look(&admin).await.is_ok());
    assert_eq!(env.guard.unchecked(), std::slice::from_ref(&env.topic));

    assert!(env.guard.look(&admin).await.is_ok());
    assert!(env.guard.unchecked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_loses_its_audience_is_closed_and_opened_when_it_has_one() {
    let env = TestEnv::new(json!({})).await;
    let admin = Admin::new(&env.connection).await.unwrap();
    let health = Health::default();
    let condition = health.condition("topics");
    env.delete("subscriptions/subscription").await;
    assert!(env.guard.look(&admin).await.is_err());

    let waiting = env.guard.wait(&admin, &condition);
    let listening = env.put("subscriptions/new", json!({ "topic": env.topic.as_str() }));

    let ((), ()) = timeout(PATIENCE, async { tokio::join!(waiting, listening) }).await.unwrap();
    assert!(health.conditions()["topics"].ready);
    admin.require_audience(&env.topic).await.unwrap();
    let missing = admin.require_audience(&TopicName::new("p", "missing")).await.unwrap_err();
    assert!(missing.detail().ends_with("projects/p/topics/missing does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_opens_the_guard_once_somebody_listens() {
    let env = TestEnv::new(json!({})).await;
    let admin = Admin::new(&env.connection).await.unwrap();
    let condition = Health::default().condition("topics");
    let guard = TopicGuard::new([env.topic.clone()]);
    let sink = Sink::new(Publishers::new(&env.connection).await.unwrap(), guard.clone());
    let mut batch = sink.open(&env.topic);
    sink.push(&mut batch, env.outgoing("data".into(), ""), &mut ()).unwrap();
    let batch = sink.encode(batch, &mut ());
    assert!(sink.write(&batch, PATIENCE).await.is_err());

    let watching = tokio::spawn(guard.watch(admin, condition));

    let written = async {
        while sink.write(&batch, PATIENCE).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, written).await.unwrap();
    watching.abort();
}

#[tokio::test]
async fn the_readers_of_topics_can_be_found_by_a_function() {
    let topic = |id| TopicName::new("p", id);
    let rule = |topic: &TopicName| match topic.as_str().rsplit('/').next() {
        Some("known") => Audience::Someone,
        Some("doubtful") => Audience::Unchecked("nobody asked".into()),
        _ => Audience::Nobody(format!("{topic} is not in the list")),
    };
    let (open, closed) =
        (TopicGuard::new(["known", "doubtful"].map(topic)), TopicGuard::new([topic("other")]));

    assert_eq!(open.look(&rule).await, Ok(()));
    assert_eq!(open.unchecked(), [topic("doubtful")]);
    let wrong = "projects/p/topics/other is not in the list".to_owned();
    assert_eq!(closed.look(&SharedAudience::new(rule)).await, Err(wrong));
}

/// Rule that never answers.
struct Silent;

impl FindAudience for Silent {
    async fn audience(&self, _: &TopicName) -> Audience {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_panics_or_hangs_leaves_the_audience_unknown() {
    let topic = TopicName::new("p", "topic");
    let (fresh, known) = (TopicGuard::new([topic.clone()]), TopicGuard::new([topic]));
    let broken = |_: &TopicName| -> Audience { panic!("no list") };
    let answer = async |guard: &TopicGuard, rule: SharedAudience| {
        timeout(PATIENCE, guard.look(&rule)).await.expect("an answer in time")
    };
    known.look(&|_: &TopicName| Audience::Someone).await.unwrap();

    let panicked = answer(&fresh, SharedAudience::new(broken)).await.unwrap_err();
    let hung = answer(&fresh, SharedAudience::new(Silent)).await.unwrap_err();

    let rule = "the rule for the audience of projects/p/topics/topic";
    assert_eq!(panicked, format!("{rule} panicked: no list"));
    assert_eq!(hung, format!("{rule} gave no answer within 10 s"));
    assert_eq!(answer(&known, SharedAudience::new(broken)).await, Ok(()));
    assert_eq!(answer(&known, SharedAudience::new(Silent)).await, Ok(()));
}
