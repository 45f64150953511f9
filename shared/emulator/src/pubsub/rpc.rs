//! The gRPC methods of Pub/Sub.

use std::collections::HashMap;

use axum::extract::Request;
use axum::response::Response;
use prost::Message;
use tonic::Code;

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
        "Acknowledge" => unary(request, move |r: proto::AcknowledgeRequest| {
            let pubsub = pubsub.clone();
            async move { settle(&pubsub, "Acknowledge", &r.subscription, &r.ack_ids, None).await }
        })
        .await,
        "ModifyAckDeadline" => {
            unary(request, move |r: proto::ModifyAckDeadlineRequest| {
                let pubsub = pubsub.clone();
                async move {
                    let seconds = Some(r.ack_deadline_seconds);
                    settle(&pubsub, "ModifyAckDeadline", &r.subscription, &r.ack_ids, seconds).await
                }
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
    let page = (request.page_size, request.page_token);
    let (topics, next_page_token) = pubsub.list_topics(&request.project, page)?;
    Ok(proto::ListTopicsResponse { topics, next_page_token })
}

fn list_topic_subscriptions(
    pubsub: &PubSub,
    request: proto::ListTopicSubscriptionsRequest,
) -> Result<proto::ListTopicSubscriptionsResponse, Status> {
    let page = (request.page_size, request.page_token);
    let (subscriptions, next_page_token) = pubsub.list_topic_subscriptions(&request.topic, page)?;
    Ok(proto::ListTopicSubscriptionsResponse { subscriptions, next_page_token })
}

fn list_subscriptions(
    pubsub: &PubSub,
    request: proto::ListSubscriptionsRequest,
) -> Result<proto::ListSubscriptionsResponse, Status> {
    let page = (request.page_size, request.page_token);
    let (subscriptions, next_page_token) = pubsub.list_subscriptions(&request.project, page)?;
    Ok(proto::ListSubscriptionsResponse { subscriptions, next_page_token })
}

fn list_snapshots(
    pubsub: &PubSub,
    request: proto::ListSnapshotsRequest,
) -> Result<proto::ListSnapshotsResponse, Status> {
    let page = (request.page_size, request.page_token);
    let prefix = format!("{}/snapshots/", request.project);
    let (snapshots, next_page_token) = pubsub.list_snapshots(&prefix, None, page)?;
    Ok(proto::ListSnapshotsResponse { snapshots, next_page_token })
}

fn list_topic_snapshots(
    pubsub: &PubSub,
    request: proto::ListTopicSnapshotsRequest,
) -> Result<proto::ListTopicSnapshotsResponse, Status> {
    let page = (request.page_size, request.page_token);
    let (found, next_page_token) = pubsub.list_snapshots("", Some(&request.topic), page)?;
    let snapshots = found.into_iter().map(|snapshot| snapshot.name).collect();
    Ok(proto::ListTopicSnapshotsResponse { snapshots, next_page_token })
}

/// Acknowledges, or with `seconds` sets new deadlines.
async fn settle(
    pubsub: &PubSub,
    method: &str,
    name: &str,
    ack_ids: &[String],
    seconds: Option<i32>,
) -> Result<(), tonic::Status> {
    let act = async {
        let subscription = pubsub.subscription(name)?;
        let unknown = match seconds {
            None => subscription.acknowledge(ack_ids),
            Some(seconds) if (0..=600).contains(&seconds) => {
                let changes: Vec<_> = ack_ids.iter().map(|id| (id.clone(), seconds)).collect();
                let (unknown, dead) = subscription.modify(&changes);
                pubsub.dead_letter(&subscription, dead);
                unknown
            }
            Some(_) => return Err(Status::invalid("ack_deadline_seconds must be 0 to 600")),
        };
        // Without exactly-once delivery, late acknowledgements are silently of no use.
        let is_exactly_once = subscription.config().enable_exactly_once_delivery;
        Ok(if is_exactly_once { unknown } else { Vec::new() })
    };
    let unknown = pubsub.faults.around(method, act).await?;
    if unknown.is_empty() { Ok(()) } else { Err(lease_ended(unknown)) }
}

/// The error that names each id whose lease has ended, as exactly-once clients read it.
fn lease_ended(ack_ids: Vec<String>) -> tonic::Status {
    const REASON: &str = "PERMANENT_FAILURE_INVALID_ACK_ID";
    let metadata = ack_ids.into_iter().map(|id| (id, REASON.to_owned())).collect();
    let info =
        ErrorInfo { reason: REASON.into(), domain: "pubsub.googleapis.com".into(), metadata };
    let message = "Some acknowledgement ids in the request were invalid.".to_owned();
    let details = RpcStatus {
        code: Code::FailedPrecondition.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
            value: info.encode_to_vec(),
        }],
    };
    let details = details.encode_to_vec().into();
    tonic::Status::with_details(Code::FailedPrecondition, message, details)
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}
