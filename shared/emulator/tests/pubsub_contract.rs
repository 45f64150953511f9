//! Contract tests of Pub/Sub. This emulator and, if it is installed, Google's must give the same
//! answers.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[macro_use]
mod google;

use std::collections::HashMap;
use std::time::Duration;

use emulator::{Emulator, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_pubsub::client::{Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{DeadLetterPolicy, Message};
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1;
use tokio::time::timeout;
use tonic::transport::Channel;
use v1::publisher_client::PublisherClient;
use v1::subscriber_client::SubscriberClient;

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time without an event that counts as no event.
const QUIET: Duration = Duration::from_millis(500);

/// A Pub/Sub to test, with separate names for each test.
struct Cloud {
    url: String,
    project: String,
    _ours: Option<Emulator>,
}

impl Cloud {
    fn topic(&self, id: &str) -> String {
        format!("projects/{}/topics/{id}", self.project)
    }

    fn subscription(&self, id: &str) -> String {
        format!("projects/{}/subscriptions/{id}", self.project)
    }

    async fn topics(&self) -> TopicAdmin {
        let builder = TopicAdmin::builder().with_endpoint(&self.url).with_retry_policy(NeverRetry);
        builder.with_credentials(anonymous::Builder::new().build()).build().await.unwrap()
    }

    async fn subscriptions(&self) -> SubscriptionAdmin {
        let builder =
            SubscriptionAdmin::builder().with_endpoint(&self.url).with_retry_policy(NeverRetry);
        builder.with_credentials(anonymous::Builder::new().build()).build().await.unwrap()
    }

    async fn publisher(&self, topic: &str) -> Publisher {
        let builder = Publisher::builder(topic).with_endpoint(&self.url);
        let builder = builder.with_retry_policy(NeverRetry);
        builder.with_credentials(anonymous::Builder::new().build()).build().await.unwrap()
    }

    async fn subscriber(&self) -> Subscriber {
        let builder = Subscriber::builder().with_endpoint(&self.url);
        builder.with_credentials(anonymous::Builder::new().build()).build().await.unwrap()
    }

    /// Creates a topic and a subscription that keeps the order of keys.
    async fn ordered_pair(&self) -> (String, String) {
        let (topic, subscription) = (self.topic("topic"), self.subscription("ordered"));
        self.topics().await.create_topic().set_name(&topic).send().await.unwrap();
        let subscriptions = self.subscriptions().await;
        let create = subscriptions.create_subscription().set_name(&subscription).set_topic(&topic);
        create.set_enable_message_ordering(true).send().await.unwrap();
        (topic, subscription)
    }

    /// Creates a topic and a subscription to it.
    async fn pair(&self) -> (String, String) {
        let (topic, subscription) = (self.topic("topic"), self.subscription("subscription"));
        self.topics().await.create_topic().set_name(&topic).send().await.unwrap();
        let subscriptions = self.subscriptions().await;
        let create = subscriptions.create_subscription().set_name(&subscription).set_topic(&topic);
        create.set_ack_deadline_seconds(10).send().await.unwrap();
        (topic, subscription)
    }

    async fn publish(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        let publisher = self.publisher(topic).await;
        let sent: Vec<_> = messages.into_iter().map(|message| publisher.publish(message)).collect();
        publisher.flush().await;
        for sent in sent {
            sent.await.unwrap();
        }
    }
}

fn message(data: &str) -> Message {
    Message::new().set_data(data.to_owned())
}

async fn next(stream: &mut MessageStream) -> (Message, Handler) {
    timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap()
}

async fn assert_quiet(stream: &mut MessageStream) {
    let nothing = timeout(QUIET, stream.next()).await;
    assert!(nothing.is_err(), "nothing should come");
}

fn text(message: &Message) -> String {
    String::from_utf8(message.data.to_vec()).unwrap()
}

async fn topics_live_from_creation_to_deletion(cloud: &Cloud) {
    let topics = cloud.topics().await;
    let name = cloud.topic("life");

    let created =
        topics.create_topic().set_name(&name).set_labels([("a", "b")]).send().await.unwrap();
    let again = topics.create_topic().set_name(&name).send().await.unwrap_err();
    let found = topics.get_topic().set_topic(&name).send().await.unwrap();
    let listed = topics.list_topics().set_project(format!("projects/{}", cloud.project));
    let listed = listed.send().await.unwrap();
    topics.delete_topic().set_topic(&name).send().await.unwrap();
    let gone = topics.get_topic().set_topic(&name).send().await.unwrap_err();

    assert_eq!((created.name, created.labels["a"].as_str()), (name.clone(), "b"));
    assert_eq!(again.http_status_code(), Some(409));
    assert_eq!(found.name, name);
    assert_eq!(listed.topics.iter().map(|topic| &topic.name).collect::<Vec<_>>(), [&name]);
    assert_eq!(gone.http_status_code(), Some(404));
}

async fn invalid_names_are_refused(cloud: &Cloud) {
    let topics = cloud.topics().await;

    for id in ["ab", "1abc", "goog-topic", "a$b"] {
        let refused = topics.create_topic().set_name(cloud.topic(id)).send().await.unwrap_err();
        assert_eq!(refused.http_status_code(), Some(400), "{id}");
    }
}

async fn subscriptions_live_from_creation_to_deletion(cloud: &Cloud) {
    let (topic, name) = cloud.pair().await;
    let subscriptions = cloud.subscriptions().await;
    let create = |id: &str, topic: &str| {
        subscriptions.create_subscription().set_name(cloud.subscription(id)).set_topic(topic)
    };

    let found = subscriptions.get_subscription().set_subscription(&name).send().await.unwrap();
    let of_topic = cloud.topics().await.list_topic_subscriptions().set_topic(&topic);
    let of_topic = of_topic.send().await.unwrap();
    let again = create("subscription", &topic).send().await.unwrap_err();
    let no_topic = create("other", &cloud.topic("missing")).send().await.unwrap_err();
    let deadline = create("slow", &topic).set_ack_deadline_seconds(601).send().await.unwrap_err();
    subscriptions.delete_subscription().set_subscription(&name).send().await.unwrap();
    let gone = subscriptions.get_subscription().set_subscription(&name).send().await.unwrap_err();

    assert_eq!((found.topic.as_str(), found.ack_deadline_seconds), (topic.as_str(), 10));
    assert_eq!(of_topic.subscriptions, [name]);
    assert_eq!(again.http_status_code(), Some(409));
    assert_eq!(no_topic.http_status_code(), Some(404));
    assert_eq!(deadline.http_status_code(), Some(400));
    assert_eq!(gone.http_status_code(), Some(404));
}

async fn messages_arrive_whole(cloud: &Cloud) {
    let (topic, subscription) = cloud.pair().await;
    let sent = message("data").set_attributes([("key", "value")]).set_ordering_key("k");

    cloud.publish(&topic, [sent]).await;
    let mut stream = cloud.subscriber().await.subscribe(&subscription).build();
    let (received, handler) = next(&mut stream).await;
    handler.ack();

    assert_eq!(text(&received), "data");
    assert_eq!(received.attributes, HashMap::from([("key".to_owned(), "value".to_owned())]));
    assert_eq!(received.ordering_key, "k");
    assert!(!received.message_id.is_empty());
    assert!(received.publish_time.is_some());
    assert_quiet(&mut stream).await;
}

async fn every_subscription_gets_every_message(cloud: &Cloud) {
    let (topic, first) = cloud.pair().await;
    let second = cloud.subscription("second");
    let subscriptions = cloud.subscriptions().await;
    subscriptions.create_subscription().set_name(&second).set_topic(&topic).send().await.unwrap();

    cloud.publish(&topic, [message("data")]).await;

    for subscription in [first, second] {
        let mut stream = cloud.subscriber().await.subscribe(&subscription).build();
        assert_eq!(text(&next(&mut stream).await.0), "data");
    }
}

async fn an_empty_message_is_refused(cloud: &Cloud) {
    let (topic, _) = cloud.pair().await;
    let publisher = cloud.publisher(&topic).await;

    let sent = publisher.publish(Message::new());
    publisher.flush().await;

    assert_code(sent.await.unwrap_err(), Code::InvalidArgument);
}

async fn attributes_beyond_the_limits_are_refused(cloud: &Cloud) {
    let (topic, _) = cloud.pair().await;
    let publisher = cloud.publisher(&topic).await;
    let long = "v".repeat(1025);
    let refused = [
        message("x").set_attributes([("key", long.as_str())]),
        message("x").set_attributes([(&*"k".repeat(257), "value")]),
        message("x").set_attributes((0..101).map(|key| (key.to_string(), "value".to_owned()))),
    ];

    for message in refused {
        let sent = publisher.publish(message);
        publisher.flush().await;
        assert_code(sent.await.unwrap_err(), Code::InvalidArgument);
    }
}

async fn a_publish_to_a_missing_topic_is_not_found(cloud: &Cloud) {
    let publisher = cloud.publisher(&cloud.topic("missing")).await;

    let sent = publisher.publish(message("x"));
    publisher.flush().await;

    assert_code(sent.await.unwrap_err(), Code::NotFound);
}

fn assert_code(error: google_cloud_pubsub::error::PublishError, code: Code) {
    match error {
        google_cloud_pubsub::error::PublishError::Rpc(error) => {
            assert_eq!(error.status().map(|status| status.code), Some(code), "{error}");
        }
        other => panic!("{other}"),
    }
}

async fn a_nacked_message_comes_again(cloud: &Cloud) {
    let (topic, subscription) = cloud.pair().await;
    cloud.publish(&topic, [message("data")]).await;
    let mut stream = cloud.subscriber().await.subscribe(&subscription).build();

    let (first, handler) = next(&mut stream).await;
    handler.nack();
    let (second, handler) = next(&mut stream).await;
    handler.ack();

    assert_eq!(first.message_id, second.message_id);
    assert_quiet(&mut stream).await;
}

async fn an_unacknowledged_message_comes_again_after_its_deadline(cloud: &Cloud) {
    let (topic, subscription) = cloud.pair().await;
    cloud.publish(&topic, [message("data")]).await;
    let rest = Rest::new(cloud, &subscription);

    let first = rest.pull().await;
    let second = rest.pull().await;
    rest.acknowledge(&second).await;

    assert_eq!(first["message"]["messageId"], second["message"]["messageId"]);
    assert_ne!(first["ackId"], second["ackId"]);
}

async fn flow_control_bounds_what_is_out(cloud: &Cloud) {
    let (topic, subscription) = cloud.pair().await;
    cloud.publish(&topic, (0..10).map(|index| message(&index.to_string()))).await;
    let subscriber = cloud.subscriber().await;
    let mut stream = subscriber.subscribe(&subscription).set_max_outstanding_messages(4).build();

    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&mut stream).await.1);
    }
    assert_quiet(&mut stream).await;
    held.into_iter().for_each(Handler::ack);
    for _ in 0..6 {
        next(&mut stream).await.1.ack();
    }
}

