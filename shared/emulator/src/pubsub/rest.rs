//! The REST API of Pub/Sub: the methods of admin clients, and publish, pull and acknowledge for
//! `curl`.

mod snapshots;

use std::collections::HashMap;

use axum::Json;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;

use super::admin::PageRequest;
use super::{PubSub, json, proto};
use crate::rest::{decode, query, read_json};
use crate::rights;
use crate::status::Status;

/// Answers a request below `/v1/`.
pub(crate) async fn answer(pubsub: &PubSub, request: Request) -> Response {
    match route(pubsub, request).await {
        Ok(answer) => Json(answer).into_response(),
        // Cloud Storage answers 412 instead.
        Err(mut status) if status.code == Code::FailedPrecondition => {
            status.reason.get_or_insert_with(|| "failedPrecondition".to_owned());
            status.into_response_with(StatusCode::BAD_REQUEST)
        }
        Err(status) => status.into_response(),
    }
}

async fn route(pubsub: &PubSub, request: Request) -> Result<Value, Status> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches("/v1/");
    let (name, verb) = path.split_once(':').unwrap_or((path, ""));
    let name = decode(name);
    let pieces: Vec<_> = name.split('/').collect();
    let query = query(&parts.uri);
    let call = Call { pubsub, name: name.clone(), query, method: parts.method };
    let method = call.method.clone();
    match (pieces.as_slice(), verb) {
        (["projects", _, "topics"], "") => call.faulty("ListTopics", call.list_topics()).await,
        (["projects", _, "subscriptions"], "") => {
            call.faulty("ListSubscriptions", call.list_subscriptions()).await
        }
        (["projects", _, "topics", _, "subscriptions"], "") => {
            let name = name.trim_end_matches("/subscriptions");
            call.faulty("ListTopicSubscriptions", call.list_topic_subscriptions(name)).await
        }
        (["projects", _, "snapshots"], "") => {
            call.faulty("ListSnapshots", call.list_snapshots()).await
        }
        (["projects", _, "topics", _, "snapshots"], "") => {
            let topic = name.trim_end_matches("/snapshots");
            call.faulty("ListTopicSnapshots", call.list_topic_snapshots(topic)).await
        }
        (["projects", _, "snapshots", _], "") => call.snapshot(body).await,
        (["projects", _, "topics", _], "") => call.topic(body).await,
        (["projects", _, "topics", _], "publish") if method == Method::POST => {
            let request = read_json::<Publish>(body).await?.into_proto(name)?;
            let publish =
                async { Ok(json!({ "messageIds": pubsub.publish(request)?.message_ids })) };
            pubsub.faults.around_topic("Publish", &call.name, publish).await
        }
        (["projects", _, "subscriptions", _], "") => call.subscription(body).await,
        (["projects", _, "topics" | "subscriptions" | "snapshots", _], "testIamPermissions") => {
            let asked = read_json::<Permissions>(body).await?;
            let profile = pubsub.faults.conditions().profile();
            let granted = rights::granted(&profile.denied, asked.permissions);
            let granted = Ok(json!({ "permissions": granted }));
            call.faulty("TestIamPermissions", granted).await
        }
        (["projects", _, "subscriptions", _], verb) if method == Method::POST => {
            call.consume(verb, body).await
        }
        _ => Err(Status::unimplemented(&format!("{method} {}", parts.uri.path()))),
    }
}

#[derive(Deserialize)]
struct Permissions {
    #[serde(default)]
    permissions: Vec<String>,
}

struct Call<'a> {
    pubsub: &'a PubSub,
    name: String,
    query: HashMap<String, String>,
    method: Method,
}

