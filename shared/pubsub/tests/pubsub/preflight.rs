//! Tests of the part of `check --online` about Pub/Sub.

use pubsub::{
    Audience, Clients, DeadLetterConfig, Keyword, Preflight, SharedAudience, Subscription,
    TopicName,
};
use serde_json::json;
use service::Dependency;
use service::tools::preflight::State;
use tonic::Code;

use crate::env::TestEnv;

/// Returns the needed resources with their states.
async fn look(
    env: &TestEnv,
    topics: &[&str],
    dead_letters: Option<&DeadLetterConfig>,
) -> Vec<Dependency> {
    let subscription = Subscription { id: "subscription".into(), ..Subscription::default() };
    let preflight = Preflight {
        project: "p",
        pubsub: &env.endpoint(),
        storage: &storage::Endpoint { endpoint: Some(env.emulator.url().into()), ..<_>::default() },
        topics: topics.iter().map(|id| TopicName::new("p", id)).collect(),
        subscription: Some(&subscription),
        dead_letters,
        create: false,
        audience: None,
        clients: &Clients::default(),
    };
    preflight.check().await.unwrap()
}

async fn of_subscription(env: &TestEnv, dead_letters: Option<&DeadLetterConfig>) -> State {
    let mut dependencies = look(env, &[], dead_letters).await;
    assert_eq!(dependencies.len(), 1);
    let dependency = dependencies.remove(0);
    assert_eq!(dependency.kind, "subscription");
    assert_eq!(dependency.name, "projects/p/subscriptions/subscription");
    assert_eq!(dependency.roles, ["roles/pubsub.subscriber", "roles/pubsub.viewer"]);
    dependency.state
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_needed_is_looked_at() {
    let env = TestEnv::new(json!({})).await;
    env.post("storage/v1/b?project=p", json!({ "name": "dead-letters" })).await;
    env.put("topics/letters", json!({ "messageRetentionDuration": "600s" })).await;
    let dead_letters =
        DeadLetterConfig::Topic { topic_id: "letters".into(), bucket: Some("dead-letters".into()) };

    let dependencies = look(&env, &["topic"], Some(&dead_letters)).await;

    let named: Vec<_> =
        dependencies.iter().map(|dependency| (dependency.kind, dependency.name.as_str())).collect();
    let expected = [
        ("subscription", "projects/p/subscriptions/subscription"),
        ("topic", "projects/p/topics/topic"),
        ("topic", "projects/p/topics/letters"),
        ("bucket", "gs://dead-letters"),
    ];
    assert_eq!(named, expected);
    assert!(dependencies.iter().all(|dependency| dependency.state.is_fine()), "{dependencies:?}");
    assert!(matches!(dependencies[0].state, State::Ready), "{dependencies:?}");
    assert!(matches!(dependencies[1].state, State::Ready), "{dependencies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_told_by_what_is_wrong_with_it() {
    let env = TestEnv::new(json!({})).await;
    let refuse = |code| env.emulator.faults().refuse("GetSubscription", 2, code);
    let (leave, drop) = (
        DeadLetterConfig::Keyword(Keyword::Subscription),
        DeadLetterConfig::Keyword(Keyword::Drop),
    );

    assert!(matches!(of_subscription(&env, Some(&drop)).await, State::Ready));
    let state = of_subscription(&env, Some(&leave)).await;
    assert!(matches!(state, State::Differs(why) if why.contains("no dead-letter policy")));
    refuse(Code::PermissionDenied);
    assert!(matches!(of_subscription(&env, None).await, State::Unchecked(_)));
    env.emulator.faults().clear();
    refuse(Code::Unavailable);
    assert!(matches!(of_subscription(&env, None).await, State::Unreachable(_)));
    env.emulator.faults().clear();
    env.delete("topics/topic").await;
    let state = of_subscription(&env, None).await;
    assert!(matches!(state, State::Differs(why) if why.contains("deleted")));
    env.delete("subscriptions/subscription").await;
    assert!(matches!(of_subscription(&env, None).await, State::Missing(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_its_own_is_what_dead_letters_left_to_it_need() {
    let policy = json!({ "deadLetterTopic": "projects/p/topics/topic", "maxDeliveryAttempts": 5 });
    let env = TestEnv::new(json!({ "deadLetterPolicy": policy })).await;

    let leave = DeadLetterConfig::Keyword(Keyword::Subscription);

    assert!(matches!(of_subscription(&env, Some(&leave)).await, State::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_told_by_what_is_wrong_with_it() {
    let env = TestEnv::new(json!({})).await;
    env.put("topics/lonely", json!({})).await;
    let state = async |topic| look(&env, &[topic], None).await.remove(1).state;
    let refuse = |method, code| {
        env.emulator.faults().clear();
        env.emulator.faults().refuse(method, 4, code);
    };

    assert!(
        matches!(state("missing").await, State::Missing(why) if why.ends_with("does not exist"))
    );
    assert!(matches!(state("lonely").await, State::Missing(why) if why.contains("neither")));
    refuse("GetTopic", Code::PermissionDenied);
    assert!(matches!(state("topic").await, State::Unchecked(_)));
    refuse("GetSubscription", Code::PermissionDenied);
    assert!(
        matches!(state("topic").await, State::Unchecked(why) if why.contains("no right to see whether"))
    );
    // The subscription was deleted between the list and the look-up.
    refuse("GetSubscription", Code::NotFound);
    assert!(matches!(state("topic").await, State::Missing(why) if why.contains("neither")));
    refuse("GetTopic", Code::Unavailable);
    assert!(
        matches!(state("topic").await, State::Unreachable(why) if why.contains("does not answer"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_is_told_unless_nobody_may_say() {
    let env = TestEnv::new(json!({})).await;
    let state = async |code| {
        env.emulator.faults().clear();
        env.emulator.faults().refuse("TestIamPermissions", 2, code);
        of_subscription(&env, None).await
    };

    assert!(matches!(state(Code::PermissionDenied).await, State::Unchecked(_)));
    assert!(matches!(state(Code::Unavailable).await, State::Unreachable(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_the_service_is_asked_instead_of_pubsub() {
    let env = TestEnv::new(json!({})).await;
    let state = async |rule: SharedAudience| {
        let preflight = Preflight {
            project: "p",
            pubsub: &env.endpoint(),
            storage: &storage::Endpoint::default(),
            topics: vec![env.topic.clone()],
            subscription: None,
            dead_letters: None,
            create: false,
            audience: Some(rule),
            clients: &Clients::default(),
        };
        preflight.check().await.unwrap().remove(0).state
    };
    let closed = |topic: &TopicName| Audience::Nobody(format!("{topic} is closed"));
    let broken = |_: &TopicName| -> Audience { panic!("no list") };

    let (closed, broken) =
        (state(SharedAudience::new(closed)).await, state(SharedAudience::new(broken)).await);

    assert_eq!(closed, State::Missing(format!("{} is closed", env.topic)));
    assert!(
        matches!(&broken, State::Unreachable(why) if why.ends_with("panicked: no list")),
        "{broken:?}"
    );
}
