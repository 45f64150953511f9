//! `PublishStream`: items as they come, and their acknowledgements by number.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval_at, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use web::{Authenticate as _, Authenticator, Cut, Denied, Draining, Identity, Limits};

use super::acks::Acks;
use super::frames::Frames;
use super::reader::Reader;
use super::{answer, client_timeout, frame, ok, status, trailers};
use crate::http::ingest::{Ingest, SCOPE};
use crate::http::refusal::{INVALID, Refusal};
use crate::route::TRACE_PROPERTY;

/// Interval at which the credentials of an open stream are checked again.
const RECHECK: Duration = Duration::from_secs(60);

/// Open streams.
pub(super) struct Streams {
    ingest: Arc<Ingest>,
    auth: Authenticator,
    /// Each ends when its client has gone, or its connection.
    tasks: Mutex<JoinSet<()>>,
}

type Out = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

impl Streams {
    pub(super) fn new(ingest: Arc<Ingest>, auth: Authenticator) -> Self {
        Self { ingest, auth, tasks: Mutex::default() }
    }

    fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(stream);
    }

    fn open(
        &self,
        headers: HeaderMap,
        draining: Draining,
        request: Request,
    ) -> Result<Response, Refusal> {
        // Without HTTP/2 there is none. Then a client that takes nothing ends its connection.
        let cut = request.extensions().get::<Cut>().cloned().unwrap_or_default();
        let opened = Instant::now();
        let client_deadline = client_timeout(&headers)?.map(|timeout| opened + timeout);
        let trace = headers.get(TRACE_PROPERTY).and_then(|trace| trace.to_str().ok());
        let trace = trace.map(str::to_owned);
        let ingest = Arc::clone(&self.ingest);
        let frames = Frames::of(request, ingest.max_body_bytes)?;
        let permit = ingest.admission.admit_stream()?;
        let reader = Reader { ingest: Arc::clone(&ingest), frames, trace, last: None };
        let (out, frames) = mpsc::channel(1);
        let check = Recheck::new(self.auth.clone(), headers);
        let ends = Ends { draining, client_deadline, check };
        let acks = Acks::new(ingest);
        self.spawn(async move {
            if converse(reader, acks, ends, out).await == Left::Stalled {
                cut.now();
            }
            drop(permit);
        });
        Ok(answer(Body::new(StreamBody::new(ReceiverStream::new(frames)))))
    }
}

/// Answers `PublishStream`.
pub(super) async fn publish_stream(
    State(streams): State<Arc<Streams>>,
    Extension(caller): Extension<Identity>,
    Extension(draining): Extension<Draining>,
    request: Request,
) -> Response {
    if let Err(denied) = caller.require(SCOPE) {
        return denied.into_response();
    }
    let headers = request.headers().clone();
    let opened = streams.open(headers, draining, request);
    opened.unwrap_or_else(|refusal| streams.ingest.refuse(refusal))
}

/// State in which a conversation leaves its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The stream has ended.
    Ended,
    /// The client takes no acknowledgements. What waits for it keeps the stream open.
    Stalled,
}

/// Reads items and sends acknowledgements until all is said, or the client has gone.
async fn converse(reader: Reader, mut acks: Acks, mut ends: Ends, out: Out) -> Left {
    let mut items = Some(Box::pin(reader.into_items()));
    let write_timeout = Limits::default().write_timeout;
    // Status of the stream, once it is known. Then nothing more is read.
    let mut end: Option<Status> = None;
    let mut unsent_since = None;
    loop {
        if end.is_some() {
            // What an unfinished item holds is free for others.
            items = None;
        }
        let is_last = end.is_some() && acks.are_complete() && !acks.has_unsent();
        let must_send = acks.has_unsent() || is_last;
        let stalled =
            must_send.then(|| *unsent_since.get_or_insert_with(Instant::now) + write_timeout);
        let (has_room, first_deadline) = (acks.has_room(), acks.first_deadline());
        tokio::select! {
            biased;
            () = out.closed() => return Left::Ended,
            Ok(room) = out.reserve(), if must_send => {
                unsent_since = None;
                let Some(status) = end.take_if(|_| is_last) else {
                    room.send(Ok(Frame::data(frame(&acks.take()))));
                    continue;
                };
                room.send(Ok(Frame::trailers(trailers(&status))));
                break;
            }
            () = acks.settled() => {}
            () = at(first_deadline) => acks.give_up(),
            () = at(stalled) => return Left::Stalled,
            status = ends.next(), if end.is_none() => end = Some(status),
            item = next(&mut items), if has_room => match item {
                Some(Ok(item)) => acks.offer(item),
                Some(Err(refusal)) => {
                    acks.count_refused(&refusal);
                    end = Some(status::of_refusal(&refusal));
                }
                None => end = Some(ok()),
            },
        }
    }
    // The last frame may wait behind others that the client does not take.
    timeout(write_timeout, out.closed()).await.map_or(Left::Stalled, |()| Left::Ended)
}