async fn messages_of_an_ordering_key_keep_their_order(cloud: &Cloud) {
    let (topic, subscription) = cloud.ordered_pair().await;
    let keyed = |index: i32| message(&index.to_string()).set_ordering_key((index % 3).to_string());

    cloud.publish(&topic, (0..30).map(keyed)).await;

    let mut stream = cloud.subscriber().await.subscribe(&subscription).build();
    let mut last: HashMap<String, i32> = HashMap::new();
    for _ in 0..30 {
        let (message, handler) = next(&mut stream).await;
        let index = text(&message).parse().unwrap();
        let before = last.insert(message.ordering_key, index);
        assert!(before.is_none_or(|before| before < index), "{before:?} before {index}");
        handler.ack();
    }
}

async fn a_pull_gets_nothing_of_a_key_that_an_earlier_pull_holds(cloud: &Cloud) {
    let (topic, subscription) = cloud.ordered_pair().await;
    let keyed = |key: &str| message("data").set_ordering_key(key);
    cloud.publish(&topic, ["a", "a", "b"].map(keyed)).await;
    let rest = Rest::new(cloud, &subscription);
    let key = |received: &serde_json::Value| received["message"]["orderingKey"].clone();

    let first = rest.pull().await;
    let second = rest.pull().await;
    assert_eq!((key(&first), key(&second)), ("a".into(), "b".into()));
    rest.acknowledge(&first).await;
    let third = rest.pull().await;

    assert_eq!(key(&third), "a");
    assert_ne!(first["message"]["messageId"], third["message"]["messageId"]);
}

