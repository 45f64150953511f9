//! Serves gRPC methods as routes of the common router. No published crate has server stubs of these
//! APIs.

use std::convert::Infallible;

use axum::extract::Request;
use axum::response::Response;
use futures::Stream;
use prost::Message;
use tonic::Streaming;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use crate::status::Status;

/// Largest request that is read. The APIs refuse smaller ones with their own error texts.
const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;

fn grpc<In, Out>() -> Grpc<ProstCodec<Out, In>>
where
    In: Message + Default + 'static,
    Out: Message + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// Refuses a request above the size limit of its method, with Google's text.
pub(crate) fn check_size(request: &impl Message, max_bytes: usize) -> Result<(), Status> {
    if request.encoded_len() <= max_bytes {
        return Ok(());
    }
    let text = format!("Request payload size exceeds the limit: {max_bytes} bytes.");
    Err(Status::invalid(text))
}

/// Answers a unary call.
pub(crate) async fn unary<In, Out, F, Fut>(request: Request, call: F) -> Response
where
    In: Message + Default + 'static,
    Out: Message + Default + 'static,
    F: Fn(In) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Out, tonic::Status>> + Send + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<In>| {
        let answer = call(request.into_inner());
        async move { Ok::<_, tonic::Status>(tonic::Response::new(answer.await?)) }
    });
    grpc::<In, Out>().unary(service, request).await.map(axum::body::Body::new)
}

/// Answers a call with a stream.
pub(crate) async fn server_streaming<In, Out, S, F, Fut>(request: Request, call: F) -> Response
where
    In: Message + Default + 'static,
    Out: Message + Default + 'static,
    S: Stream<Item = Result<Out, tonic::Status>> + Send + 'static,
    F: Fn(In) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<S, tonic::Status>> + Send + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<In>| {
        let answers = call(request.into_inner());
        async move { Ok::<_, tonic::Status>(tonic::Response::new(answers.await?)) }
    });
    grpc::<In, Out>().server_streaming(service, request).await.map(axum::body::Body::new)
}

/// Answers a call whose requests and answers are streams.
pub(crate) async fn streaming<In, Out, S, F>(request: Request, call: F) -> Response
where
    In: Message + Default + 'static,
    Out: Message + Default + 'static,
    S: Stream<Item = Result<Out, tonic::Status>> + Send + 'static,
    F: Fn(Streaming<In>) -> S + Clone + Send + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<Streaming<In>>| {
        let answers = call(request.into_inner());
        async move { Ok::<_, tonic::Status>(tonic::Response::new(answers)) }
    });
    grpc::<In, Out>().streaming(service, request).await.map(axum::body::Body::new)
}

/// Answers a call of an unknown gRPC method.
pub(crate) fn unimplemented(path: &str) -> Result<Response, Infallible> {
    let status: tonic::Status = Status::unimplemented(path.trim_start_matches('/')).into();
    Ok(status.into_http())
}
