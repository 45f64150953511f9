//! Double of Pub/Sub's side of streams.

use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::{
    PubsubMessage, ReceivedMessage, StreamingPullRequest, StreamingPullResponse,
};
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::subscriber::{Responses, StreamOpener};

/// Pub/Sub's end of the responses of a connection.
pub(super) type Answers = mpsc::UnboundedSender<Result<StreamingPullResponse, Status>>;

/// Connections that the stream opens, as Pub/Sub sees them.
pub(super) struct Openings(mpsc::UnboundedReceiver<Opening>);

pub(super) struct Opening {
    pub(super) first: StreamingPullRequest,
    answer: oneshot::Sender<Result<Responses, Status>>,
    end: oneshot::Receiver<()>,
}

pub(super) struct ScriptedStreams(mpsc::UnboundedSender<Opening>);

impl StreamOpener for ScriptedStreams {
    fn pull(
        &self,
        first: StreamingPullRequest,
        end: oneshot::Receiver<()>,
    ) -> BoxFuture<'static, Result<Responses, Status>> {
        let (answer, answered) = oneshot::channel();
        self.0.unbounded_send(Opening { first, answer, end }).unwrap();
        Box::pin(async { answered.await.unwrap() })
    }
}

impl Openings {
    /// Returns the next connection, which is opened already.
    pub(super) fn next(&mut self) -> Opening {
        self.opened().now_or_never().expect("a connection is opened")
    }

    /// Waits for the next connection. Cancel safe.
    pub(super) async fn opened(&mut self) -> Opening {
        self.0.next().await.expect("the stream is there")
    }
}

impl Opening {
    /// Accepts the connection. Its responses come from the returned channel.
    pub(super) fn accept(self) -> (Answers, oneshot::Receiver<()>) {
        let (responses, received) = mpsc::unbounded();
        assert!(self.answer.send(Ok(received.boxed())).is_ok());
        (responses, self.end)
    }

    pub(super) fn refuse(self, code: Code) {
        assert!(self.answer.send(Err(Status::new(code, "refused"))).is_ok());
    }
}

/// Returns a double, and the connections that it is asked for.
pub(super) fn pair() -> (ScriptedStreams, Openings) {
    let (openings, opened) = mpsc::unbounded();
    (ScriptedStreams(openings), Openings(opened))
}

pub(super) fn message(data: &str) -> PubsubMessage {
    PubsubMessage { data: data.to_owned().into(), ..PubsubMessage::default() }
}

pub(super) fn response(messages: Vec<PubsubMessage>) -> StreamingPullResponse {
    let received = messages.into_iter().map(|message| ReceivedMessage {
        ack_id: "ack".into(),
        message: Some(message),
        delivery_attempt: 0,
    });
    StreamingPullResponse { received_messages: received.collect(), ..<_>::default() }
}