async fn a_nacked_ordered_message_comes_again_with_all_that_follow(cloud: &Cloud) {
    let (topic, subscription) = cloud.ordered_pair().await;
    let keyed = |index: i32| message(&index.to_string()).set_ordering_key("key");
    cloud.publish(&topic, (0..5).map(keyed)).await;

    let mut stream = cloud.subscriber().await.subscribe(&subscription).build();
    next(&mut stream).await.1.nack();
    let mut acked = Vec::new();
    while acked.len() < 5 {
        let (message, handler) = next(&mut stream).await;
        let index: usize = text(&message).parse().unwrap();
        // Some messages of the first round may still be on their way.
        if index == acked.len() {
            acked.push(index);
            handler.ack();
        } else {
            handler.nack();
        }
    }

    assert_eq!(acked, [0, 1, 2, 3, 4]);
}

async fn a_message_that_is_nacked_too_often_becomes_a_dead_letter(cloud: &Cloud) {
    let (topic, subscription) = (cloud.topic("topic"), cloud.subscription("strict"));
    let (dead_letters, buried) = (cloud.topic("graves"), cloud.subscription("buried"));
    let topics = cloud.topics().await;
    topics.create_topic().set_name(&topic).send().await.unwrap();
    topics.create_topic().set_name(&dead_letters).send().await.unwrap();
    let policy =
        DeadLetterPolicy::new().set_dead_letter_topic(&dead_letters).set_max_delivery_attempts(5);
    let subscriptions = cloud.subscriptions().await;
    let create = subscriptions.create_subscription().set_name(&subscription).set_topic(&topic);
    create.set_dead_letter_policy(policy).send().await.unwrap();
    let create = subscriptions.create_subscription().set_name(&buried).set_topic(&dead_letters);
    create.send().await.unwrap();
    cloud.publish(&topic, [message("data").set_attributes([("key", "value")])]).await;

    let subscriber = cloud.subscriber().await;
    let mut stream = subscriber.subscribe(&subscription).build();
    let mut attempts = Vec::new();
    for _ in 0..5 {
        let (_, handler) = next(&mut stream).await;
        attempts.push(handler.delivery_attempt().unwrap());
        handler.nack();
    }
    let mut stream = subscriber.subscribe(&buried).build();
    let (dead_letter, handler) = next(&mut stream).await;
    handler.ack();

    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    assert_eq!(text(&dead_letter), "data");
    assert_eq!(dead_letter.attributes["key"], "value");
    let source = &dead_letter.attributes["CloudPubSubDeadLetterSourceSubscription"];
    assert_eq!(source, "strict");
}

