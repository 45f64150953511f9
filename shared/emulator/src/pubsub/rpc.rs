//! The gRPC methods of Pub/Sub.

use axum::extract::Request;
use axum::response::Response;
use prost::Message;

use super::admin::PageRequest;
use super::{PubSub, proto};
use crate::grpc::{self, streaming, unary};
use crate::status::Status;

/// Answers the gRPC method at `path`.
pub(crate) async fn answer(pubsub: PubSub, path: &str, request: Request) -> Response {
    match path.trim_start_matches("/google.pubsub.v1.") {
        "Publisher/Publish" => {
            unary(request, move |r: proto::PublishRequest| {
                let pubsub = pubsub.clone();
                let topic = r.topic.clone();
                async move {
                    let publish = async { pubsub.publish(r) };
                    Ok(pubsub.faults.around_topic("Publish", &topic, publish).await?)
                }
            })
            .await
        }
        "Publisher/CreateTopic" => call(pubsub, "CreateTopic", request, PubSub::create_topic).await,
        "Publisher/UpdateTopic" => call(pubsub, "UpdateTopic", request, PubSub::update_topic).await,
        "Publisher/GetTopic" => {
            type In = proto::GetTopicRequest;
            call(pubsub, "GetTopic", request, |pubsub, r: In| pubsub.get_topic(&r.topic)).await
        }
        "Publisher/ListTopics" => call(pubsub, "ListTopics", request, list_topics).await,
        "Publisher/ListTopicSubscriptions" => {
            call(pubsub, "ListTopicSubscriptions", request, list_topic_subscriptions).await
        }
        "Publisher/DeleteTopic" => {
            type In = proto::DeleteTopicRequest;
            call(pubsub, "DeleteTopic", request, |pubsub, r: In| pubsub.delete_topic(&r.topic))
                .await
        }
        "Publisher/ListTopicSnapshots" => {
            call(pubsub, "ListTopicSnapshots", request, list_topic_snapshots).await
        }
        "Publisher/DetachSubscription" => {
            type In = proto::DetachSubscriptionRequest;
            let detach = |pubsub: &PubSub, r: In| pubsub.detach_subscription(&r);
            call(pubsub, "DetachSubscription", request, detach).await
        }
        _ => subscriber_answer(pubsub, path, request).await,
    }
}

async fn subscriber_answer(pubsub: PubSub, path: &str, request: Request) -> Response {
    match path.trim_start_matches("/google.pubsub.v1.Subscriber/") {
        "CreateSubscription" => {
            call(pubsub, "CreateSubscription", request, PubSub::create_subscription).await
        }
        "UpdateSubscription" => {
            call(pubsub, "UpdateSubscription", request, PubSub::update_subscription).await
        }
        "GetSubscription" => {
            type In = proto::GetSubscriptionRequest;
            let get = |pubsub: &PubSub, r: In| pubsub.get_subscription(&r.subscription);
            call(pubsub, "GetSubscription", request, get).await
        }
        "ListSubscriptions" => call(pubsub, "ListSubscriptions", request, list_subscriptions).await,
        "DeleteSubscription" => {
            type In = proto::DeleteSubscriptionRequest;
            let delete = |pubsub: &PubSub, r: In| pubsub.delete_subscription(&r.subscription);
            call(pubsub, "DeleteSubscription", request, delete).await
        }
        "Pull" => {
            unary(request, move |r| {
                let pubsub = pubsub.clone();
                async move { Ok(pubsub.faults.around("Pull", pubsub.pull(r)).await?) }
            })
            .await
        }
        "StreamingPull" => streaming(request, move |r| pubsub.streaming_pull(r)).await,
        "Acknowledge" => {
            unary(request, move |r| {
                let pubsub = pubsub.clone();
                async move { Ok(pubsub.acknowledge(r).await?) }
            })
            .await
        }
        "ModifyAckDeadline" => {
            unary(request, move |r| {
                let pubsub = pubsub.clone();
                async move { Ok(pubsub.modify_ack_deadline(r).await?) }
            })
            .await
        }
        "ModifyPushConfig" => {
            call(pubsub, "ModifyPushConfig", request, PubSub::modify_push_config).await
        }
        _ => snapshot_answer(pubsub, path, request).await,
    }
}

