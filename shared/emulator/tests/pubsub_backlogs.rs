//! Tests of filters, seek, snapshots, push and detach, over gRPC and REST.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use emulator::{Emulator, Options};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use v1::publisher_client::PublisherClient;
use v1::seek_request::Target;
use v1::subscriber_client::SubscriberClient;

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "projects/p/topics/topic";
const SUBSCRIPTION: &str = "projects/p/subscriptions/subscription";
const SNAPSHOT: &str = "projects/p/snapshots/snapshot";

/// An emulator with a topic, and its clients.
struct Cloud {
    emulator: Emulator,
    publisher: PublisherClient<Channel>,
    subscriber: SubscriberClient<Channel>,
}

impl Cloud {
    async fn start(topic: v1::Topic) -> Self {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let channel = Channel::from_shared(emulator.url()).unwrap().connect_lazy();
        let mut publisher = PublisherClient::new(channel.clone());
        publisher.create_topic(v1::Topic { name: TOPIC.into(), ..topic }).await.unwrap();
        Self { emulator, publisher, subscriber: SubscriberClient::new(channel) }
    }

    async fn subscribe(
        &mut self,
        config: v1::Subscription,
    ) -> Result<v1::Subscription, tonic::Status> {
        let (name, topic) = (SUBSCRIPTION.into(), TOPIC.into());
        let config = v1::Subscription { name, topic, ..config };
        Ok(self.subscriber.create_subscription(config).await?.into_inner())
    }

    async fn publish(&mut self, texts: &[&str]) {
        let messages = texts.iter().map(|text| v1::PubsubMessage {
            data: text.as_bytes().to_vec().into(),
            attributes: [("kind".to_owned(), (*text).to_owned())].into(),
            ..<_>::default()
        });
        let (topic, messages) = (TOPIC.into(), messages.collect());
        self.publisher.publish(v1::PublishRequest { topic, messages }).await.unwrap();
    }

    /// Pulls the messages that are available now: their texts in order, and their acknowledgement
    /// ids.
    async fn pull(&mut self) -> (Vec<String>, Vec<String>) {
        let pulled = self.try_pull().await.unwrap().received_messages;
        let text = |one: &v1::ReceivedMessage| {
            String::from_utf8(one.message.as_ref().unwrap().data.to_vec()).unwrap()
        };
        pulled.iter().map(|one| (text(one), one.ack_id.clone())).unzip()
    }

    async fn try_pull(&mut self) -> Result<v1::PullResponse, tonic::Status> {
        #[expect(deprecated, reason = "it tells what is there without a wait")]
        let pull = v1::PullRequest {
            subscription: SUBSCRIPTION.into(),
            return_immediately: true,
            max_messages: 100,
        };
        Ok(self.subscriber.pull(pull).await?.into_inner())
    }

    async fn acknowledge(&mut self, ack_ids: Vec<String>) {
        let subscription = SUBSCRIPTION.into();
        self.subscriber
            .acknowledge(v1::AcknowledgeRequest { subscription, ack_ids })
            .await
            .unwrap();
    }

    /// Opens a streaming pull without limits, and returns the sender of its requests and its
    /// answers.
    async fn stream(
        &mut self,
    ) -> (mpsc::UnboundedSender<v1::StreamingPullRequest>, Streaming<v1::StreamingPullResponse>)
    {
        let (sender, requests) = mpsc::unbounded_channel();
        let subscription = SUBSCRIPTION.into();
        sender.send(v1::StreamingPullRequest { subscription, ..ten_seconds() }).unwrap();
        let requests = UnboundedReceiverStream::new(requests);
        let mut answers = self.subscriber.streaming_pull(requests).await.unwrap().into_inner();
        // The first answer has no messages.
        timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        (sender, answers)
    }

    async fn seek(&mut self, target: Target) -> Result<(), tonic::Status> {
        let (subscription, target) = (SUBSCRIPTION.into(), Some(target));
        self.subscriber.seek(v1::SeekRequest { subscription, target }).await.map(drop)
    }
}

