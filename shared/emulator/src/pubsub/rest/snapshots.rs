//! Snapshots, seek and detach over REST.

use std::collections::HashMap;

use axum::body::Body;
use axum::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::json::{self, PushConfig};
use super::super::proto;
use super::Call;
use crate::rest::read_json;
use crate::status::Status;

#[derive(Deserialize)]
struct CreateSnapshot {
    subscription: String,
    #[serde(default)]
    labels: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdateSnapshot {
    snapshot: json::SnapshotJson,
    update_mask: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Seek {
    time: Option<String>,
    snapshot: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ModifyPushConfig {
    push_config: PushConfig,
}

impl Call<'_> {
    /// Creates, reads, changes or deletes a snapshot.
    pub(super) async fn snapshot(&self, body: Body) -> Result<Value, Status> {
        let (name, pubsub) = (&self.name, self.pubsub);
        let done = match self.method {
            Method::PUT => {
                let CreateSnapshot { subscription, labels } = read_json(body).await?;
                let labels = labels.into_iter().collect();
                let request = proto::CreateSnapshotRequest {
                    name: name.clone(),
                    subscription,
                    labels,
                    ..<_>::default()
                };
                let create = async { pubsub.create_snapshot(request) };
                pubsub.faults.around("CreateSnapshot", create).await?
            }
            Method::GET => {
                pubsub.faults.around("GetSnapshot", async { pubsub.get_snapshot(name) }).await?
            }
            Method::PATCH => {
                let update: UpdateSnapshot = read_json(body).await?;
                let mask = self.mask(update.update_mask);
                let expire_time =
                    update.snapshot.expire_time.as_deref().map(timestamp).transpose()?;
                let labels = update.snapshot.labels.into_iter().collect();
                let snapshot =
                    proto::Snapshot { name: name.clone(), expire_time, labels, ..<_>::default() };
                let request = proto::UpdateSnapshotRequest {
                    snapshot: Some(snapshot),
                    update_mask: Some(mask),
                };
                let update = async { pubsub.update_snapshot(request) };
                pubsub.faults.around("UpdateSnapshot", update).await?
            }
            Method::DELETE => {
                let delete = async { pubsub.delete_snapshot(name) };
                pubsub.faults.around("DeleteSnapshot", delete).await?;
                return Ok(json!({}));
            }
            _ => return Err(Status::unimplemented(&format!("{} of a snapshot", self.method))),
        };
        Ok(json!(json::SnapshotJson::from(done)))
    }

    pub(super) fn list_snapshots(&self) -> Result<Value, Status> {
        let prefix = format!("{}/", self.name);
        let (found, next) = self.pubsub.list_snapshots(&prefix, None, self.page())?;
        let snapshots: Vec<_> = found.into_iter().map(json::SnapshotJson::from).collect();
        Ok(json!({ "snapshots": snapshots, "nextPageToken": next }))
    }

    pub(super) fn list_topic_snapshots(&self, topic: &str) -> Result<Value, Status> {
        let (found, next) = self.pubsub.list_snapshots("", Some(topic), self.page())?;
        let names: Vec<_> = found.into_iter().map(|snapshot| snapshot.name).collect();
        Ok(json!({ "snapshots": names, "nextPageToken": next }))
    }

    pub(super) async fn seek(&self, body: Body) -> Result<Value, Status> {
        use proto::seek_request::Target;
        let target = match read_json(body).await? {
            Seek { snapshot: Some(name), .. } => Some(Target::Snapshot(name)),
            Seek { time: Some(time), .. } => Some(Target::Time(timestamp(&time)?)),
            Seek { time: None, snapshot: None } => None,
        };
        let request = proto::SeekRequest { subscription: self.name.clone(), target };
        let seek = async { self.pubsub.seek(&request) };
        self.pubsub.faults.around("Seek", seek).await?;
        Ok(json!({}))
    }

    pub(super) async fn detach(&self) -> Result<Value, Status> {
        let request = proto::DetachSubscriptionRequest { subscription: self.name.clone() };
        let detach = async { self.pubsub.detach_subscription(&request) };
        self.pubsub.faults.around("DetachSubscription", detach).await?;
        Ok(json!({}))
    }

    pub(super) async fn modify_push_config(&self, body: Body) -> Result<Value, Status> {
        let ModifyPushConfig { push_config } = read_json(body).await?;
        let request = proto::ModifyPushConfigRequest {
            subscription: self.name.clone(),
            push_config: Some(push_config.into_proto()),
        };
        let modify = async { self.pubsub.modify_push_config(request) };
        self.pubsub.faults.around("ModifyPushConfig", modify).await?;
        Ok(json!({}))
    }
}

fn timestamp(text: &str) -> Result<prost_types::Timestamp, Status> {
    text.parse()
        .map_err(|_| Status::invalid(format!("not a time such as 2025-01-01T00:00:00Z: {text}")))
}
