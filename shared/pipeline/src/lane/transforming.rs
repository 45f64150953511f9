//! Turns a message into its record.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::warn;

use super::Lane;
use crate::dead_letter::DeadLetters;
use crate::event::trace_of;
use crate::hops::{HopStep, MAX_RECORD_BYTES, Told};
use crate::intake::Tracked;
use crate::keyed::Keyed;
use crate::lease_plan::{Deadline, LeasePlan};
use crate::metrics::Metrics;
use crate::retry::{Attempt, Failure, Report, Series};
use crate::shared::Shared;
use crate::suspects::{Noted, Work};
use crate::write::{Entry, Writer};
use crate::{Error, Event, Recovery, Sink, Step, Transform, panics};

/// Result of a transform. The ordering key is returned, so that the next message of the key can
/// start.
pub(super) struct Transformed<R, E> {
    ordering_key: String,
    outcome: Outcome<R, E>,
}

enum Outcome<R, E> {
    /// A record to write.
    Record(Tracked<E>, R),
    /// A message that can never succeed, and the reason.
    Refused(Tracked<E>, Error),
    /// The message is settled. Holds its identity if it is ordered and was nacked.
    Settled(Vec<Keyed>),
}

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Handles a finished transform, then starts the messages that waited for it.
    pub(super) async fn on_transformed(&mut self, transformed: Transformed<T::Record, E>) {
        let key = self.finish_transform(transformed);
        self.resume(key).await;
    }

    /// Settles a message that cannot be part of a batch: rejected ones go to the dead letters.
    pub(super) fn refuse(&mut self, tracked: Tracked<E>, error: Error) {
        let shared = Arc::clone(&self.shared);
        self.leaving
            .push(Box::pin(async move { Writer::new(&shared).give_up(tracked, error).await }));
    }

    /// Transforms a message. Returns its ordering key if the transform has already finished.
    pub(super) async fn transform(&mut self, mut tracked: Tracked<E>) -> Option<String> {
        tracked.handle.sequence = self.order.sequence(&tracked.message);
        if let Some(reason) = self.reason_to_nack(&tracked) {
            let key = tracked.message.ordering_key().to_owned();
            self.nack_later(Entry::new(tracked, false), reason);
            return Some(key);
        }
        if let Err(error) = self.check_suspects(&mut tracked) {
            let key = tracked.message.ordering_key().to_owned();
            self.refuse(tracked, error);
            return Some(key);
        }
        let mut transform = self.transform_future(tracked);
        // Polling needs a waker, even once. The set polls pushed futures again, with its own waker.
        match futures::poll!(&mut transform) {
            Poll::Ready(transformed) => Some(self.finish_transform(transformed)),
            Poll::Pending => {
                self.transforming.push(transform);
                None
            }
        }
    }

    /// Returns the reason why a message must be nacked before it is transformed, if there is one.
    fn reason_to_nack(&mut self, tracked: &Tracked<E>) -> Option<&'static str> {
        let settlement = &tracked.handle.settlement;
        if !settlement.is_current() {
            return Some("stale");
        }
        // The message waited too long before it came here. Later messages of its key must not
        // overtake it.
        if settlement.lease_end().is_some_and(|end| end <= Instant::now()) {
            return Some("lease");
        }
        let admitted = self.order.admits(&tracked.message, tracked.handle.sequence, settlement);
        (!admitted).then_some("order")
    }

    /// Checks the crash file, if there is one: was the message being processed when earlier
    /// processes ended?
    fn check_suspects(&self, tracked: &mut Tracked<E>) -> Result<(), Error> {
        if let Some(suspects) = &self.shared.suspects {
            let handle = &mut tracked.handle;
            (handle.fingerprint, handle.max_batch) = suspects.admit(&tracked.message)?;
        }
        Ok(())
    }

    /// Creates the transform of a message, to be polled by the lane.
    pub(super) fn transform_future(&self, tracked: Tracked<E>) -> Noted<Transformed<T::Record, E>> {
        let note = self.note([tracked.handle.fingerprint], Work::Compute);
        Noted::new(Box::pin(outcome(Arc::clone(&self.shared), tracked)), note)
    }

    /// Appends the record of a finished transform, or refuses its message. Returns the ordering key.
    pub(super) fn finish_transform(&mut self, transformed: Transformed<T::Record, E>) -> String {
        match transformed.outcome {
            Outcome::Record(tracked, _)
                if self.order.awaits(tracked.message.ordering_key(), tracked.handle.sequence) =>
            {
                self.nack_later(Entry::new(tracked, false), "order");
            }
            Outcome::Record(tracked, record) => self.append(tracked, record),
            Outcome::Refused(tracked, error) => self.refuse(tracked, error),
            Outcome::Settled(nacked) => self.on_nacked(nacked),
        }
        transformed.ordering_key
    }
}

