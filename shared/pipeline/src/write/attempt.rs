//! Attempts to write a batch until an attempt succeeds or another one would be useless.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::Writer;
use crate::backoff::Waits;
use crate::dead_letter::DeadLetters;
use crate::metrics::Metrics;
use crate::panics;
use crate::shared::{Outage, Shared};
use crate::{Error, Recovery, Refusal, Sink};

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
    /// Time when the first lease of its messages ends.
    pub lease_end: Option<Instant>,
    /// True if the batch can be split, and is large enough to be split after a time-out.
    pub can_split: bool,
}

/// A series of attempts. It ends when the lease of a message ends.
pub(super) struct Series<'a, W: ?Sized> {
    /// Description of the written item, for the log.
    pub what: &'a W,
    /// Name of the action in the metric of retried attempts.
    pub action: &'static str,
    pub lease_end: Option<Instant>,
    pub waits: Waits,
    /// Outage that a failed attempt is recorded in.
    pub outage: Outage,
}

impl<T, S: Sink, D: DeadLetters> Writer<'_, T, S, D> {
    /// Attempts to write a batch until a write succeeds, fails permanently, or the lease of a message
    /// in it ends.
    pub(super) async fn attempt(&self, target: Target<'_, S>) -> Ending {
        let shared = self.shared;
        let Target { key, encoded, bytes, lease_end, can_split } = target;
        let waits = shared.limits.retry.waits();
        let outage = shared.outage.clone();
        let mut series = Series { what: key, action: "write", lease_end, waits, outage };
        loop {
            let Some(turn) = before(lease_end, shared.pace.turn()).await else {
                let late = "its lease has ended: it may have been delivered again";
                return Ending::Failed(Recovery::Retry.because("write batch", late));
            };
            let limit = self.within(lease_end, turn.time_limit(bytes));
            let started = Instant::now();
            let write = panics::catch_async("write batch", shared.sink.write(encoded, limit));
            let (error, is_late) = match timeout(limit, write).await {
                Ok(Ok(refusals)) => {
                    let took = started.elapsed();
                    turn.succeeded(bytes, took);
                    shared.outage.over();
                    shared.metrics.write_duration.observe(took.as_secs_f64());
                    return Ending::Durable(refusals);
                }
                Ok(Err(error)) => (error, false),
                Err(late) => {
                    turn.timed_out();
                    (Recovery::Retry.because("write batch", late), true)
                }
            };
            drop(turn);
            if error.recovery() != Recovery::Retry || !series.wait(shared, &error).await {
                return Ending::Failed(error);
            }
            if is_late && can_split {
                return Ending::TooSlow;
            }
        }
    }

    /// Shortens a time limit to the end of the lease, but not below `attempt_timeout`.
    pub(super) fn within(&self, lease_end: Option<Instant>, limit: Duration) -> Duration {
        let usual = self.shared.limits.attempt_timeout;
        let left = lease_end.map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(limit, |left| limit.min(left.max(usual)))
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

impl<W: Debug + ?Sized> Series<'_, W> {
    /// Waits before the next attempt. Returns false without waiting if the lease would end before
    /// that attempt does.
    pub(super) async fn wait<T, S, D>(&mut self, shared: &Shared<T, S, D>, error: &Error) -> bool {
        let wait = self.waits.next_wait();
        let (what, action) = (self.what, self.action);
        let is_new = self.outage.began(format!("{error:#}"));
        if is_new {
            warn!(?what, action, error = format!("{error:#}"), ?wait, "failed, trying again");
        } else {
            debug!(?what, action, error = format!("{error:#}"), ?wait, "failed again");
        }
        Metrics::count(&shared.metrics.retried, action, 1);
        let next_end = Instant::now() + wait + shared.limits.attempt_timeout;
        if self.lease_end.is_some_and(|end| next_end > end) {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
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
