//! Tests of the creation of what is missing.

use std::collections::BTreeSet;
use std::time::Duration;

use emulator::Profile;
use pubsub::{
    Clients, DeadLetterConfig, IntakeSettings, Keyword, Preflight, Subscription, TopicName,
};
use serde_json::json;
use service::tools::preflight::State;
use service::{Context, Faults, WrongSettings};
use tokio::time::timeout;
use tonic::Code;

use crate::env::{PATIENCE, TestEnv};

/// Names of what the settings of these tests need, with the permission to create each of them.
const NEEDED: [(&str, &str); 5] = [
    ("topic projects/p/topics/out", "pubsub.topics.create"),
    ("subscription projects/p/subscriptions/new", "pubsub.subscriptions.create"),
    ("topic projects/p/topics/letters", "pubsub.topics.create"),
    ("subscription projects/p/subscriptions/letters", "pubsub.subscriptions.create"),
    ("bucket too-big", "storage.buckets.create"),
];

/// Creates what a service needs that reads `topic` and publishes to `out`.
async fn create(env: &TestEnv, topic: &str) -> anyhow::Result<()> {
    let context = Context::default();
    needs(env, topic, async |preflight| {
        preflight.create_missing(&context.health.condition("subscription")).await
    })
    .await
}

async fn needs<T>(env: &TestEnv, topic: &str, run: impl AsyncFnOnce(Preflight<'_>) -> T) -> T {
    let subscription =
        Subscription { id: "new".into(), topic_id: Some(topic.into()), ..Subscription::default() };
    let dead_letters =
        DeadLetterConfig::Topic { topic_id: "letters".into(), bucket: Some("too-big".into()) };
    run(Preflight {
        project: "p",
        pubsub: &env.endpoint(),
        storage: &storage::Endpoint { endpoint: Some(env.emulator.url().into()), ..<_>::default() },
        topics: vec![TopicName::new("p", "out")],
        subscription: Some(&subscription),
        dead_letters: Some(&dead_letters),
        create: true,
        audience: None,
        clients: &Clients::default(),
    })
    .await
}

fn deny(env: &TestEnv, denied: &[&str]) {
    let denied: BTreeSet<_> = denied.iter().map(|name| (*name).to_owned()).collect();
    env.emulator.set_profile(Profile { denied, ..Profile::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_created_and_the_rest_is_left_alone() {
    let env = TestEnv::new(json!({})).await;
    let states = async || {
        let found = needs(&env, "topic", async |preflight| preflight.check().await).await.unwrap();
        found.into_iter().map(|dependency| dependency.state).collect::<Vec<_>>()
    };

    let before = states().await;
    create(&env, "topic").await.unwrap();
    create(&env, "topic").await.unwrap();
    let after = states().await;

    assert!(before.iter().all(|state| matches!(state, State::WillCreate(_))), "{before:?}");
    // Nobody reads the new topic yet, and creating a reader is up to another service.
    assert!(matches!(&after[1], State::Missing(why) if why.contains("neither")), "{after:?}");
    assert!([0, 2, 3].iter().all(|at| after[*at] == State::Ready), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_ends_the_start_with_what_it_is_about() {
    for (resource, permission) in NEEDED {
        let env = TestEnv::new(json!({})).await;
        // All that comes before exists.
        create(&env, "topic").await.unwrap();
        let path = resource.split(' ').nth(1).unwrap();
        match path.strip_prefix("projects/p/") {
            Some(path) => env.delete(path).await,
            None => env.delete_bucket(path).await,
        }
        deny(&env, &[permission]);

        let created = timeout(PATIENCE, create(&env, "topic")).await.unwrap().unwrap_err();

        let text = created.to_string();
        assert!(created.is::<WrongSettings>(), "{text}");
        let expected = format!("create: {resource} cannot be created: we lack {permission}");
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.contains("grant roles/") && text.contains("create: false"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_dead_letters_without_a_subscription_gets_one() {
    let env = TestEnv::new(json!({})).await;
    // An earlier start ended after it had created the topic.
    env.put("topics/letters", json!({})).await;

    create(&env, "topic").await.unwrap();
    let with_none = env.exists("subscriptions/letters").await;
    env.delete("subscriptions/letters").await;
    env.put("subscriptions/other", json!({ "topic": "projects/p/topics/letters" })).await;
    create(&env, "topic").await.unwrap();
    let with_another = env.exists("subscriptions/letters").await;

    assert!(with_none && !with_another, "{with_none} {with_another}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_subscriptions_may_not_be_listed_gets_one_only_if_it_is_new() {
    let env = TestEnv::new(json!({})).await;
    env.put("topics/letters", json!({})).await;
    deny(&env, &["ListTopicSubscriptions"]);

    create(&env, "topic").await.unwrap();
    let of_old = env.exists("subscriptions/letters").await;
    env.delete("topics/letters").await;
    create(&env, "topic").await.unwrap();
    let of_new = env.exists("subscriptions/letters").await;

    assert!(!of_old && of_new, "{of_old} {of_new}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_seen_is_created_and_may_exist() {
    let env = TestEnv::new(json!({})).await;
    deny(&env, &["pubsub.topics.get", "pubsub.subscriptions.get", "storage.buckets.get"]);

    create(&env, "topic").await.unwrap();
    create(&env, "topic").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_for() {
    let env = TestEnv::new(json!({})).await;
    for method in ["GetTopic", "CreateTopic", "ListTopicSubscriptions", "CreateSubscription"] {
        env.emulator.faults().refuse(method, 2, Code::Unavailable);
    }

    timeout(Duration::from_secs(60), create(&env, "topic")).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_of_another_topic_is_refused() {
    let env = TestEnv::new(json!({})).await;
    create(&env, "topic").await.unwrap();

    let text = create(&env, "out").await.unwrap_err().to_string();

    assert!(
        text.contains("reads projects/p/topics/topic instead of projects/p/topics/out"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_was_not_seen_at_first_is_compared_too() {
    let env = TestEnv::new(json!({})).await;
    create(&env, "topic").await.unwrap();

    // Another replica creates it after this look.
    env.emulator.faults().refuse("GetSubscription", 1, Code::NotFound);
    let text = create(&env, "out").await.unwrap_err().to_string();
    deny(&env, &["GetSubscription"]);
    let unseen = create(&env, "out").await;

    assert!(
        text.contains("reads projects/p/topics/topic instead of projects/p/topics/out"),
        "{text}"
    );
    assert!(unseen.is_ok(), "it may read the right topic: {unseen:?}");
}

#[test]
fn the_settings_name_the_topic_of_a_new_subscription() {
    let lines = |create, topic: Option<&str>, dead_letters| {
        let topic_id = topic.map(Into::into);
        let subscription = Subscription { topic_id, ..Subscription::default() };
        let settings = IntakeSettings { subscription, create, dead_letters, ..<_>::default() };
        let mut faults = Faults::default();
        settings.check_create(&mut faults);
        assert_eq!(settings.create_warning().is_some(), create);
        faults.lines().to_vec()
    };
    let (drop, leave) = (
        Some(DeadLetterConfig::Keyword(Keyword::Drop)),
        Some(DeadLetterConfig::Keyword(Keyword::Subscription)),
    );

    assert!(lines(false, None, leave.clone()).is_empty());
    assert!(lines(true, Some("t"), drop.clone()).is_empty());
    let missing = lines(true, None, drop.clone());
    assert!(
        missing[0].starts_with("subscription.topic_id: required with create: true"),
        "{missing:?}"
    );
    let left = lines(true, Some("t"), leave);
    assert!(left[0].starts_with("dead_letters: `subscription` needs"), "{left:?}");
    assert!(lines(false, Some("1"), drop)[0].starts_with("subscription.topic_id: must begin"));
}
