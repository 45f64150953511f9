//! Tests of topics, subscriptions and messages without a server.

use super::delivery::{Allowance, seconds_of};
use super::wire::Received;
use super::*;

const TOPIC: &str = "projects/p/topics/topic";
const DEAD: &str = "projects/p/topics/dead";
const SUBSCRIPTION: &str = "projects/p/subscriptions/subscription";

/// A Pub/Sub with a topic, a dead-letter topic, and a subscription.
struct TestEnv {
    pubsub: PubSub,
    subscription: Arc<Subscription>,
}

impl TestEnv {
    fn new(config: proto::Subscription) -> Self {
        let pubsub = PubSub::new(Faults::default());
        for name in [TOPIC, DEAD] {
            let topic = proto::Topic { name: name.to_owned(), ..<_>::default() };
            pubsub.create_topic(topic).expect("a topic");
        }
        let (name, topic) = (SUBSCRIPTION.to_owned(), TOPIC.to_owned());
        let config = proto::Subscription { name, topic, ..config };
        pubsub.create_subscription(config).expect("a subscription");
        let subscription = pubsub.subscription(SUBSCRIPTION).expect("the subscription");
        Self { pubsub, subscription }
    }

    /// Subscribes to the dead letters.
    fn dead(&self) -> Arc<Subscription> {
        let name = "projects/p/subscriptions/dead";
        let (topic, config) = (DEAD.to_owned(), proto::Subscription::default());
        let config = proto::Subscription { name: name.to_owned(), topic, ..config };
        self.pubsub.create_subscription(config).expect("a subscription");
        self.pubsub.subscription(name).expect("the subscription")
    }

    fn publish(&self, messages: Vec<proto::PubsubMessage>) {
        let request = proto::PublishRequest { topic: TOPIC.to_owned(), messages };
        self.pubsub.publish(request).expect("a publish");
    }

    /// Nacks messages, and moves those without attempts left to the dead letters, as Pub/Sub does.
    fn nack(&self, received: &[Received]) {
        let changes: Vec<_> = received.iter().map(|one| (one.ack_id.clone(), 0)).collect();
        let (unknown, exhausted) = self.subscription.modify(&changes);
        assert_eq!(unknown, Vec::<String>::new());
        self.pubsub.dead_letter(&self.subscription, exhausted);
    }

    /// Takes and nacks all messages until they are dead letters.
    fn exhaust(&self) {
        for _ in 0..5 {
            self.nack(&take(&self.subscription));
        }
    }
}

/// Takes all messages that a subscription can deliver.
fn take(subscription: &Subscription) -> Vec<Received> {
    let (messages, bytes) = (usize::MAX, usize::MAX);
    let allowance = Allowance { messages, bytes, ack_deadline: seconds_of(600) };
    let mut all = Vec::new();
    let stream = subscription.open_stream();
    loop {
        let (taken, exhausted) = subscription.take(Some(stream), allowance);
        assert!(exhausted.is_empty());
        if taken.is_empty() {
            subscription.close_stream(stream);
            return all;
        }
        all.extend(taken);
    }
}

fn message(text: &str) -> proto::PubsubMessage {
    proto::PubsubMessage { data: text.as_bytes().to_vec().into(), ..<_>::default() }
}

fn keyed(text: &str) -> proto::PubsubMessage {
    proto::PubsubMessage { ordering_key: "key".to_owned(), ..message(text) }
}

fn texts(received: &[Received]) -> Vec<String> {
    let decoded = received.iter().map(|one| proto::PubsubMessage::decode(one.message.clone()));
    let text = |message: proto::PubsubMessage| String::from_utf8_lossy(&message.data).into_owned();
    decoded.map(|message| text(message.expect("a message"))).collect()
}

fn with_dead_letters() -> proto::Subscription {
    let policy =
        proto::DeadLetterPolicy { dead_letter_topic: DEAD.to_owned(), max_delivery_attempts: 5 };
    proto::Subscription { dead_letter_policy: Some(policy), ..<_>::default() }
}