fn ten_seconds() -> v1::StreamingPullRequest {
    v1::StreamingPullRequest { stream_ack_deadline_seconds: 10, ..<_>::default() }
}

fn retaining() -> v1::Subscription {
    v1::Subscription { retain_acked_messages: true, ..<_>::default() }
}

fn time(offset: i64) -> Target {
    let mut time = prost_types::Timestamp::from(SystemTime::now());
    time.seconds += offset;
    Target::Time(time)
}

#[tokio::test]
async fn a_filter_lets_only_its_messages_pass() {
    let mut cloud = Cloud::start(<_>::default()).await;
    let filter = r#"hasPrefix(attributes.kind, "a") AND NOT attributes.kind = "ab""#;
    let filtered = |filter: &str| v1::Subscription { filter: filter.into(), ..<_>::default() };

    let wrong = cloud.subscribe(filtered("kind = \"a\"")).await.unwrap_err();
    let mut config = cloud.subscribe(filtered(filter)).await.unwrap();
    cloud.publish(&["a", "b", "ab", "ac"]).await;
    let (texts, _) = cloud.pull().await;
    config.filter = "attributes:x".into();
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(config),
        update_mask: Some(prost_types::FieldMask { paths: vec!["filter".into()] }),
    };
    let fixed = cloud.subscriber.update_subscription(update).await.unwrap_err();

    assert_eq!(texts, ["a", "ac"]);
    assert_eq!((wrong.code(), fixed.code()), (Code::InvalidArgument, Code::InvalidArgument));
}

#[tokio::test]
async fn seek_to_a_time_brings_back_or_drops() {
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(retaining()).await.unwrap();
    cloud.publish(&["1", "2"]).await;
    let (_, ack_ids) = cloud.pull().await;
    cloud.acknowledge(ack_ids).await;
    cloud.publish(&["3"]).await;

    cloud.seek(time(-60)).await.unwrap();
    let (again, _) = cloud.pull().await;
    cloud.seek(time(60)).await.unwrap();
    let (nothing, _) = cloud.pull().await;
    cloud.seek(time(-60)).await.unwrap();
    let (all, _) = cloud.pull().await;

    assert_eq!(again, ["1", "2", "3"]);
    assert!(nothing.is_empty(), "{nothing:?}");
    assert_eq!(all, ["1", "2", "3"]);
}

#[tokio::test]
async fn seek_brings_back_only_what_was_retained() {
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(<_>::default()).await.unwrap();
    cloud.publish(&["acknowledged"]).await;
    let (_, ack_ids) = cloud.pull().await;
    cloud.acknowledge(ack_ids).await;
    cloud.publish(&["out"]).await;
    let (out, _) = cloud.pull().await;

    cloud.seek(time(-60)).await.unwrap();
    let (nothing, _) = cloud.pull().await;

    assert_eq!(out, ["out"]);
    assert!(nothing.is_empty(), "a message that is out stays out: {nothing:?}");
}

#[tokio::test]
async fn a_topic_keeps_messages_for_subscriptions_to_come() {
    let hour = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let topic = v1::Topic { message_retention_duration: hour, ..<_>::default() };
    let mut cloud = Cloud::start(topic).await;
    cloud.publish(&["early"]).await;
    let config = cloud.subscribe(<_>::default()).await.unwrap();
    let (before, _) = cloud.pull().await;

    cloud.seek(time(-60)).await.unwrap();
    let (after, _) = cloud.pull().await;

    assert_eq!(config.topic_message_retention_duration, hour);
    assert_eq!((before, after), (vec![], vec!["early".to_owned()]));
}