async fn snapshot_answer(pubsub: PubSub, path: &str, request: Request) -> Response {
    match path.trim_start_matches("/google.pubsub.v1.Subscriber/") {
        "CreateSnapshot" => call(pubsub, "CreateSnapshot", request, PubSub::create_snapshot).await,
        "UpdateSnapshot" => call(pubsub, "UpdateSnapshot", request, PubSub::update_snapshot).await,
        "GetSnapshot" => {
            type In = proto::GetSnapshotRequest;
            let get = |pubsub: &PubSub, r: In| pubsub.get_snapshot(&r.snapshot);
            call(pubsub, "GetSnapshot", request, get).await
        }
        "ListSnapshots" => call(pubsub, "ListSnapshots", request, list_snapshots).await,
        "DeleteSnapshot" => {
            type In = proto::DeleteSnapshotRequest;
            let delete = |pubsub: &PubSub, r: In| pubsub.delete_snapshot(&r.snapshot);
            call(pubsub, "DeleteSnapshot", request, delete).await
        }
        "Seek" => {
            type In = proto::SeekRequest;
            call(pubsub, "Seek", request, |pubsub: &PubSub, r: In| pubsub.seek(&r)).await
        }
        _ => grpc::unimplemented(path).unwrap_or_else(|never| match never {}),
    }
}

async fn call<In, Out>(
    pubsub: PubSub,
    method: &'static str,
    request: Request,
    act: fn(&PubSub, In) -> Result<Out, Status>,
) -> Response
where
    In: Message + Default + 'static,
    Out: Message + Default + 'static,
{
    unary(request, move |message: In| {
        let pubsub = pubsub.clone();
        async move { Ok(pubsub.faults.around(method, async { act(&pubsub, message) }).await?) }
    })
    .await
}

fn list_topics(
    pubsub: &PubSub,
    request: proto::ListTopicsRequest,
) -> Result<proto::ListTopicsResponse, Status> {
    let page = PageRequest { size: request.page_size, token: request.page_token };
    let (topics, next_page_token) = pubsub.list_topics(&request.project, page)?;
    Ok(proto::ListTopicsResponse { topics, next_page_token })
}

fn list_topic_subscriptions(
    pubsub: &PubSub,
    request: proto::ListTopicSubscriptionsRequest,
) -> Result<proto::ListTopicSubscriptionsResponse, Status> {
    let page = PageRequest { size: request.page_size, token: request.page_token };
    let (subscriptions, next_page_token) = pubsub.list_topic_subscriptions(&request.topic, page)?;
    Ok(proto::ListTopicSubscriptionsResponse { subscriptions, next_page_token })
}

fn list_subscriptions(
    pubsub: &PubSub,
    request: proto::ListSubscriptionsRequest,
) -> Result<proto::ListSubscriptionsResponse, Status> {
    let page = PageRequest { size: request.page_size, token: request.page_token };
    let (subscriptions, next_page_token) = pubsub.list_subscriptions(&request.project, page)?;
    Ok(proto::ListSubscriptionsResponse { subscriptions, next_page_token })
}

fn list_snapshots(
    pubsub: &PubSub,
    request: proto::ListSnapshotsRequest,
) -> Result<proto::ListSnapshotsResponse, Status> {
    let page = PageRequest { size: request.page_size, token: request.page_token };
    let prefix = format!("{}/snapshots/", request.project);
    let (snapshots, next_page_token) = pubsub.list_snapshots(&prefix, None, page)?;
    Ok(proto::ListSnapshotsResponse { snapshots, next_page_token })
}

fn list_topic_snapshots(
    pubsub: &PubSub,
    request: proto::ListTopicSnapshotsRequest,
) -> Result<proto::ListTopicSnapshotsResponse, Status> {
    let page = PageRequest { size: request.page_size, token: request.page_token };
    let (found, next_page_token) = pubsub.list_snapshots("", Some(&request.topic), page)?;
    let snapshots = found.into_iter().map(|snapshot| snapshot.name).collect();
    Ok(proto::ListTopicSnapshotsResponse { snapshots, next_page_token })
}
