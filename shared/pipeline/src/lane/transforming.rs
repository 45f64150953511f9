//! From a message to its record.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::Lane;
use crate::dead_letter::DeadLetters;
use crate::intake::Parcel;
use crate::metrics::Metrics;
use crate::runner::Shared;
use crate::write::{Entry, bury};
use crate::{Error, Recovery, Sink, Step, Transform, trace};

/// How long a message is kept before it is handed back. Pub/Sub delivers it again at once where the
/// subscription has no retry policy, and nothing but this keeps the two from tossing it to and fro.
const HOLD: Duration = Duration::from_millis(500);

/// What came of a message. An ordering key comes back, so that its next message can go on.
pub(super) struct Transformed<R> {
    ordering_key: String,
    outcome: Option<(Parcel, R)>,
}

impl<T, S, D> Lane<T, S, D>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    /// Transforms a message: at once where that needs no waiting, else beside the others.
    pub(super) async fn take(&mut self, parcel: Parcel) {
        let key = &parcel.message.ordering_key;
        if !key.is_empty() {
            if let Some(parked) = self.parked.get_mut(key) {
                parked.push_back(parcel);
                return;
            }
            self.parked.insert(key.clone(), VecDeque::new());
        }
        self.start(parcel).await;
    }

    /// Takes a finished transform, and the messages that waited for it.
    pub(super) async fn transformed(&mut self, transformed: Transformed<T::Record>) {
        let key = self.take_record(transformed);
        self.resume(key).await;
    }

    /// Hands out a message that cannot be part of a batch.
    pub(super) fn refuse(&mut self, parcel: Parcel, error: Error) {
        let shared = Arc::clone(&self.shared);
        self.transforming.push(Box::pin(async move {
            give_up(&shared, parcel, &error).await;
            Transformed { ordering_key: String::new(), outcome: None }
        }));
    }

    /// Goes on with the keys that waited for room.
    pub(super) async fn resume_parked(&mut self) {
        while self.has_room()
            && let Some(key) = self.resumable.pop()
        {
            self.resume(key).await;
        }
    }

    async fn start(&mut self, parcel: Parcel) {
        if let Some(key) = self.begin(parcel).await {
            self.resume(key).await;
        }
    }

    /// Starts a transform; returns its ordering key if it has ended already.
    async fn begin(&mut self, parcel: Parcel) -> Option<String> {
        let mut transform = Box::pin(transform(Arc::clone(&self.shared), parcel));
        // A waker is needed even for one look; pushed futures are polled again by their set.
        match futures::poll!(transform.as_mut()) {
            Poll::Ready(transformed) => Some(self.take_record(transformed)),
            Poll::Pending => {
                self.transforming.push(transform);
                None
            }
        }
    }

    fn take_record(&mut self, transformed: Transformed<T::Record>) -> String {
        if let Some((parcel, record)) = transformed.outcome {
            self.join(parcel, record);
        }
        transformed.ordering_key
    }

    /// Goes on with the messages parked behind a key until one has to wait.
    async fn resume(&mut self, mut key: String) {
        while !key.is_empty() {
            if !self.has_room() {
                self.resumable.push(key);
                return;
            }
            let Some(parked) = self.parked.get_mut(&key) else { return };
            let Some(parcel) = parked.pop_front() else {
                self.parked.remove(&key);
                return;
            };
            match self.begin(parcel).await {
                Some(done) => key = done,
                None => return,
            }
        }
    }
}

async fn transform<T, S, D>(shared: Arc<Shared<T, S, D>>, parcel: Parcel) -> Transformed<T::Record>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    let ordering_key = parcel.message.ordering_key.clone();
    let mut waits = shared.limits.retry.waits();
    let outcome = loop {
        let attempt = shared.transform.apply(&parcel.message);
        let applied = timeout(shared.limits.attempt_timeout, attempt).await;
        let error =
            match applied.unwrap_or_else(|late| Err(Recovery::Retry.because("transform", late))) {
                Ok(Step::Pass(record)) => break Some((parcel, record)),
                Ok(Step::Skip(reason)) => {
                    Metrics::count(&shared.metrics.skipped, reason, 1);
                    parcel.duty.settlement.ack();
                    break None;
                }
                Err(error) => error,
            };
        let wait = waits.next_wait();
        let lease_end = parcel.duty.settlement.lease_end();
        let lease_lasts = lease_end.is_none_or(|end| Instant::now() + wait < end);
        let may_wait = match error.recovery() {
            Recovery::Retry => true,
            // Handed back, it would come again behind the messages that wait for it here, or use up
            // the attempts that its subscription allows.
            Recovery::HandBack => !ordering_key.is_empty() || parcel.message.counts_attempts,
            Recovery::Reject(_) | Recovery::Stop => false,
        };
        if may_wait && lease_lasts {
            Metrics::count(&shared.metrics.retried, "transform", 1);
            tokio::time::sleep(wait).await;
        } else {
            // Boxed, because every message would carry the room for it otherwise.
            Box::pin(give_up(&shared, parcel, &error)).await;
            break None;
        }
    };
    Transformed { ordering_key, outcome }
}

/// Ends a message that has no record: to the dead letters, or back to the source.
async fn give_up<T, S, D>(shared: &Shared<T, S, D>, parcel: Parcel, error: &Error)
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    match error.recovery() {
        Recovery::Reject(reason) => {
            bury(shared, Entry::new(parcel, true), reason, error.detail()).await;
        }
        Recovery::Retry => {
            let (trace, error) = (trace::id(&parcel.message), format!("{error:#}"));
            warn!(trace, error, "the lease ends, handing the message back");
            Metrics::count(&shared.metrics.nacked, "transform", 1);
            parcel.duty.settlement.nack();
        }
        Recovery::HandBack => {
            let (trace, error) = (trace::id(&parcel.message), format!("{error:#}"));
            debug!(trace, error, "handing the message back");
            tokio::time::sleep(HOLD).await;
            Metrics::count(&shared.metrics.nacked, "asked", 1);
            parcel.duty.settlement.nack();
        }
        Recovery::Stop => {
            Metrics::count(&shared.metrics.nacked, "stop", 1);
            shared.fail(Recovery::Stop.because("transform", error.detail()));
            parcel.duty.settlement.nack();
        }
    }
}
