//! `google.iam.v1.IAMPolicy` of Pub/Sub: every caller may do what the profile does not deny.

use axum::extract::Request;
use axum::response::Response;
use prost::Message;

use super::PubSub;
use crate::grpc::{self, unary};
use crate::rights;

/// Message `TestIamPermissionsRequest`.
#[derive(Clone, PartialEq, Message)]
struct PermissionRequest {
    #[prost(string, tag = "1")]
    resource: String,
    #[prost(string, repeated, tag = "2")]
    permissions: Vec<String>,
}

/// Message `TestIamPermissionsResponse`.
#[derive(Clone, PartialEq, Message)]
struct Granted {
    #[prost(string, repeated, tag = "1")]
    permissions: Vec<String>,
}

/// Answers the gRPC method at `path`. Methods of policies are not supported.
pub(crate) async fn answer(pubsub: PubSub, path: &str, request: Request) -> Response {
    if path != "/google.iam.v1.IAMPolicy/TestIamPermissions" {
        return grpc::unimplemented(path).unwrap_or_else(|never| match never {});
    }
    unary(request, move |asked: PermissionRequest| {
        let pubsub = pubsub.clone();
        async move {
            let profile = pubsub.faults.conditions().profile();
            let permissions = rights::granted(&profile.denied, asked.permissions);
            let granted = async { Ok(Granted { permissions }) };
            Ok(pubsub.faults.around("TestIamPermissions", granted).await?)
        }
    })
    .await
}
