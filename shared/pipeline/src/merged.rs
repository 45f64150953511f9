//! Merges several sources into one.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::backoff::{Backoff, Waits};
use crate::metrics::Metrics;
use crate::{Delivery, Error, Recovery, Source};
use message::Message;

/// Several sources of one type that are read as one.
///
/// - The sources take turns. A source with many deliveries does not delay those of another one.
/// - Acks and nacks go to the source that delivered the message.
/// - It ends when all of its sources have ended. A source that can be asked again waits by itself,
///   and the others deliver meanwhile. Any other error is the error of all.
/// - The order of each source is kept. Messages of different sources have no order, so all messages
///   of an ordering key must come from one source.
///
/// ```
/// # #[cfg(feature = "doubles")]
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use message::Message;
/// use pipeline::backoff::Backoff;
/// use pipeline::doubles::{MemorySource, Recorder};
/// use pipeline::{Merged, Metrics, Source as _};
///
/// let recorder = Recorder::default();
/// let source = |id: &str| {
///     let message = Message { id: id.into(), ..Message::new("data") };
///     MemorySource::new([message], recorder.clone())
/// };
///
/// let sources = [source("first"), source("second")];
/// let mut merged = Merged::new(sources, Backoff::default(), Metrics::default());
/// while let Some(delivery) = merged.receive().await.unwrap() {
///     delivery.ack();
/// }
///
/// assert_eq!(recorder.recording().acked.len(), 2);
/// # });
/// ```
pub struct Merged<S, E = Message> {
    /// One future for each source that may still deliver. It owns the source. So a wait of one
    /// source goes on when another one delivers, or when `receive` is dropped.
    receiving: FuturesUnordered<BoxFuture<'static, Received<S, E>>>,
    /// Sources that have ended or failed. They still settle messages until they are closed.
    ended: Vec<S>,
    /// Becomes true when the sources must be returned.
    closing: watch::Sender<bool>,
    metrics: Metrics,
}

/// A source, while it may still deliver.
struct Member<S> {
    source: S,
    waits: Waits,
    /// Wait before the next attempt, after a failure.
    wait: Option<Duration>,
    closing: watch::Receiver<bool>,
}

struct Received<S, E> {
    member: Member<S>,
    /// Empty if the wait was ended because the sources are closed.
    result: Option<Result<Option<Delivery<E>>, Error>>,
}

impl<S: Source<E>, E: Send + 'static> Merged<S, E> {
    /// Merges these sources. A source that fails is asked again after one of the waits of `retry`.
    /// Meanwhile the others deliver. The pipeline's `metrics` count the attempts.
    pub fn new(sources: impl IntoIterator<Item = S>, retry: Backoff, metrics: Metrics) -> Self {
        let closing = watch::Sender::new(false);
        let member = |source| {
            let member =
                Member { source, waits: retry.waits(), wait: None, closing: closing.subscribe() };
            member.receive().boxed()
        };
        let receiving = sources.into_iter().map(member).collect();
        Self { receiving, ended: Vec::new(), closing, metrics }
    }
}

impl<S> Member<S> {
    async fn receive<E: Send + 'static>(mut self) -> Received<S, E>
    where
        S: Source<E>,
    {
        let Self { source, wait, closing, .. } = &mut self;
        let receive = async {
            if let Some(wait) = wait.take() {
                sleep(wait).await;
            }
            source.receive().await
        };
        let result = tokio::select! {
            result = receive => Some(result),
            // An error means that the merged source is gone. Then nobody polls this.
            _ = closing.wait_for(|is_closing| *is_closing) => None,
        };
        Received { member: self, result }
    }
}

impl<S: Source<E>, E: Send + 'static> Source<E> for Merged<S, E> {
    async fn receive(&mut self) -> Result<Option<Delivery<E>>, Error> {
        // There is no other `await` than this one, so a delivery that has come is never dropped.
        while let Some(Received { mut member, result }) = self.receiving.next().await {
            match result {
                Some(Ok(Some(delivery))) => {
                    member.waits.reset();
                    self.receiving.push(member.receive().boxed());
                    return Ok(Some(delivery));
                }
                Some(Err(error)) if error.recovery() == Recovery::Retry => {
                    let wait = member.waits.next_wait();
                    warn!(error = format!("{error:#}"), ?wait, "a source failed, asking again");
                    Metrics::count(&self.metrics.retried, "receive", 1);
                    member.wait = Some(wait);
                    self.receiving.push(member.receive().boxed());
                }
                Some(Err(error)) => {
                    self.ended.push(member.source);
                    return Err(error);
                }
                Some(Ok(None)) | None => self.ended.push(member.source),
            }
        }
        Ok(None)
    }

    /// Closes all sources side by side.
    ///
    /// # Errors
    /// Returns the first error, and logs the others. All sources are closed.
    async fn close(mut self) -> Result<(), Error> {
        self.closing.send_replace(true);
        // A delivery that comes now was never received. It is dropped here, and that nacks it.
        while let Some(Received { member, .. }) = self.receiving.next().await {
            self.ended.push(member.source);
        }
        let closed = join_all(self.ended.into_iter().map(Source::close)).await;
        let mut errors = closed.into_iter().filter_map(Result::err);
        let first = errors.next();
        for error in errors {
            warn!(error = format!("{error:#}"), "another source could not be closed");
        }
        first.map_or(Ok(()), Err)
    }
}