#[tokio::test]
async fn a_snapshot_keeps_what_was_open_and_all_that_follows() {
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(<_>::default()).await.unwrap();
    cloud.publish(&["done", "open"]).await;
    let (_, ack_ids) = cloud.pull().await;
    cloud.acknowledge(vec![ack_ids[0].clone()]).await;

    let (name, subscription) = (SNAPSHOT.to_owned(), SUBSCRIPTION.to_owned());
    let create = v1::CreateSnapshotRequest { name, subscription, ..<_>::default() };
    let created = cloud.subscriber.create_snapshot(create.clone()).await.unwrap().into_inner();
    let twice = cloud.subscriber.create_snapshot(create).await.unwrap_err();
    cloud.acknowledge(vec![ack_ids[1].clone()]).await;
    cloud.publish(&["later"]).await;
    let (_, ack_ids) = cloud.pull().await;
    cloud.acknowledge(ack_ids).await;
    cloud.seek(Target::Snapshot(SNAPSHOT.into())).await.unwrap();
    let (texts, _) = cloud.pull().await;
    let topic = v1::ListTopicSnapshotsRequest { topic: TOPIC.into(), ..<_>::default() };
    let listed = cloud.publisher.list_topic_snapshots(topic).await.unwrap().into_inner();
    let delete = v1::DeleteSnapshotRequest { snapshot: SNAPSHOT.into() };
    cloud.subscriber.delete_snapshot(delete).await.unwrap();
    let gone = cloud.seek(Target::Snapshot(SNAPSHOT.into())).await.unwrap_err();

    assert_eq!(created.topic, TOPIC);
    assert_eq!((twice.code(), gone.code()), (Code::AlreadyExists, Code::NotFound));
    assert_eq!(texts, ["open", "later"]);
    assert_eq!(listed.snapshots, [SNAPSHOT]);
}

#[tokio::test]
async fn ordered_messages_come_again_in_their_order() {
    let mut cloud = Cloud::start(<_>::default()).await;
    let ordered = v1::Subscription { enable_message_ordering: true, ..retaining() };
    cloud.subscribe(ordered).await.unwrap();
    let message = |text: &str| v1::PubsubMessage {
        data: text.as_bytes().to_vec().into(),
        ordering_key: "key".into(),
        ..<_>::default()
    };
    let messages = ["1", "2", "3"].map(message).to_vec();
    let publish = v1::PublishRequest { topic: TOPIC.into(), messages };
    cloud.publisher.publish(publish).await.unwrap();
    let (_, ack_ids) = cloud.pull().await;
    cloud.acknowledge(vec![ack_ids[0].clone()]).await;

    cloud.seek(time(-60)).await.unwrap();
    let (texts, _) = cloud.pull().await;

    assert_eq!(texts, ["1", "2", "3"]);
}

/// An endpoint that refuses its first requests and reports all of them.
struct EndpointServer {
    url: String,
    requests: mpsc::UnboundedReceiver<Value>,
    _server: JoinSet<()>,
}