async fn an_exactly_once_acknowledgement_is_confirmed(cloud: &Cloud) {
    let (topic, subscription) = (cloud.topic("topic"), cloud.subscription("once"));
    cloud.topics().await.create_topic().set_name(&topic).send().await.unwrap();
    let subscriptions = cloud.subscriptions().await;
    let create = subscriptions.create_subscription().set_name(&subscription).set_topic(&topic);
    create.set_enable_exactly_once_delivery(true).send().await.unwrap();
    cloud.publish(&topic, [message("data")]).await;

    let mut stream = cloud.subscriber().await.subscribe(&subscription).build();
    let (_, handler) = next(&mut stream).await;
    let Handler::ExactlyOnce(handler) = handler else { panic!("not exactly once") };

    timeout(PATIENCE, handler.confirmed_ack()).await.unwrap().unwrap();
    assert_quiet(&mut stream).await;
}

async fn topics_and_subscriptions_are_managed_over_grpc_too(cloud: &Cloud) {
    let channel = Channel::from_shared(cloud.url.clone()).unwrap().connect().await.unwrap();
    let mut publisher = PublisherClient::new(channel.clone());
    let mut subscriber = SubscriberClient::new(channel);
    let (name, of) = (cloud.topic("topic"), cloud.subscription("subscription"));
    let topic = v1::Topic { name: name.clone(), ..v1::Topic::default() };

    let created = publisher.create_topic(topic.clone()).await.unwrap().into_inner();
    let again = publisher.create_topic(topic).await.unwrap_err();
    let subscription = v1::Subscription {
        name: of.clone(),
        topic: name.clone(),
        ack_deadline_seconds: 10,
        ..v1::Subscription::default()
    };
    subscriber.create_subscription(subscription.clone()).await.unwrap();
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription { ack_deadline_seconds: 20, ..subscription }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["ack_deadline_seconds".into()] }),
    };
    subscriber.update_subscription(update).await.unwrap();
    let get = v1::GetSubscriptionRequest { subscription: of.clone() };
    let found = subscriber.get_subscription(get.clone()).await.unwrap().into_inner();
    let project = format!("projects/{}", cloud.project);
    let list = v1::ListSubscriptionsRequest { project, ..v1::ListSubscriptionsRequest::default() };
    let listed = subscriber.list_subscriptions(list).await.unwrap().into_inner();
    let delete = v1::DeleteSubscriptionRequest { subscription: of.clone() };
    subscriber.delete_subscription(delete).await.unwrap();
    let gone = subscriber.get_subscription(get).await.unwrap_err();
    publisher.delete_topic(v1::DeleteTopicRequest { topic: name.clone() }).await.unwrap();
    let no_topic =
        publisher.get_topic(v1::GetTopicRequest { topic: name.clone() }).await.unwrap_err();

    assert_eq!(created.name, name);
    assert_eq!(again.code(), tonic::Code::AlreadyExists);
    assert_eq!((found.topic, found.ack_deadline_seconds), (name, 20));
    assert_eq!(listed.subscriptions.into_iter().map(|one| one.name).collect::<Vec<_>>(), [of]);
    assert_eq!((gone.code(), no_topic.code()), (tonic::Code::NotFound, tonic::Code::NotFound));
}