/// Applies the transform until it succeeds or another attempt would be useless. Settles a message
/// that has nothing to write.
async fn outcome<T, S, D, E>(
    shared: Arc<Shared<T, S, D>>,
    mut tracked: Tracked<E>,
) -> Transformed<T::Record, E>
where
    T: Transform<E>,
    S: Sink<Record = T::Record>,
    D: DeadLetters<E>,
    E: Event,
{
    let ordering_key = tracked.message.ordering_key().to_owned();
    let attempt_timeout = shared.limits.attempt_timeout;
    let lease = LeasePlan::of(&tracked.handle.settlement);
    let deadline = lease.deadline(attempt_timeout);
    let series = Series {
        action: "transform",
        backoff: shared.limits.retry,
        lease_end: deadline.end,
        attempt_time: Duration::ZERO,
        report: Report::Nothing,
        metrics: &shared.metrics,
    };
    let (transform, message) = (&shared.transform, &tracked.message);
    let apply = Apply { transform, message, attempt_timeout, deadline };
    let applied = series.run(apply).await;
    if shared.shown.is_watched() {
        show(&shared, &mut tracked, &applied);
    }
    let outcome = match applied {
        Ok(Step::Pass(record)) => Outcome::Record(tracked, record),
        Ok(Step::Skip(reason)) => {
            Metrics::count_reason(&shared.metrics.skipped, reason, 1);
            tracked.handle.settlement.ack();
            Outcome::Settled(Vec::new())
        }
        Err(error) if matches!(error.recovery(), Recovery::Reject(_)) => {
            Outcome::Refused(tracked, error)
        }
        // The series of attempts makes another one as long as the lease allows it.
        Err(error) if error.recovery() == Recovery::Retry => {
            let (trace, error) = (trace_of(&tracked.message), format!("{error:#}"));
            warn!(trace, error, "the lease ends, handing the message back");
            let entries = vec![Entry::new(tracked, false)];
            // Boxed, because otherwise every message's future would reserve the space for it.
            Outcome::Settled(Box::pin(Writer::new(&shared).nack_later(entries, "transform")).await)
        }
        Err(error) => {
            Outcome::Settled(Box::pin(Writer::new(&shared).give_up(tracked, error)).await)
        }
    };
    Transformed { ordering_key, outcome }
}

/// Tells the viewers how a transform ended. The message keeps its identity for later steps.
fn show<T, S, D, E>(
    shared: &Shared<T, S, D>,
    tracked: &mut Tracked<E>,
    applied: &Result<Step<T::Record>, Error>,
) where
    T: Transform<E>,
    E: Event,
{
    let (shown, transform, message) = (&shared.shown, &shared.transform, &tracked.message);
    let record = match applied {
        Ok(Step::Pass(record)) => Some(record),
        Ok(Step::Skip(_)) | Err(_) => None,
    };
    let Some(owner) = shown.owner(message, || transform.ids(message, record)) else { return };
    if shown.is_new(message) {
        let at = Some(tracked.handle.first_seen);
        let record = || message.show(MAX_RECORD_BYTES);
        let told = || Told { at, record: record(), ..Told::default() };
        shown.tell(&owner, HopStep::Received, told);
    }
    if let Some(record) = record {
        let told = || Told { record: transform.show(message, record), ..Told::default() };
        shown.tell(&owner, HopStep::Transformed, told);
    }
    if let Ok(Step::Skip(reason)) = applied {
        let reason = Some(reason.as_str());
        shown.tell(&owner, HopStep::Skipped, || Told { reason, ..Told::default() });
    }
    tracked.handle.owner = shown.kept(owner);
}

/// The transform of a message.
struct Apply<'a, T, E> {
    transform: &'a T,
    message: &'a E,
    attempt_timeout: Duration,
    deadline: Deadline,
}

impl<T: Transform<E>, E: Event> Attempt for Apply<'_, T, E> {
    type Done = Step<T::Record>;

    async fn attempt(&mut self) -> Result<Step<T::Record>, Failure> {
        let attempt = panics::catch_async("transform", self.transform.apply(self.message));
        let applied = timeout(self.deadline.within(self.attempt_timeout), attempt).await;
        let applied =
            applied.unwrap_or_else(|late| Err(Recovery::Retry.because("transform", late)));
        // After a nack it would arrive behind the messages that wait for it here. Or it would use up
        // the attempts that its subscription allows.
        let stays = !self.message.ordering_key().is_empty() || self.message.counts_attempts();
        applied.map_err(|error| match error.recovery() {
            Recovery::Nack if stays => Failure::Again(error),
            Recovery::Retry | Recovery::Reject(_) | Recovery::Nack | Recovery::Stop => error.into(),
        })
    }
}