impl EndpointServer {
    async fn start(refusals: usize) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let answer = move |body: axum::Json<Value>| {
            let count = count.fetch_add(1, Ordering::Relaxed);
            sender.send(body.0).unwrap();
            async move { if count < refusals { StatusCode::NOT_FOUND } else { StatusCode::ACCEPTED } }
        };
        let router = axum::Router::new().fallback(answer);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}/push", listener.local_addr().unwrap().port());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, requests, _server: server }
    }

    async fn next(&mut self) -> Value {
        timeout(PATIENCE, self.requests.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_push_is_repeated_until_the_endpoint_takes_it() {
    let mut cloud = Cloud::start(<_>::default()).await;
    let mut endpoint = EndpointServer::start(2).await;
    let push = |url: &str| Some(v1::PushConfig { push_endpoint: url.into(), ..<_>::default() });
    let config = v1::Subscription { push_config: push(&endpoint.url), ..<_>::default() };
    cloud.subscribe(config).await.unwrap();
    let refused = cloud.try_pull().await.unwrap_err();

    cloud.publish(&["pushed"]).await;
    let (first, second, third) =
        (endpoint.next().await, endpoint.next().await, endpoint.next().await);
    cloud.publish(&["next"]).await;
    let next = endpoint.next().await;

    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(first["subscription"], SUBSCRIPTION);
    assert_eq!(first["message"]["data"], "cHVzaGVk");
    assert_eq!(first["message"]["attributes"]["kind"], "pushed");
    assert_eq!(first["message"]["messageId"], first["message"]["message_id"]);
    assert_eq!((&first, &first), (&second, &third));
    assert_eq!(next["message"]["attributes"]["kind"], "next");
}

#[tokio::test]
async fn a_subscription_changes_between_push_and_pull() {
    let mut cloud = Cloud::start(<_>::default()).await;
    let mut endpoint = EndpointServer::start(0).await;
    cloud.subscribe(<_>::default()).await.unwrap();
    cloud.publish(&["waiting"]).await;
    let modify = |url: &str| v1::ModifyPushConfigRequest {
        subscription: SUBSCRIPTION.into(),
        push_config: Some(v1::PushConfig { push_endpoint: url.into(), ..<_>::default() }),
    };

    cloud.subscriber.modify_push_config(modify(&endpoint.url)).await.unwrap();
    let pushed = endpoint.next().await;
    cloud.subscriber.modify_push_config(modify("")).await.unwrap();
    cloud.publish(&["pulled"]).await;
    let elsewhere = modify("http://example.com/push");
    let elsewhere = cloud.subscriber.modify_push_config(elsewhere).await.unwrap_err();

    assert_eq!(pushed["message"]["attributes"]["kind"], "waiting");
    assert!(cloud.pull().await.0.contains(&"pulled".to_owned()));
    assert_eq!(elsewhere.code(), Code::InvalidArgument);
    assert!(elsewhere.message().contains("this machine"), "{elsewhere}");
}

#[tokio::test]
async fn a_detached_subscription_gives_and_gets_nothing() {
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(<_>::default()).await.unwrap();
    cloud.publish(&["lost"]).await;

    let detach = v1::DetachSubscriptionRequest { subscription: SUBSCRIPTION.into() };
    cloud.publisher.detach_subscription(detach).await.unwrap();

    assert_eq!(cloud.try_pull().await.unwrap_err().code(), Code::FailedPrecondition);
    let get = v1::GetSubscriptionRequest { subscription: SUBSCRIPTION.into() };
    assert!(cloud.subscriber.get_subscription(get).await.unwrap().into_inner().detached);
    let list = v1::ListTopicSubscriptionsRequest { topic: TOPIC.into(), ..<_>::default() };
    let listed = cloud.publisher.list_topic_subscriptions(list).await.unwrap().into_inner();
    assert!(listed.subscriptions.is_empty());
}

#[tokio::test]
async fn rest_knows_snapshots_and_seek_and_names_what_is_not_there() {
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(retaining()).await.unwrap();
    cloud.publish(&["kept"]).await;
    let url = |path: &str| format!("{}/v1/{path}", cloud.emulator.url());
    let client = reqwest::Client::new();

    let body = json!({ "subscription": SUBSCRIPTION });
    let created = client.put(url(SNAPSHOT)).json(&body).send().await.unwrap();
    let listed = client.get(url("projects/p/snapshots")).send().await.unwrap();
    let listed: Value = listed.json().await.unwrap();
    let seek = url(&format!("{SUBSCRIPTION}:seek"));
    let sought = client.post(seek).json(&json!({ "snapshot": SNAPSHOT })).send().await.unwrap();
    let schemas = client.get(url("projects/p/schemas")).send().await.unwrap();
    let policy = client.get(url(&format!("{TOPIC}:getIamPolicy"))).send().await.unwrap();

    assert!(created.status().is_success() && sought.status().is_success());
    assert_eq!(listed["snapshots"][0]["name"], SNAPSHOT);
    let detach = url(&format!("{SUBSCRIPTION}:detach"));
    assert!(client.post(detach).send().await.unwrap().status().is_success());
    let pull = url(&format!("{SUBSCRIPTION}:pull"));
    let detached = client.post(pull).json(&json!({ "maxMessages": 1 })).send().await.unwrap();
    assert_eq!(detached.status(), StatusCode::BAD_REQUEST, "a failed precondition");
    for (refused, name) in [(schemas, "schemas"), (policy, "getIamPolicy")] {
        assert_eq!(refused.status(), StatusCode::NOT_IMPLEMENTED);
        assert!(refused.text().await.unwrap().contains(name), "{name}");
    }
}

#[tokio::test]
async fn rest_refuses_the_settings_that_are_not_there() {
    let cloud = Cloud::start(<_>::default()).await;
    let client = reqwest::Client::new();
    let transforms = json!([{ "javascriptUdf": { "functionName": "f", "code": "x" } }]);
    let other = "projects/p/topics/other";

    for (name, setting, value) in [
        (other, "ingestionDataSourceSettings", json!({ "awsKinesis": {} })),
        (other, "messageTransforms", transforms.clone()),
        (SUBSCRIPTION, "bigqueryConfig", json!({ "table": "p.d.t" })),
        (SUBSCRIPTION, "cloudStorageConfig", json!({ "bucket": "b" })),
        (SUBSCRIPTION, "bigtableConfig", json!({ "table": "t" })),
        (SUBSCRIPTION, "messageTransforms", transforms.clone()),
    ] {
        let body = json!({ "topic": TOPIC, setting: value });
        let url = format!("{}/v1/{name}", cloud.emulator.url());
        let refused = client.put(url).json(&body).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::NOT_IMPLEMENTED, "{setting}");
    }
}

#[tokio::test]
async fn rest_tells_of_acknowledgements_that_came_too_late() {
    let mut cloud = Cloud::start(<_>::default()).await;
    let once = v1::Subscription { enable_exactly_once_delivery: true, ..<_>::default() };
    cloud.subscribe(once).await.unwrap();
    let url = format!("{}/v1/{SUBSCRIPTION}", cloud.emulator.url());
    let client = reqwest::Client::new();

    for (verb, seconds) in [("acknowledge", 0), ("modifyAckDeadline", 10)] {
        let body = json!({ "ackIds": ["17"], "ackDeadlineSeconds": seconds });
        let late = client.post(format!("{url}:{verb}")).json(&body).send().await.unwrap();
        assert_eq!(late.status(), StatusCode::BAD_REQUEST, "{verb}");
    }
    let body = json!({ "ackIds": [], "ackDeadlineSeconds": 601 });
    let long = client.post(format!("{url}:modifyAckDeadline")).json(&body).send().await.unwrap();
    assert_eq!(long.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_stream_with_a_backlog_can_be_cut() {
    const MESSAGES: usize = 30;
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(<_>::default()).await.unwrap();
    let data = vec![0; 1_000_000].into();
    let message = v1::PubsubMessage { data, ..<_>::default() };
    for _ in 0..MESSAGES {
        let (topic, messages) = (TOPIC.into(), vec![message.clone()]);
        cloud.publisher.publish(v1::PublishRequest { topic, messages }).await.unwrap();
    }
    let (_requests, mut answers) = cloud.stream().await;

    cloud.emulator.faults().cut_streams();

    let mut received = 0;
    let ended = loop {
        match timeout(PATIENCE, answers.message()).await.unwrap() {
            Ok(answer) => received += answer.unwrap().received_messages.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(received < MESSAGES, "{received}");
}

#[tokio::test]
async fn a_stream_refuses_deadlines_that_cannot_be() {
    let mut cloud = Cloud::start(<_>::default()).await;
    cloud.subscribe(<_>::default()).await.unwrap();
    let modify = |seconds: &[i32]| v1::StreamingPullRequest {
        modify_deadline_ack_ids: vec!["17".into()],
        modify_deadline_seconds: seconds.to_vec(),
        ..<_>::default()
    };
    let lease = |seconds| v1::StreamingPullRequest {
        stream_ack_deadline_seconds: seconds,
        ..<_>::default()
    };

    for wrong in [modify(&[]), modify(&[-1]), modify(&[601]), lease(9), lease(601)] {
        let (requests, mut answers) = cloud.stream().await;
        requests.send(wrong.clone()).unwrap();
        let ended = timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err();
        assert_eq!(ended.code(), Code::InvalidArgument, "{wrong:?}: {ended}");
    }
}