/// Waits for the next item while items are read. Cancel safe.
async fn next<S: Stream + Unpin>(items: &mut Option<S>) -> Option<S::Item> {
    match items {
        Some(items) => items.next().await,
        None => pending().await,
    }
}

/// Waits for a time, if there is one. Cancel safe.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Reasons to end a stream from our side.
struct Ends {
    draining: Draining,
    client_deadline: Option<Instant>,
    check: Recheck,
}

impl Ends {
    /// Waits for a reason to end the stream, and returns its status. Cancel safe.
    async fn next(&mut self) -> Status {
        let detail = "this process is ending: open another stream, and send what has no \
                      acknowledgement";
        tokio::select! {
            () = self.draining.begun() => status::of_refusal(&Refusal::unavailable(detail)),
            () = at(self.client_deadline) => status::of_refusal(&Refusal::too_late()),
            refusal = self.check.fails() => status::of_refusal(&refusal),
        }
    }
}

/// Check of credentials while a stream is open.
struct Recheck {
    auth: Authenticator,
    headers: HeaderMap,
    ticks: Interval,
    /// True until the check of the last tick has ended.
    is_due: bool,
}

impl Recheck {
    fn new(auth: Authenticator, headers: HeaderMap) -> Self {
        let ticks = interval_at(Instant::now() + RECHECK, RECHECK);
        Self { auth, headers, ticks, is_due: false }
    }

    /// Checks the credentials again and again, and returns when they are not right any more.
    ///
    /// Cancel safe: a check that is cut begins again.
    async fn fails(&mut self) -> Refusal {
        loop {
            if !self.is_due {
                self.ticks.tick().await;
                self.is_due = true;
            }
            let caller = self.auth.authenticate(&self.headers).await;
            self.is_due = false;
            let (status, why) = match caller.and_then(|caller| caller.require(SCOPE)) {
                Err(Denied::Unauthenticated(why)) => (StatusCode::UNAUTHORIZED, why),
                Err(Denied::Forbidden(why)) => (StatusCode::FORBIDDEN, why),
                // Right, or not known now.
                Ok(()) | Err(Denied::TooFast { .. } | Denied::Unavailable { .. }) => continue,
            };
            return Refusal::new(status, INVALID, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use web::auth::settings::Auth;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_stream_ends_soon_after_its_key_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, "k".repeat(32)).unwrap();
        let settings = Auth { api_keys_file: Some(file.clone()), ..Auth::default() };
        let auth = Authenticator::start(&settings, "auth").await.unwrap();
        let header = ("x-api-key".parse().unwrap(), "k".repeat(32).parse().unwrap());
        let mut check = Recheck::new(auth, HeaderMap::from_iter([header]));
        // Each item of the stream cuts the wait.
        let mut refusal = async |seconds| {
            for _ in 0..seconds {
                let failed = timeout(Duration::from_secs(1), check.fails()).await;
                if let Ok(refusal) = failed {
                    return Some(refusal.status);
                }
            }
            None
        };

        assert_eq!(refusal(200).await, None, "the key is right");
        std::fs::write(&file, "[]").unwrap();

        assert_eq!(refusal(200).await, Some(StatusCode::UNAUTHORIZED));
    }
}
