//! Reflection: clients such as grpcurl ask for the services and their messages.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use futures::StreamExt as _;
use http_body_util::{BodyStream, StreamBody};
use tokio::time::sleep;
use tonic_reflection::server::Builder;
use web::Draining;

use crate::proto;

/// Maximum size of a question.
const MAX_BYTES: usize = 4096;
/// Maximum time of a stream of questions.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Returns the routes of the service, in both versions that clients use.
///
/// # Errors
/// The descriptors cannot be read.
pub(super) fn routes() -> anyhow::Result<Router> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let wrong = "read the descriptors of the gRPC API";
    let v1 = builder().build_v1().context(wrong)?.max_decoding_message_size(MAX_BYTES);
    let alpha = builder().build_v1alpha().context(wrong)?.max_decoding_message_size(MAX_BYTES);
    Ok(Router::new()
        .route_service("/grpc.reflection.v1.ServerReflection/{method}", v1)
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", alpha)
        .layer(from_fn(bounded)))
}

/// Cuts streams of questions after their time, and at a drain.
async fn bounded(mut request: Request, next: Next) -> Response {
    let draining = request.extensions_mut().remove::<Draining>();
    let response = next.run(request).await;
    let Some(mut draining) = draining else { return response };
    let end = async move {
        tokio::select! {
            () = draining.begun() => {}
            () = sleep(MAX_TIME) => {}
        }
    };
    response.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(Box::pin(end)))))
}
