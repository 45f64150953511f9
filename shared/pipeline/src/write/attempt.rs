//! Attempts to write a batch until an attempt succeeds or another one would be useless.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tokio::time::{Instant, timeout, timeout_at};

use super::Writer;
use crate::dead_letter::DeadLetters;
use crate::lease_plan::Deadline;
use crate::pace::Pace;
use crate::panics;
use crate::retry::{Attempt, Failure, Report, Series};
use crate::shared::{Outage, Shared};
use crate::{Error, Event, Recovery, Refusal, Sink};

/// Result of a series of attempts.
pub(super) enum Ending {
    Durable(Vec<Refusal>),
    /// An attempt timed out, and the batch can be split.
    TooSlow,
    Failed(Error),
}

/// The batch that is written.
pub(super) struct Target<'a, S: Sink> {
    pub key: &'a S::Key,
    pub encoded: &'a S::EncodedBatch,
    pub bytes: usize,
    pub deadline: Deadline,
    /// True if the batch can be split, and is large enough to be split after a time-out.
    pub can_split: bool,
}

/// The frame of one attempt: its turn and its time limit.
pub(super) struct Paced<'a> {
    /// Action of the errors.
    pub action: &'static str,
    pub pace: &'a Pace,
    pub bytes: usize,
    pub deadline: Deadline,
}

/// Result of one attempt.
pub(super) enum Attempted<R> {
    Done {
        reply: R,
        took: Duration,
    },
    Failed(Error),
    TimedOut(Error),
    /// The lease ended before the attempt began.
    LeaseOver(Error),
}

/// The write of a batch.
struct WriteBatch<'a, S: Sink> {
    sink: &'a S,
    target: Target<'a, S>,
    paced: Paced<'a>,
    outage: &'a Outage,
    write_duration: &'a Histogram,
    /// True after a time-out, if the batch can be split.
    is_too_slow: bool,
}

impl<T, S: Sink, D: DeadLetters<E>, E: Event> Writer<'_, T, S, D, E> {
    /// Attempts to write a batch until a write succeeds, fails permanently, or the lease of a
    /// message in it ends.
    pub(super) async fn attempt(&self, target: Target<'_, S>) -> Ending {
        let Shared { sink, outage, pace, metrics, .. } = self.shared;
        let Target { key, bytes, deadline, .. } = target;
        let paced = Paced { action: "write batch", pace, bytes, deadline };
        let write_duration = &metrics.write_duration;
        let write = WriteBatch { sink, target, paced, outage, write_duration, is_too_slow: false };
        let report = Report::Outage { what: key, outage };
        let written = self.series("write", deadline, report).run(write).await;
        written.unwrap_or_else(Ending::Failed)
    }

    /// Returns the series of attempts to write something.
    pub(super) fn series<'s>(
        &'s self,
        action: &'static str,
        deadline: Deadline,
        report: Report<'s>,
    ) -> Series<'s> {
        Series {
            action,
            backoff: self.shared.limits.retry,
            lease_end: deadline.end,
            attempt_time: deadline.attempt_time,
            report,
            metrics: &self.shared.metrics,
        }
    }
}

impl<S: Sink> Attempt for WriteBatch<'_, S> {
    type Done = Ending;

    async fn attempt(&mut self) -> Result<Ending, Failure> {
        if self.is_too_slow {
            return Ok(Ending::TooSlow);
        }
        let write = |limit| self.sink.write(self.target.encoded, limit);
        match self.paced.attempt(write).await {
            Attempted::Done { reply: refusals, took } => {
                self.outage.over();
                self.write_duration.observe(took.as_secs_f64());
                Ok(Ending::Durable(refusals))
            }
            Attempted::Failed(error) => Err(error.into()),
            Attempted::TimedOut(error) => {
                // Its halves are attempted after the wait.
                self.is_too_slow = self.target.can_split;
                Err(Failure::Again(error))
            }
            Attempted::LeaseOver(error) => Err(Failure::Final(error)),
        }
    }
}

impl Paced<'_> {
    /// Makes one attempt when it is its turn. Ends it after a time limit.
    pub(super) async fn attempt<R, W>(&self, write: impl FnOnce(Duration) -> W) -> Attempted<R>
    where
        W: Future<Output = Result<R, Error>>,
    {
        let Some(turn) = before(self.deadline.end, self.pace.turn()).await else {
            let late = "its lease has ended: it may have been delivered again";
            return Attempted::LeaseOver(Recovery::Retry.because(self.action, late));
        };
        let full_limit = turn.time_limit(self.bytes);
        let limit = self.deadline.within(full_limit);
        let started = Instant::now();
        match timeout(limit, panics::catch_async(self.action, write(limit))).await {
            Ok(Ok(reply)) => {
                let took = started.elapsed();
                turn.succeeded(self.bytes, took);
                Attempted::Done { reply, took }
            }
            Ok(Err(error)) => Attempted::Failed(error),
            // It says nothing about the destination that a short lease has cut the attempt.
            Err(late) if self.deadline.is_short() && limit < full_limit => {
                Attempted::Failed(Recovery::Retry.because(self.action, late))
            }
            Err(late) => {
                turn.timed_out();
                Attempted::TimedOut(Recovery::Retry.because(self.action, late))
            }
        }
    }
}

/// Waits for a future, but not beyond the end of a lease.
///
/// A write after that would be too late: the source may have redelivered the message, and the old
/// copy would overtake newer messages.
pub(super) async fn before<T>(
    lease_end: Option<Instant>,
    wait: impl Future<Output = T>,
) -> Option<T> {
    match lease_end {
        Some(end) if end <= Instant::now() => None,
        Some(end) => timeout_at(end, wait).await.ok(),
        None => Some(wait.await),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_after_the_end_of_a_lease() {
        let now = Instant::now();

        assert_eq!(before(Some(now), ready(1)).await, None);
        assert_eq!(before(Some(now + Duration::from_secs(1)), ready(1)).await, Some(1));
        assert_eq!(before(None, ready(1)).await, Some(1));
    }
}