async fn a_retry_policy_delays_a_nacked_message(cloud: &Cloud) {
    let (topic, subscription) = (cloud.topic("topic"), cloud.subscription("patient"));
    cloud.topics().await.create_topic().set_name(&topic).send().await.unwrap();
    let backoff = google_cloud_pubsub::model::RetryPolicy::new()
        .set_minimum_backoff(google_cloud_wkt::Duration::clamp(2, 0))
        .set_maximum_backoff(google_cloud_wkt::Duration::clamp(2, 0));
    let subscriptions = cloud.subscriptions().await;
    let create = subscriptions.create_subscription().set_name(&subscription).set_topic(&topic);
    create.set_retry_policy(backoff).send().await.unwrap();
    cloud.publish(&topic, [message("data")]).await;

    let mut stream = cloud.subscriber().await.subscribe(&subscription).build();
    next(&mut stream).await.1.nack();
    let nacked = std::time::Instant::now();
    next(&mut stream).await.1.ack();

    // Only the lower limit is checked: the upper one depends on the machine.
    assert!(nacked.elapsed() >= Duration::from_secs(1), "{:?}", nacked.elapsed());
}

/// Pull and acknowledge over plain HTTP.
struct Rest {
    client: reqwest::Client,
    url: String,
}

impl Rest {
    fn new(cloud: &Cloud, subscription: &str) -> Self {
        Self { client: reqwest::Client::new(), url: format!("{}/v1/{subscription}", cloud.url) }
    }

    async fn pull(&self) -> serde_json::Value {
        let request = serde_json::json!({ "maxMessages": 1 });
        timeout(PATIENCE, async {
            loop {
                let answer = self.client.post(format!("{}:pull", self.url)).json(&request);
                let answer = answer.send().await.unwrap().error_for_status().unwrap();
                let mut answer: serde_json::Value = answer.json().await.unwrap();
                if let Some(received) = answer["receivedMessages"].get_mut(0) {
                    return received.take();
                }
            }
        })
        .await
        .unwrap()
    }

    async fn acknowledge(&self, received: &serde_json::Value) {
        let request = serde_json::json!({ "ackIds": [received["ackId"]] });
        let answer = self.client.post(format!("{}:acknowledge", self.url)).json(&request);
        answer.send().await.unwrap().error_for_status().unwrap();
    }
}

contracts!(
    both: topics_live_from_creation_to_deletion,
    topics_and_subscriptions_are_managed_over_grpc_too,
    invalid_names_are_refused,
    subscriptions_live_from_creation_to_deletion,
    messages_arrive_whole,
    every_subscription_gets_every_message,
    an_empty_message_is_refused,
    a_publish_to_a_missing_topic_is_not_found,
    a_nacked_message_comes_again,
    an_unacknowledged_message_comes_again_after_its_deadline,
    messages_of_an_ordering_key_keep_their_order,
    a_nacked_ordered_message_comes_again_with_all_that_follow,
    a_message_that_is_nacked_too_often_becomes_a_dead_letter,
    an_exactly_once_acknowledgement_is_confirmed;
    // Google's emulator ignores attribute limits, flow control and retry policies. Its service does
    // not: https://cloud.google.com/pubsub/quotas, .../docs/flow-control-messages and
    // .../docs/handling-failures#exponential_backoff. The emulator also gives later messages of a
    // key to the next pull. So a lost reply breaks the order that .../docs/ordering promises.
    ours: attributes_beyond_the_limits_are_refused,
    a_pull_gets_nothing_of_a_key_that_an_earlier_pull_holds,
    flow_control_bounds_what_is_out,
    a_retry_policy_delays_a_nacked_message,
);

async fn ours() -> Cloud {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    Cloud { url: emulator.url(), project: "test".into(), _ours: Some(emulator) }
}

/// Uses Google's emulator with a project named after the test, because the emulator keeps its data.
async fn googles(test: &str) -> Option<Cloud> {
    let url = google::start(&google::PUBSUB).await?;
    Some(Cloud { url, project: test.replace('_', "-"), _ours: None })
}

fn install_crypto() {
    // An error means that another test has installed it already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
