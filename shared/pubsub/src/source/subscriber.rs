//! Client of one subscription.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::subscriber_client::SubscriberClient;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::{
    AcknowledgeRequest, ModifyAckDeadlineRequest, StreamingPullRequest, StreamingPullResponse,
};
use pipeline::Error;
use service::google::Access;
use service::renewable::Renewable;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Extensions, Status};

use crate::connection::{Connection, metadata};

/// Interval of the requests that keep a stream open. Pub/Sub closes a stream on which the client
/// says nothing for about 90 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Client of one subscription, on connections of its own.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    client: SubscriberClient<Channel>,
    access: Access,
    /// Full name of the subscription.
    subscription: String,
}

/// A request about leases.
#[derive(Debug)]
pub(super) enum Request {
    /// Acknowledges messages by these ids.
    Acknowledge(Vec<String>),
    /// Sets leases to this duration from now on. Zero returns the messages.
    Lease(Vec<String>, Duration),
}

/// Responses of one stream.
pub(super) type Responses = BoxStream<'static, Result<StreamingPullResponse, Status>>;

/// Opens streams.
pub(super) trait StreamOpener {
    /// Opens a stream. Returns once Pub/Sub has answered, which may take until the first message.
    ///
    /// Our side of the stream ends when the sender of `end` is dropped. To drop the answers is not
    /// enough: the connection continues to send our requests, and Pub/Sub continues to deliver.
    fn pull(
        &self,
        first: StreamingPullRequest,
        end: oneshot::Receiver<()>,
    ) -> BoxFuture<'static, Result<Responses, Status>>;
}

impl StreamOpener for Subscriber {
    fn pull(
        &self,
        first: StreamingPullRequest,
        end: oneshot::Receiver<()>,
    ) -> BoxFuture<'static, Result<Responses, Status>> {
        let mut subscriber = self.clone();
        Box::pin(async move {
            let requests = subscriber.request(requests(first).take_until(end)).await?;
            let opened = subscriber.client.streaming_pull(requests).await?;
            Ok(opened.into_inner().boxed())
        })
    }
}

/// Carries out requests about leases.
pub(super) trait LeaseClient {
    /// Carries out a request.
    ///
    /// Cancel safety: a call that is dropped may have been carried out, as one that failed.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<(), Status>>;
}

impl LeaseClient for Renewable<Subscriber> {
    /// A call that is cut off replaces the client, and so does one whose credentials are refused:
    /// they may have been replaced.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<(), Status>> {
        let subscriber = self.clone();
        Box::pin(async move {
            let client = subscriber.lease().await;
            let client = client.map_err(|error| Status::unavailable(format!("{error:#}")))?;
            let outcome = client.call(request).await;
            let code = outcome.as_ref().map_or_else(Status::code, |()| Code::Ok);
            if !matches!(code, Code::Unauthenticated | Code::PermissionDenied) {
                client.done();
            }
            outcome
        })
    }
}

/// Returns true if the same call may succeed later.
pub(super) fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
    )
}

impl Subscriber {
    /// Creates a client of the subscription with this full name, on one new connection.
    pub(super) async fn connect(
        connection: &Connection,
        subscription: String,
    ) -> Result<Self, Error> {
        let route = connection.route("build Pub/Sub subscriber").await?;
        // A response may have any size. A limit would end the stream at the same message each time.
        let client = SubscriberClient::new(route.connect()).max_decoding_message_size(usize::MAX);
        Ok(Self { client, access: route.access, subscription })
    }

    /// Carries out a request about leases.
    pub(super) async fn call(&self, request: Request) -> Result<(), Status> {
        let (subscription, mut client) = (self.subscription.clone(), self.client.clone());
        match request {
            Request::Acknowledge(ack_ids) => {
                let request = AcknowledgeRequest { subscription, ack_ids };
                client.acknowledge(self.request(request).await?).await?;
            }
            Request::Lease(ack_ids, lease) => {
                let ack_deadline_seconds = seconds(lease);
                let request =
                    ModifyAckDeadlineRequest { subscription, ack_ids, ack_deadline_seconds };
                client.modify_ack_deadline(self.request(request).await?).await?;
            }
        }
        Ok(())
    }

    /// Adds our credentials and the routing header.
    async fn request<T>(&self, message: T) -> Result<tonic::Request<T>, Status> {
        let metadata = metadata(&self.access, "subscription", &self.subscription).await?;
        Ok(tonic::Request::from_parts(metadata, Extensions::default(), message))
    }
}

/// Returns the requests of one stream: the first one, then one at each interval that keeps the
/// stream open.
fn requests(first: StreamingPullRequest) -> impl Stream<Item = StreamingPullRequest> {
    stream::unfold(Some(first), |first| async {
        if first.is_none() {
            sleep(KEEP_ALIVE_INTERVAL).await;
        }
        Some((first.unwrap_or_default(), None))
    })
}

/// Returns whole seconds, as Pub/Sub counts leases.
pub(super) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
