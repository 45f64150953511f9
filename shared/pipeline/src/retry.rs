//! The retry loop of the pipeline: back-off, log line, metric, and the end of a series of attempts.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::shared::Outage;
use crate::{Error, Recovery};

/// An action that is attempted until it succeeds.
pub(crate) trait Attempt: Send {
    type Done: Send;

    /// Makes one attempt.
    fn attempt(&mut self) -> impl Future<Output = Result<Self::Done, Failure>> + Send;
}

/// A series of attempts at one action. It ends with the first of these:
///
/// - An attempt succeeds.
/// - An attempt fails, and another one would fail too ([`Failure::Final`]).
/// - The lease of a message would end before another attempt does.
/// - The future of the series is dropped. A pipeline does that at the end of its grace period.
pub(crate) struct Series<'a> {
    /// Name of the action in the metric of retried attempts.
    pub action: &'static str,
    pub backoff: Backoff,
    /// Time when the first lease of the messages ends.
    pub lease_end: Option<Instant>,
    /// Time that an attempt needs before the lease ends.
    pub attempt_time: Duration,
    pub report: Report<'a>,
    pub metrics: &'a Metrics,
}

/// Report of failed attempts.
pub(crate) enum Report<'a> {
    /// Nothing. Many messages may wait for the same reason, so each would repeat the same line.
    Nothing,
    /// Logs each failure of the source.
    Source,
    /// Records each failure of the destination as an outage. Logs the first failure of an outage as
    /// a warning.
    Outage {
        /// Description of the written item, for the log.
        what: &'a (dyn Debug + Sync),
        outage: &'a Outage,
    },
}

/// Failure of one attempt.
pub(crate) enum Failure {
    /// Another attempt may succeed.
    Again(Error),
    /// Another attempt would be useless.
    Final(Error),
}

/// Another attempt is made only if the error asks for it.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.recovery() == Recovery::Retry { Self::Again(error) } else { Self::Final(error) }
    }
}

impl Series<'_> {
    /// Attempts an action until the series ends. It is as cancel safe as one attempt.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub(crate) async fn run<A: Attempt>(self, mut action: A) -> Result<A::Done, Error> {
        let mut waits = self.backoff.waits();
        loop {
            let error = match action.attempt().await {
                Ok(done) => return Ok(done),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => error,
            };
            let (wait, is_last) = self.within_lease(waits.next_wait());
            self.report(&error, (!is_last).then_some(wait));
            if is_last {
                return Err(error);
            }
            Metrics::count(&self.metrics.retried, self.action, 1);
            sleep(wait).await;
        }
    }

    /// Returns the wait before the next attempt. Also returns whether there is no time for one.
    ///
    /// Near the end of a short lease the wait is half of the time that is left, so that a client
    /// whose destination comes back is not told of a failure.
    fn within_lease(&self, wait: Duration) -> (Duration, bool) {
        let Some(end) = self.lease_end else { return (wait, false) };
        let half = end.saturating_duration_since(Instant::now()) / 2;
        if self.attempt_time.is_zero() && wait > half {
            return (half, half < self.backoff.min);
        }
        (wait, Instant::now() + wait + self.attempt_time >= end)
    }

    /// Reports a failure. `wait` is the time until the next attempt, if there is one.
    fn report(&self, error: &Error, wait: Option<Duration>) {
        let action = self.action;
        match self.report {
            Report::Nothing => {}
            Report::Source => {
                warn!(error = format!("{error:#}"), ?wait, "the source failed, asking again");
            }
            Report::Outage { what, outage } => {
                let error = format!("{error:#}");
                let is_new = outage.began(error.clone());
                match wait {
                    Some(wait) if is_new => {
                        warn!(?what, action, error, ?wait, "failed, trying again");
                    }
                    Some(wait) => debug!(?what, action, error, ?wait, "failed again"),
                    None if is_new => warn!(?what, action, error, "failed, and the lease ends"),
                    None => debug!(?what, action, error, "failed again, and the lease ends"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ReasonLabel;

    const SECOND: Duration = Duration::from_secs(1);

    /// An action whose first attempts fail with these recoveries.
    struct ScriptedAttempt<'a> {
        failures: std::slice::Iter<'a, Recovery>,
        attempts: &'a mut usize,
    }

    impl Attempt for ScriptedAttempt<'_> {
        type Done = ();

        async fn attempt(&mut self) -> Result<(), Failure> {
            *self.attempts += 1;
            match self.failures.next() {
                Some(recovery) => Err(recovery.because("write", "no").into()),
                None => Ok(()),
            }
        }
    }

    /// Runs a series whose attempts fail with these recoveries, then succeed. Returns the number of
    /// attempts, the number of counted retries, and true if the series succeeded.
    async fn run(series: Series<'_>, failures: &[Recovery]) -> (usize, u64, bool) {
        let retried = series.metrics.retried.clone();
        let mut attempts = 0;
        let action = ScriptedAttempt { failures: failures.iter(), attempts: &mut attempts };
        let is_done = series.run(action).await.is_ok();
        (attempts, retried.get_or_create(&ReasonLabel { reason: "write" }).get(), is_done)
    }

    fn series(metrics: &Metrics) -> Series<'_> {
        Series {
            action: "write",
            backoff: Backoff { min: SECOND, max: SECOND },
            lease_end: None,
            attempt_time: Duration::ZERO,
            report: Report::Nothing,
            metrics,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_made_until_one_succeeds() {
        let (metrics, start) = (Metrics::default(), Instant::now());

        let outcome = run(series(&metrics), &[Recovery::Retry; 4]).await;

        assert_eq!(outcome, (5, 4, true));
        assert!((2 * SECOND..=5 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_does_not_ask_for_another_attempt_is_final() {
        for recovery in [Recovery::Nack, Recovery::Stop] {
            let metrics = Metrics::default();

            assert_eq!(run(series(&metrics), &[Recovery::Retry, recovery]).await, (2, 1, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_begins_that_would_end_after_the_lease() {
        let metrics = Metrics::default();
        let lease_end = Some(Instant::now() + 10 * SECOND);
        let in_time = Series { lease_end, attempt_time: 9 * SECOND, ..series(&metrics) };
        let late = Series { lease_end, attempt_time: 10 * SECOND, ..series(&metrics) };

        assert_eq!(run(late, &[Recovery::Retry]).await, (1, 0, false));
        assert_eq!(run(in_time, &[Recovery::Retry]).await, (2, 1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_come_closer_to_each_other_at_the_end_of_a_short_lease() {
        let (metrics, start) = (Metrics::default(), Instant::now());
        let backoff = Backoff { min: SECOND / 10, max: 30 * SECOND };
        let lease_end = Some(start + 9 * SECOND);
        let short = Series { lease_end, backoff, ..series(&metrics) };

        let (attempts, ..) = run(short, &[Recovery::Retry; 100]).await;

        let last = start.elapsed();
        assert!((8 * SECOND..9 * SECOND).contains(&last), "the last attempt was after {last:?}");
        assert!((8..20).contains(&attempts), "{attempts} attempts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_an_outage_even_if_its_lease_allows_no_other_attempt() {
        let (metrics, outage) = (Metrics::default(), Outage::default());
        let report = Report::Outage { what: &"batch", outage: &outage };
        let lease_end = Some(Instant::now());

        let outcome =
            run(Series { lease_end, report, ..series(&metrics) }, &[Recovery::Retry]).await;

        assert_eq!(outcome, (1, 0, false), "no attempt follows, so there is no retry");
        assert_eq!(outage.current().map(|(why, _)| why).as_deref(), Some("write: no"));
    }
}