#[test]
fn dead_letters_are_not_under_the_limits_of_requests() {
    let env = TestEnv::new(with_dead_letters());
    let dead = env.dead();
    let attributes = (0..100).map(|number| (number.to_string(), String::new())).collect();
    env.publish(vec![proto::PubsubMessage { attributes, ..message("attributes") }]);
    for _ in 0..2 {
        env.publish(vec![message(&"x".repeat(9_000_000))]);
        env.publish(vec![message("x"); 700]);
    }

    env.exhaust();

    assert!(take(&env.subscription).is_empty());
    assert_eq!(take(&dead).len(), 1403);
}

#[test]
fn a_dead_letter_that_cannot_be_forwarded_keeps_its_attempts_and_its_place() {
    let ordered = proto::Subscription { enable_message_ordering: true, ..with_dead_letters() };
    let env = TestEnv::new(ordered);
    env.publish(vec![keyed("1")]);
    env.pubsub.delete_topic(DEAD).expect("deleted");

    env.exhaust();
    env.publish(vec![keyed("2")]);
    let again = take(&env.subscription);

    assert_eq!(texts(&again), ["1", "2"]);
    assert_eq!(again[0].delivery_attempt, 6);
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn durations_beyond_their_bounds_are_refused() {
    let env = TestEnv::new(<_>::default());
    let create = |id: &str, config: proto::Subscription| {
        let name = format!("projects/p/subscriptions/{id}");
        let config = proto::Subscription { name, topic: TOPIC.to_owned(), ..config };
        env.pubsub.create_subscription(config)
    };
    let retention =
        |duration| proto::Subscription { message_retention_duration: duration, ..<_>::default() };
    let backoff = |least, most| proto::Subscription {
        retry_policy: Some(proto::RetryPolicy { minimum_backoff: least, maximum_backoff: most }),
        ..<_>::default()
    };

    for (id, config) in [
        ("short", retention(seconds(599))),
        ("long", retention(seconds(31 * 24 * 3600 + 1))),
        ("least", backoff(seconds(i64::MAX), None)),
        ("most", backoff(None, seconds(601))),
        ("negative", backoff(seconds(-1), None)),
    ] {
        let refused = create(id, config).expect_err(id);
        assert_eq!(refused.code, tonic::Code::InvalidArgument, "{id}");
    }
    let right = proto::Subscription { ..backoff(seconds(0), seconds(600)) };
    let right = proto::Subscription { message_retention_duration: seconds(600), ..right };
    assert!(create("right", right).is_ok());
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    let env = TestEnv::new(<_>::default());
    let update = |duration, path: &str| {
        let topic = proto::Topic {
            name: TOPIC.to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            message_retention_duration: duration,
            ..<_>::default()
        };
        let paths = vec!["labels".to_owned(), path.to_owned()];
        let update_mask = Some(prost_types::FieldMask { paths });
        env.pubsub.update_topic(proto::UpdateTopicRequest { topic: Some(topic), update_mask })
    };

    assert!(update(seconds(i64::MAX), "message_retention_duration").is_err());
    assert!(update(None, "kms_key_name").is_err());

    let found = env.pubsub.get_topic(TOPIC).expect("the topic");
    assert!(found.labels.is_empty());
    env.publish(vec![message("goes on")]);
}

#[test]
fn a_nacked_message_of_a_key_waits_for_the_backoff_of_the_retry_policy() {
    let policy = proto::RetryPolicy { minimum_backoff: seconds(600), ..<_>::default() };
    let config = proto::Subscription { enable_message_ordering: true, ..<_>::default() };
    let env = TestEnv::new(proto::Subscription { retry_policy: Some(policy), ..config });
    env.publish(vec![keyed("1"), keyed("2")]);

    env.nack(&take(&env.subscription)[..1]);

    assert!(take(&env.subscription).is_empty());
    assert!(env.subscription.is_waiting_for_time());
}

fn acknowledgement(received: &[Received]) -> proto::AcknowledgeRequest {
    let ack_ids = received.iter().map(|one| one.ack_id.clone()).collect();
    proto::AcknowledgeRequest { subscription: SUBSCRIPTION.to_owned(), ack_ids }
}

fn deadline(received: &[Received], ack_deadline_seconds: i32) -> proto::ModifyAckDeadlineRequest {
    let proto::AcknowledgeRequest { subscription, ack_ids } = acknowledgement(received);
    proto::ModifyAckDeadlineRequest { subscription, ack_ids, ack_deadline_seconds }
}

#[tokio::test]
async fn an_exactly_once_lease_that_has_ended_is_told() {
    for is_exactly_once in [true, false] {
        let config =
            proto::Subscription { enable_exactly_once_delivery: is_exactly_once, ..<_>::default() };
        let env = TestEnv::new(config);
        env.publish(vec![message("late")]);
        let (messages, bytes, ack_deadline) = (1, usize::MAX, seconds_of(0));
        let allowance = Allowance { messages, bytes, ack_deadline };
        let (late, _) = env.subscription.take(None, allowance);

        let extended = env.pubsub.modify_ack_deadline(deadline(&late, 600)).await;
        let acknowledged = env.pubsub.acknowledge(acknowledgement(&late)).await;

        assert_eq!(extended.is_err(), is_exactly_once);
        assert_eq!(acknowledged.is_err(), is_exactly_once);
        if let Err(status) = acknowledged {
            assert_eq!((status.code, status.details.len()), (tonic::Code::FailedPrecondition, 1));
        }
    }
}

#[tokio::test]
async fn requests_of_acknowledgements_keep_to_googles_limits() {
    let env = TestEnv::new(<_>::default());
    for _ in 0..3 {
        env.publish(vec![message("x"); 1000]);
    }
    let received = take(&env.subscription);
    let (pubsub, some, few) = (&env.pubsub, &received[..2500], &received[..1]);

    assert!(pubsub.acknowledge(acknowledgement(&received)).await.is_err());
    assert!(pubsub.modify_ack_deadline(deadline(&received, 10)).await.is_err());
    for seconds in [-1, 601, i32::MAX] {
        assert!(pubsub.modify_ack_deadline(deadline(few, seconds)).await.is_err(), "{seconds}");
    }
    assert!(pubsub.modify_ack_deadline(deadline(some, 600)).await.is_ok());
    assert!(pubsub.acknowledge(acknowledgement(some)).await.is_ok());
}

#[test]
fn subscriptions_that_google_refuses_are_refused() {
    let env = TestEnv::new(<_>::default());
    let name = "projects/p/subscriptions/other";
    let create = |config| {
        let (name, topic) = (name.to_owned(), TOPIC.to_owned());
        env.pubsub.create_subscription(proto::Subscription { name, topic, ..config })
    };
    let push = || proto::PushConfig { push_endpoint: "http://localhost/".into(), ..<_>::default() };
    let pushed = proto::Subscription { push_config: Some(push()), ..<_>::default() };
    let once = proto::Subscription { enable_exactly_once_delivery: true, ..<_>::default() };
    let both = proto::Subscription { enable_exactly_once_delivery: true, ..pushed };
    let missing = proto::DeadLetterPolicy {
        dead_letter_topic: "projects/p/topics/missing".into(),
        ..<_>::default()
    };
    let dead = proto::Subscription { dead_letter_policy: Some(missing), ..<_>::default() };

    assert_eq!(create(both).expect_err("a refusal").code, tonic::Code::InvalidArgument);
    assert_eq!(create(dead.clone()).expect_err("a refusal").code, tonic::Code::NotFound);
    create(once).expect("a subscription");
    let (subscription, push_config) = (name.to_owned(), Some(push()));
    let modify = proto::ModifyPushConfigRequest { subscription, push_config };
    assert!(env.pubsub.modify_push_config(modify).is_err());
    let update = proto::UpdateSubscriptionRequest {
        subscription: Some(proto::Subscription { name: name.to_owned(), ..dead }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["dead_letter_policy".into()] }),
    };
    assert!(env.pubsub.update_subscription(update).is_err());
}

