//! Bare loops that listen: axum or tonic with a bare publisher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use google_cloud_pubsub::client::Publisher;
use google_cloud_pubsub::model::Message;
use ingestion::proto::{Ack, PublishStreamRequest, PublishStreamResponse};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::server::{Grpc, StreamingService};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::BareArgs;

/// Items of a stream that are published at a time.
const WINDOW: usize = 1000;

/// Publisher, and the number of messages that are left.
#[derive(Clone)]
struct Passing {
    publisher: Publisher,
    left: Arc<AtomicU64>,
    is_over: Arc<Notify>,
}

impl Passing {
    async fn publish(&self, data: Bytes) -> Result<(), String> {
        let published = self.publisher.publish(Message::new().set_data(data)).await;
        published.map_err(|error| error.to_string())?;
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.is_over.notify_one();
        }
        Ok(())
    }
}

/// Answers until all messages are published.
pub(crate) async fn serve(args: &BareArgs) -> anyhow::Result<()> {
    let passing = Passing {
        publisher: crate::publisher(args, "bare-output").await?,
        left: Arc::new(args.messages.into()),
        is_over: Arc::default(),
    };
    let is_over = Arc::clone(&passing.is_over);
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await.context("listen")?;
    let routes = Router::new()
        .route("/ingest", post(http))
        .route("/dataflow.ingest.v1.Ingest/PublishStream", post(grpc))
        .with_state(passing);
    println!("ready");
    tokio::select! {
        ended = axum::serve(listener, routes) => ended.context("serve"),
        () = is_over.notified() => {
            // The last answers are under way.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            Ok(())
        }
    }
}

async fn http(State(passing): State<Passing>, body: Bytes) -> StatusCode {
    let published = if body.starts_with(b"[") {
        let items: Result<Vec<&RawValue>, _> = serde_json::from_slice(&body);
        let Ok(items) = items else { return StatusCode::BAD_REQUEST };
        let items = items.into_iter().map(|item| Bytes::copy_from_slice(item.get().as_bytes()));
        futures::future::try_join_all(items.map(|item| passing.publish(item))).await.map(drop)
    } else {
        passing.publish(body).await
    };
    published.map_or(StatusCode::SERVICE_UNAVAILABLE, |()| StatusCode::ACCEPTED)
}

async fn grpc(State(passing): State<Passing>, request: Request) -> Response {
    let answer = Grpc::new(ProstCodec::default()).streaming(passing, request).await;
    answer.map(axum::body::Body::new)
}

impl StreamingService<PublishStreamRequest> for Passing {
    type Response = PublishStreamResponse;
    type ResponseStream = BoxStream<'static, Result<PublishStreamResponse, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<PublishStreamRequest>>) -> Self::Future {
        let passing = self.clone();
        let published = request.into_inner().map(move |request| {
            let passing = passing.clone();
            async move {
                let PublishStreamRequest { sequence, item } = request?;
                let payload = item.unwrap_or_default().payload.unwrap_or_default();
                passing.publish(payload.into()).await.map_err(Status::unavailable)?;
                Ok::<_, Status>(Ack { sequence, result: None })
            }
        });
        let acks = published.buffer_unordered(WINDOW).ready_chunks(WINDOW);
        let answers = acks.map(|acks| {
            let acks = acks.into_iter().collect::<Result<Vec<_>, _>>()?;
            Ok(PublishStreamResponse { acks })
        });
        Box::pin(std::future::ready(Ok(tonic::Response::new(answers.boxed()))))
    }
}