impl Call<'_> {
    async fn faulty(&self, method: &str, result: Result<Value, Status>) -> Result<Value, Status> {
        self.pubsub.faults.around(method, async { result }).await
    }

    fn page(&self) -> PageRequest {
        let size = self.query.get("pageSize").and_then(|size| size.parse().ok()).unwrap_or(0);
        PageRequest { size, token: self.query.get("pageToken").cloned().unwrap_or_default() }
    }

    fn project(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(project, _)| project)
    }

    fn list_topics(&self) -> Result<Value, Status> {
        let (topics, next) = self.pubsub.list_topics(self.project(), self.page())?;
        let topics: Vec<_> = topics.into_iter().map(json::TopicJson::from).collect();
        Ok(json!({ "topics": topics, "nextPageToken": next }))
    }

    fn list_subscriptions(&self) -> Result<Value, Status> {
        let (found, next) = self.pubsub.list_subscriptions(self.project(), self.page())?;
        let found: Vec<_> = found.into_iter().map(json::SubscriptionJson::from).collect();
        Ok(json!({ "subscriptions": found, "nextPageToken": next }))
    }

    fn list_topic_subscriptions(&self, topic: &str) -> Result<Value, Status> {
        let (names, next) = self.pubsub.list_topic_subscriptions(topic, self.page())?;
        Ok(json!({ "subscriptions": names, "nextPageToken": next }))
    }

    async fn topic(&self, body: axum::body::Body) -> Result<Value, Status> {
        let name = &self.name;
        let pubsub = self.pubsub;
        let done = match self.method {
            Method::PUT => {
                let mut topic: json::TopicJson = read_json(body).await?;
                topic.name.clone_from(name);
                let create = async { pubsub.create_topic(topic.into_proto()) };
                pubsub.faults.around("CreateTopic", create).await?
            }
            Method::GET => {
                pubsub.faults.around("GetTopic", async { pubsub.get_topic(name) }).await?
            }
            Method::PATCH => {
                let mut update: UpdateTopic = read_json(body).await?;
                update.topic.name.clone_from(name);
                let mask = self.mask(update.update_mask);
                let topic = Some(update.topic.into_proto());
                let request = proto::UpdateTopicRequest { topic, update_mask: Some(mask) };
                pubsub.faults.around("UpdateTopic", async { pubsub.update_topic(request) }).await?
            }
            Method::DELETE => {
                let delete = async { pubsub.delete_topic(name) };
                pubsub.faults.around("DeleteTopic", delete).await?;
                return Ok(json!({}));
            }
            _ => return Err(Status::unimplemented(&format!("{} of a topic", self.method))),
        };
        Ok(json!(json::TopicJson::from(done)))
    }

    async fn subscription(&self, body: axum::body::Body) -> Result<Value, Status> {
        let name = &self.name;
        let pubsub = self.pubsub;
        let done = match self.method {
            Method::PUT => {
                let mut subscription: json::SubscriptionJson = read_json(body).await?;
                subscription.name.clone_from(name);
                let create = async { pubsub.create_subscription(subscription.into_proto()) };
                pubsub.faults.around("CreateSubscription", create).await?
            }
            Method::GET => {
                let get = async { pubsub.get_subscription(name) };
                pubsub.faults.around("GetSubscription", get).await?
            }
            Method::PATCH => {
                let mut update: UpdateSubscription = read_json(body).await?;
                update.subscription.name.clone_from(name);
                let mask = self.mask(update.update_mask);
                let subscription = Some(update.subscription.into_proto());
                let request =
                    proto::UpdateSubscriptionRequest { subscription, update_mask: Some(mask) };
                let update = async { pubsub.update_subscription(request) };
                pubsub.faults.around("UpdateSubscription", update).await?
            }
            Method::DELETE => {
                let delete = async { pubsub.delete_subscription(name) };
                pubsub.faults.around("DeleteSubscription", delete).await?;
                return Ok(json!({}));
            }
            _ => return Err(Status::unimplemented(&format!("{} of a subscription", self.method))),
        };
        Ok(json!(json::SubscriptionJson::from(done)))
    }

    /// Returns the update mask from the query, where Google's clients send it, or from the body.
    fn mask(&self, of_body: Option<String>) -> prost_types::FieldMask {
        json::mask(self.query.get("updateMask").cloned().or(of_body).as_deref().unwrap_or_default())
    }

    async fn consume(&self, verb: &str, body: axum::body::Body) -> Result<Value, Status> {
        match verb {
            "seek" => return self.seek(body).await,
            "detach" => return self.detach().await,
            "modifyPushConfig" => return self.modify_push_config(body).await,
            _ => {}
        }
        let request: Consume = read_json(body).await?;
        let pubsub = self.pubsub;
        match verb {
            "pull" => {
                #[expect(deprecated, reason = "clients still send it")]
                let pull = proto::PullRequest {
                    subscription: self.name.clone(),
                    return_immediately: request.return_immediately,
                    max_messages: request.max_messages,
                };
                let pulled = pubsub.faults.around("Pull", pubsub.pull(pull)).await?;
                let received = pulled.received_messages.iter().map(received);
                Ok(json!({ "receivedMessages": received.collect::<Result<Vec<_>, _>>()? }))
            }
            "acknowledge" => {
                let (subscription, ack_ids) = (self.name.clone(), request.ack_ids);
                pubsub.acknowledge(proto::AcknowledgeRequest { subscription, ack_ids }).await?;
                Ok(json!({}))
            }
            "modifyAckDeadline" => {
                let modify = proto::ModifyAckDeadlineRequest {
                    subscription: self.name.clone(),
                    ack_ids: request.ack_ids,
                    ack_deadline_seconds: request.ack_deadline_seconds,
                };
                pubsub.modify_ack_deadline(modify).await?;
                Ok(json!({}))
            }
            other => Err(Status::unimplemented(&format!("subscriptions.{other}"))),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdateTopic {
    topic: json::TopicJson,
    update_mask: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdateSubscription {
    subscription: json::SubscriptionJson,
    update_mask: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Consume {
    max_messages: i32,
    return_immediately: bool,
    ack_ids: Vec<String>,
    ack_deadline_seconds: i32,
}

#[derive(Deserialize)]
struct Publish {
    messages: Vec<PublishMessage>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PublishMessage {
    data: String,
    attributes: HashMap<String, String>,
    ordering_key: String,
}

impl Publish {
    fn into_proto(self, topic: String) -> Result<proto::PublishRequest, Status> {
        let messages = self.messages.into_iter().map(|message| {
            let data = STANDARD.decode(&message.data);
            let data = data.map_err(|error| Status::invalid(format!("data: {error}")))?;
            Ok(proto::PubsubMessage {
                data: data.into(),
                attributes: message.attributes,
                ordering_key: message.ordering_key,
                ..proto::PubsubMessage::default()
            })
        });
        Ok(proto::PublishRequest { topic, messages: messages.collect::<Result<_, Status>>()? })
    }
}

fn received(received: &super::wire::Received) -> Result<Value, Status> {
    let message = proto::PubsubMessage::decode(received.message.clone());
    let message = message.map_err(|error| Status::invalid(error.to_string()))?;
    Ok(json!({
        "ackId": received.ack_id,
        "deliveryAttempt": received.delivery_attempt,
        "message": json::message(&message),
    }))
}