#[test]
fn attribute_keys_of_google_are_refused_and_those_of_its_clients_are_not() {
    let env = TestEnv::new(<_>::default());
    let publish = |key: &str| {
        let attributes = [(key.to_owned(), String::new())].into();
        let messages = vec![proto::PubsubMessage { attributes, ..<_>::default() }];
        env.pubsub.publish(proto::PublishRequest { topic: TOPIC.to_owned(), messages })
    };

    assert!(publish("googclient_traceparent").is_ok());
    assert!(publish("google").is_err());
}

/// Takes at most so many messages and bytes for a stream, with a lease of so many seconds.
fn take_up_to(
    subscription: &Subscription,
    stream: Option<u64>,
    messages: usize,
    bytes: usize,
    seconds: i32,
) -> Vec<Received> {
    let allowance = Allowance { messages, bytes, ack_deadline: seconds_of(seconds) };
    subscription.take(stream, allowance).0
}

#[test]
fn a_stream_gets_no_more_than_its_limits_until_it_settles() {
    let env = TestEnv::new(<_>::default());
    env.publish((0..5).map(|number| message(&number.to_string())).collect());
    let stream = env.subscription.open_stream();
    let take = |messages, bytes| take_up_to(&env.subscription, Some(stream), messages, bytes, 60);

    let first = take(2, usize::MAX);
    let full = take(2, usize::MAX);
    let ids: Vec<_> = first.iter().map(|one| one.ack_id.clone()).collect();
    env.subscription.acknowledge(&ids[..1]);
    let next = take(2, usize::MAX);
    // One message more is allowed as long as the bytes before it are below the limit.
    let of_bytes = take(usize::MAX, 1);
    env.subscription.acknowledge(&ids[1..]);
    env.subscription.acknowledge(&[next[0].ack_id.clone()]);
    let after = take(usize::MAX, 1);

    assert_eq!((texts(&first), texts(&full)), (vec!["0".into(), "1".into()], vec![]));
    assert_eq!(
        (texts(&next), texts(&of_bytes), texts(&after)),
        (vec!["2".into()], vec![], vec!["3".into()],)
    );
    env.subscription.close_stream(stream);
    assert!(take(usize::MAX, usize::MAX).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_again_when_its_lease_ends_and_not_when_it_is_acknowledged() {
    let env = TestEnv::new(with_dead_letters());
    env.publish(vec![message("acknowledged"), message("late"), message("extended")]);
    let leased = take_up_to(&env.subscription, None, 3, usize::MAX, 0);
    env.subscription.acknowledge(&[leased[0].ack_id.clone()]);
    env.subscription.modify(&[(leased[2].ack_id.clone(), 60)]);

    tokio::time::advance(super::delivery::SCAN_INTERVAL).await;
    let again = take_up_to(&env.subscription, None, 3, usize::MAX, 60);

    assert_eq!(texts(&again), ["late"]);
    assert_eq!((leased[1].delivery_attempt, again[0].delivery_attempt), (1, 2));
    assert_ne!(leased[1].ack_id, again[0].ack_id);
    // The id of the lease that ended settles nothing.
    let unknown = env.subscription.acknowledge(&[leased[1].ack_id.clone(), "no id".into()]);
    assert_eq!(unknown, [leased[1].ack_id.clone(), "no id".into()]);
    assert_eq!(env.subscription.acknowledge(&[again[0].ack_id.clone()]), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_closed_stream_lasts_until_its_deadline() {
    let env = TestEnv::new(<_>::default());
    env.publish(vec![message("short"), message("long")]);
    let stream = env.subscription.open_stream();
    take_up_to(&env.subscription, Some(stream), 1, usize::MAX, 0);
    take_up_to(&env.subscription, Some(stream), 2, usize::MAX, 60);

    env.subscription.close_stream(stream);
    let at_once = take_up_to(&env.subscription, None, 2, usize::MAX, 60);
    tokio::time::advance(super::delivery::SCAN_INTERVAL).await;
    let later = take_up_to(&env.subscription, None, 2, usize::MAX, 60);

    assert_eq!((texts(&at_once), texts(&later)), (vec![], vec!["short".to_owned()]));
}

#[test]
fn attempts_are_reported_only_with_a_dead_letter_policy() {
    for (config, expected) in [(with_dead_letters(), [1, 2]), (<_>::default(), [0, 0])] {
        let env = TestEnv::new(config);
        env.publish(vec![message("x")]);

        let first = take(&env.subscription);
        env.nack(&first);
        let second = take(&env.subscription);

        assert_eq!([first[0].delivery_attempt, second[0].delivery_attempt], expected);
    }
}

#[test]
fn a_message_becomes_a_dead_letter_after_its_last_attempt_with_its_origin() {
    let env = TestEnv::new(with_dead_letters());
    let dead = env.dead();
    env.publish(vec![message("x")]);

    for _ in 0..4 {
        env.nack(&take(&env.subscription));
    }
    let before = take(&dead).len();
    let last = take(&env.subscription);
    env.nack(&last);
    let found = take(&dead);

    assert_eq!((before, last[0].delivery_attempt, texts(&found)), (0, 5, vec!["x".to_owned()]));
    let dead_letter = proto::PubsubMessage::decode(found[0].message.clone()).expect("a message");
    let attribute = |name: &str| dead_letter.attributes.get(name).map(String::as_str);
    let source = attribute("CloudPubSubDeadLetterSourceSubscription");
    let count = attribute("CloudPubSubDeadLetterSourceDeliveryCount");
    assert_eq!((source, count), (Some("subscription"), Some("5")));
    assert!(take(&env.subscription).is_empty());
}

#[test]
fn messages_of_one_key_go_to_one_puller_and_come_again_together() {
    let config = proto::Subscription { enable_message_ordering: true, ..<_>::default() };
    let env = TestEnv::new(config);
    env.publish(vec![keyed("1"), keyed("2"), keyed("3"), message("free")]);
    let (one, other) = (env.subscription.open_stream(), env.subscription.open_stream());
    let take =
        |stream, messages| take_up_to(&env.subscription, Some(stream), messages, usize::MAX, 60);

    let first = take(one, 2);
    let of_other = take(other, 10);
    env.nack(&first[..1]);
    let again = take(other, 10);

    assert_eq!(texts(&first), ["1", "2"]);
    assert_eq!(texts(&of_other), ["free"]);
    // The nack of the first one ends the lease of the second one.
    assert_eq!(texts(&again), ["1", "2", "3"]);
    let unknown = env.subscription.acknowledge(&[first[1].ack_id.clone()]);
    assert_eq!(unknown, [first[1].ack_id.clone()]);
}

#[test]
fn pages_of_names_have_every_name_once() {
    let env = TestEnv::new(<_>::default());
    for id in ["a", "b", "c"] {
        let name = format!("projects/p/topics/{id}-page");
        env.pubsub.create_topic(proto::Topic { name, ..<_>::default() }).expect("a topic");
    }
    let page = |size: i32, token: &str| {
        let page = admin::PageRequest { size, token: token.to_owned() };
        let (topics, next) = env.pubsub.list_topics("projects/p", page)?;
        let ids = topics.iter().map(|topic| leaf(&topic.name).to_owned()).collect::<Vec<_>>();
        Ok::<_, Status>((ids.join(" "), next))
    };

    let (first, token) = page(3, "").expect("a page");
    let (second, end) = page(3, &token).expect("a page");

    assert_eq!(
        (first.as_str(), token.as_str()),
        ("a-page b-page c-page", "projects/p/topics/c-page")
    );
    assert_eq!((second.as_str(), end.as_str()), ("dead topic", ""));
    assert_eq!(page(0, "").expect("a page").1, "");
    assert_eq!(page(-1, "").err().map(|one| one.code), Some(tonic::Code::InvalidArgument));
}
