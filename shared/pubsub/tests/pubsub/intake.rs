//! Tests of everything that a service opens to read from a subscription.

use std::time::Duration;

use pipeline::Source as _;
use pipeline::dead_letter::Policy;
use pubsub::{Clients, DeadLetterConfig, Intake, IntakeSettings, Keyword, Subscription};
use serde_json::json;
use service::{Context, Health, SharedRegistry};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::env::{PATIENCE, TestEnv, next};

fn context() -> Context {
    Context { health: Health::default(), registry: SharedRegistry::default() }
}

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

fn settings(env: &TestEnv, id: &str, dead_letters: Option<DeadLetterConfig>) -> IntakeSettings {
    let subscription = Subscription { id: id.into(), ..Subscription::default() };
    IntakeSettings { subscription, dead_letters, pubsub: env.endpoint(), create: false }
}

fn intake(settings: &IntakeSettings) -> Intake<'_> {
    let storage = storage::Endpoint::default();
    let clients = Clients::default();
    Intake { service: "enrich", project: "p", settings, storage, audience: None, clients }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_reads_and_says_what_it_waits_for() {
    let env = TestEnv::new(json!({})).await;
    let dead_letters = DeadLetterConfig::Topic { topic_id: "topic".into(), bucket: None };
    let settings = settings(&env, "late", Some(dead_letters));
    let intake = intake(&settings);
    let (context, mut watchers) = (context(), JoinSet::new());

    let opened = intake.clone().open([], &context, &mut watchers).await.unwrap();

    assert!(matches!(opened.dead_letters, Policy::Write(_)));
    let is_ready = |name| context.health.conditions()[name].ready;
    assert!(is_ready("topics"), "the topic of the dead letters is guarded");
    let reason = || context.health.conditions()["subscription"].reason.clone();
    until(|| reason().contains("subscriptions/late")).await;
    assert!(!is_ready("subscription"), "it is not there yet");
    env.put("subscriptions/late", json!({ "topic": "projects/p/topics/topic" })).await;
    until(|| is_ready("subscription")).await;
    let metrics = context.registry.encode().unwrap();
    for name in ["reconnects", "lost_acks", "expired_leases"] {
        assert!(metrics.contains(&format!("dataflow_pubsub_{name}_total ")), "{metrics}");
    }
    env.publish(["data".into()], "").await;
    let mut source = opened.source;
    next(&mut source).await.ack();
    source.close().await.unwrap();

    let dependencies = intake.clone().preflight([]).await.unwrap();
    assert_eq!(dependencies.len(), 2, "{dependencies:?}");
    let dead_letter_tool = intake.dead_letter_tool().unwrap();
    assert_eq!((dead_letter_tool.service, dead_letter_tool.project), ("enrich", "p"));
    assert_eq!(
        (dead_letter_tool.topic.as_ref(), dead_letter_tool.reads),
        (Some(&env.topic), Some(&settings.subscription))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_left_to_the_subscription_need_its_policy() {
    let env = TestEnv::new(json!({})).await;
    let leave = DeadLetterConfig::Keyword(Keyword::Subscription);
    let settings = |dead_letters| settings(&env, "subscription", dead_letters);
    let (context, mut watchers) = (context(), JoinSet::new());
    let opened = intake(&settings(Some(leave))).open([], &context, &mut watchers).await.unwrap();
    let state = || context.health.conditions()["subscription"].clone();

    assert!(matches!(opened.dead_letters, Policy::Leave));
    until(|| state().reason.contains("has no dead-letter policy")).await;
    env.delete("subscriptions/subscription").await;
    until(|| state().reason.contains("does not exist")).await;
    let policy = json!({ "deadLetterTopic": "projects/p/topics/topic", "maxDeliveryAttempts": 5 });
    let subscription = json!({ "topic": env.topic.as_str(), "deadLetterPolicy": policy });
    env.put("subscriptions/subscription", subscription).await;
    until(|| state().ready).await;

    let nowhere = intake(&settings(None)).open([], &context, &mut watchers).await;
    assert!(nowhere.is_err_and(|error| error.to_string().contains("dead_letters")));
}
