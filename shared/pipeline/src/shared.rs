//! State that all lanes of a pipeline share.

use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::bound::{InFlight, Memory};
use crate::dead_letter::Policy;
use crate::pace::Pace;
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
    pub in_flight: Arc<InFlight>,
    pub memory: Arc<Memory>,
    pub outage: Outage,
    pub letter_outage: Outage,
    pub pace: Pace,
    /// Pace of the dead letters, which are written outside of batches.
    pub letter_pace: Pace,
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

    pub(crate) fn gauge(&self) {
        let in_flight = i64::try_from(self.in_flight.messages()).unwrap_or(i64::MAX);
        self.metrics.in_flight.set(in_flight);
    }
}

/// Current outage of the destination: its reason and its start. Empty while writes succeed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage(Arc<Mutex<Option<(String, OffsetDateTime)>>>);

impl Outage {
    /// Returns its reason and its start.
    pub(crate) fn current(&self) -> Option<(String, OffsetDateTime)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a failed attempt. Returns true for the first failure of a series.
    pub(crate) fn began(&self, reason: String) -> bool {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = outage.is_none();
        let since = outage.as_ref().map_or_else(OffsetDateTime::now_utc, |(_, since)| *since);
        *outage = Some((reason, since));
        is_new
    }

    pub(crate) fn over(&self) {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if outage.take().is_some() {
            info!("writes succeed again");
        }
    }
}
