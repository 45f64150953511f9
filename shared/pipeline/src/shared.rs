//! State that all lanes of a pipeline share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::bound::{InFlight, MemoryBudget};
use crate::dead_letter::Policy;
use crate::hops::Shown;
use crate::pace::Pace;
use crate::spacing::Spacing;
use crate::suspects::Suspects;
use crate::{Error, Limits, Metrics};

/// State that all lanes of a pipeline share.
pub(crate) struct Shared<T, S, D> {
    pub service: &'static str,
    pub transform: T,
    pub sink: S,
    pub dead_letters: Policy<D>,
    pub limits: Limits,
    pub metrics: Metrics,
    /// Hops for those who watch.
    pub shown: Shown,
    pub in_flight: Arc<InFlight>,
    pub memory: Arc<MemoryBudget>,
    pub outage: Outage,
    pub dead_letter_outage: Outage,
    pub pace: Pace,
    /// Pace of the dead letters, which are written outside of batches.
    pub dead_letter_pace: Pace,
    pub dead_letter_spacing: Spacing,
    pub suspects: Option<Arc<Suspects>>,
    pub failure: mpsc::Sender<Error>,
}

impl<T, S, D> Shared<T, S, D> {
    /// Asks for the end of the service. Only the first reason is reported; later ones are logged.
    pub(crate) fn fail(&self, error: Error) {
        if let Err(mpsc::error::TrySendError::Full(later)) = self.failure.try_send(error) {
            warn!(error = format!("{later:#}"), "failed again while going down");
        }
    }
}

/// Outages of the destination: the current one and the last failure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage(Arc<Mutex<Failures>>);

#[derive(Debug, Default)]
struct Failures {
    /// Start of the current outage. Empty while writes succeed.
    since: Option<OffsetDateTime>,
    /// Reason and time of the last failure. It stays when the outage is over.
    last: Option<(String, OffsetDateTime)>,
}

impl Outage {
    /// Returns the reason and the start of the current outage.
    pub(crate) fn current(&self) -> Option<(String, OffsetDateTime)> {
        let failures = self.lock();
        let (reason, _) = failures.last.clone()?;
        Some((reason, failures.since?))
    }

    /// Returns the reason and the time of the last failure, also after the outage.
    pub(crate) fn last_failure(&self) -> Option<(String, OffsetDateTime)> {
        self.lock().last.clone()
    }

    /// Records a failed attempt. Returns true for the first failure of a series.
    pub(crate) fn began(&self, reason: String) -> bool {
        let now = OffsetDateTime::now_utc();
        let mut failures = self.lock();
        let is_new = failures.since.is_none();
        failures.since.get_or_insert(now);
        failures.last = Some((reason, now));
        is_new
    }

    pub(crate) fn over(&self) {
        if self.lock().since.take().is_some() {
            info!("writes succeed again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
