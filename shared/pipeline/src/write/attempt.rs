//! Attempts to write a batch, until one succeeds or there is no point in another.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::backoff::Waits;
use crate::metrics::Metrics;
use crate::panics;
use crate::runner::{Outage, Shared};
use crate::{Error, Recovery, Refusal, Sink, Transform};

/// How a series of attempts ended.
pub(super) enum Ending {
    Durable(Vec<Refusal>),
    /// An attempt took all of its time, and the batch can be split.
    TooSlow,
    Failed(Error),
}

/// What is attempted.
pub(super) struct Target<'a, S: Sink> {
    pub key: &'a S::Key,
    pub sealed: &'a S::Sealed,
    pub bytes: usize,
    /// When the first lease of a message in it ends.
    pub lease_end: Option<Instant>,
    /// Whether splitting it is possible, and worth it after a time-out.
    pub can_split: bool,
}

/// What is tried again, for whom a lease may end meanwhile.
pub(super) struct Series<'a, W: ?Sized> {
    /// What is written, for the log.
    pub what: &'a W,
    /// The action, as the metric of repeated attempts has it.
    pub action: &'static str,
    pub lease_end: Option<Instant>,
    pub waits: Waits,
    /// What is out of reach meanwhile.
    pub outage: Outage,
}

/// Attempts a write until it succeeds, fails permanently, or the lease of a message in it ends.
pub(super) async fn attempt<T, S, D>(shared: &Shared<T, S, D>, target: Target<'_, S>) -> Ending
where
    T: Transform,
    S: Sink<Record = T::Record>,
{
    let Target { key, sealed, bytes, lease_end, can_split } = target;
    let waits = shared.limits.retry.waits();
    let outage = shared.outage.clone();
    let mut series = Series { what: key, action: "write", lease_end, waits, outage };
    loop {
        let Some(turn) = before(lease_end, shared.pace.turn()).await else {
            let late = "its lease has ended: it may have been delivered again";
            return Ending::Failed(Recovery::Retry.because("write batch", late));
        };
        let limit = within(lease_end, turn.time_limit(bytes), shared);
        let started = Instant::now();
        let write = panics::catch_async("write batch", shared.sink.write(sealed, limit));
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

/// Waits no longer than a lease: what is written after its end would overtake what came meanwhile.
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

/// A time limit that ends with the lease, but leaves the usual time at least.
pub(super) fn within<T, S, D>(
    lease_end: Option<Instant>,
    limit: Duration,
    shared: &Shared<T, S, D>,
) -> Duration {
    let usual = shared.limits.attempt_timeout;
    let left = lease_end.map(|end| end.saturating_duration_since(Instant::now()));
    left.map_or(limit, |left| limit.min(left.max(usual)))
}

impl<W: Debug + ?Sized> Series<'_, W> {
    /// Waits before the next attempt; false when the lease would not last until its end.
    pub(super) async fn wait<T, S, D>(&mut self, shared: &Shared<T, S, D>, error: &Error) -> bool
    where
        T: Transform,
        S: Sink<Record = T::Record>,
    {
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
