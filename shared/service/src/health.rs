//! Health that a process reports about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipeline::Status;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;
use tracing::{info, warn};

use watched::WatchedPipelines;

mod watched;

/// Name of the condition that holds while the pipeline's writes succeed.
const DESTINATION: &str = "destination";
/// Name of the condition that holds while dead letters can be written.
const DEAD_LETTERS: &str = "dead_letters";

/// Health of a process. Clones share the same state.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    conditions: BTreeMap<&'static str, ConditionState>,
    pipelines: WatchedPipelines,
    facts: Map<String, Value>,
    /// Facts that are asked for when they are shown.
    asked: BTreeMap<String, Fact>,
    /// Last error of a [`Condition`].
    last_error: Option<(String, OffsetDateTime)>,
    failure: Option<String>,
    /// True if the service works without a pipeline.
    serves: bool,
}

/// Returns a fact as it is now.
struct Fact(Arc<dyn Fn() -> Value + Send + Sync>);

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fact")
    }
}

/// State of one dependency.
#[derive(Debug, Clone, Serialize)]
pub struct ConditionState {
    /// True if the dependency is available.
    pub ready: bool,
    /// Reason why the dependency is not available. Empty when it is.
    pub reason: String,
    /// Time at which `ready` last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// Dependency that must be available before the process is ready.
#[derive(Debug, Clone)]
pub struct Condition {
    health: Health,
    name: &'static str,
}

/// Pauses between two checks of a dependency.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// Pause while the dependency is available. An outage usually shows earlier elsewhere.
    pub ready: Duration,
    /// Pause while it is not available.
    pub not_ready: Duration,
}

impl Health {
    /// Adds a dependency that is not available yet.
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Condition {
        let since = OffsetDateTime::now_utc();
        let state = ConditionState { ready: false, reason: "not reached yet".into(), since };
        self.lock().conditions.insert(name, state);
        Condition { health: self.clone(), name }
    }

    /// Adds a pipeline. Its outages make the process not ready. A stalled task makes the process
    /// unhealthy.
    pub(crate) fn watch(&self, status: Status, metrics: pipeline::Metrics) {
        self.lock().pipelines.add(status, metrics);
    }

    /// Notes that the service works without a pipeline.
    pub(crate) fn serve(&self) {
        self.lock().serves = true;
    }

    /// Adds a fact to `/status`, such as the guarantee of each route.
    pub fn tell(&self, name: &str, fact: impl Into<Value>) {
        self.lock().facts.insert(name.to_owned(), fact.into());
    }

    /// Adds a fact to `/status` that changes often. `fact` is called at each request, and must not
    /// block.
    pub fn ask(&self, name: &str, fact: impl Fn() -> Value + Send + Sync + 'static) {
        self.lock().asked.insert(name.to_owned(), Fact(Arc::new(fact)));
    }

    /// Reports that the service has failed permanently.
    pub fn fail(&self, reason: String) {
        self.lock().failure = Some(reason);
    }

    /// Returns the state of all dependencies, including the destination and the dead letters of each
    /// pipeline during an outage.
    #[must_use]
    pub fn conditions(&self) -> BTreeMap<&'static str, ConditionState> {
        let inner = self.lock();
        let mut conditions = inner.conditions.clone();
        let outages = [
            (DESTINATION, inner.pipelines.outage(Status::outage)),
            (DEAD_LETTERS, inner.pipelines.outage(Status::dead_letter_outage)),
        ];
        for (name, outage) in outages {
            if let Some((reason, since)) = outage {
                conditions.insert(name, ConditionState { ready: false, reason, since });
            }
        }
        conditions
    }

    /// Returns whether every dependency is available, and a pipeline runs or none is needed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = self.lock();
        let is_started = inner.serves || !inner.pipelines.is_empty();
        drop(inner);
        is_started && self.conditions().values().all(|state| state.ready)
    }

    /// Returns the reason why the process must be restarted. Returns `None` while the process is
    /// healthy.
    #[must_use]
    pub fn dead(&self) -> Option<String> {
        let inner = self.lock();
        inner.failure.clone().or_else(|| inner.pipelines.stalled())
    }

    /// Records in the crash file of each pipeline that the process ends now, and that no message
    /// caused this.
    pub(crate) fn excuse(&self) {
        let statuses: Vec<_> = self.lock().pipelines.statuses().cloned().collect();
        statuses.iter().for_each(Status::excuse);
    }

    /// Returns everything that `/status` shows.
    #[must_use]
    pub fn report(&self) -> Value {
        let conditions = self.conditions();
        let is_ready = self.is_ready();
        let inner = self.lock();
        let mut report = inner.facts.clone();
        report.extend(inner.asked.iter().map(|(name, fact)| (name.clone(), (fact.0)())));
        report.insert("ready".into(), is_ready.into());
        let (last_error, at) = inner.last_error().unzip();
        report.insert("last_error".into(), last_error.into());
        let at = at.and_then(|at| at.format(&Rfc3339).ok());
        report.insert("last_error_at".into(), at.into());
        report.insert("conditions".into(), serde_json::json!(conditions));
        inner.pipelines.report(&mut report);
        report.into()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns the newest error of a dependency or of a write, and its time. It stays when it is over.
    fn last_error(&self) -> Option<(String, OffsetDateTime)> {
        let of_pipelines = |name, last: fn(&Status) -> _| {
            let (reason, at) = self.pipelines.last_failure(last)?;
            Some((format!("{name}: {reason}"), at))
        };
        let errors = [
            self.last_error.clone(),
            of_pipelines(DESTINATION, Status::last_failure),
            of_pipelines(DEAD_LETTERS, Status::last_dead_letter_failure),
        ];
        errors.into_iter().flatten().max_by_key(|(_, at)| *at)
    }
}

impl Condition {
    /// Marks the dependency as available.
    pub fn ready(&self) {
        if self.set(true, String::new()) {
            info!(dependency = self.name, "ready");
        }
    }

    /// Marks the dependency as not available yet, though nothing is wrong. `step` names the current
    /// step of the start.
    pub fn pending(&self, step: impl Into<String>) {
        let step = step.into();
        if self.set(false, step.clone()) {
            info!(dependency = self.name, step, "not ready yet");
        }
    }

    /// Marks the dependency as not available. `reason` names the problem.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(false, reason.clone()) {
            warn!(dependency = self.name, reason, "not ready");
            let error = (format!("{}: {reason}", self.name), OffsetDateTime::now_utc());
            self.health.lock().last_error = Some(error);
        }
    }

    /// Sets the state to the result of a check. Returns true if the dependency is available.
    fn report(&self, checked: Result<(), String>) -> bool {
        let is_ready = checked.is_ok();
        match checked {
            Ok(()) => self.ready(),
            Err(reason) => self.not_ready(reason),
        }
        is_ready
    }

    /// Checks the dependency until it is available, with this pause between two checks. The error of
    /// a check is the reason why the dependency is not available.
    pub async fn wait<F>(&self, mut check: impl FnMut() -> F, pause: Duration)
    where
        F: Future<Output = Result<(), String>>,
    {
        while !self.report(check().await) {
            sleep(pause).await;
        }
    }

    /// Checks the dependency again and again. Never returns.
    pub async fn watch<F>(&self, mut check: impl FnMut() -> F, pauses: Pauses)
    where
        F: Future<Output = Result<(), String>>,
    {
        loop {
            let is_ready = self.report(check().await);
            sleep(if is_ready { pauses.ready } else { pauses.not_ready }).await;
        }
    }

    /// Sets the state. Returns true if that changed anything.
    fn set(&self, ready: bool, reason: String) -> bool {
        let mut inner = self.health.lock();
        let Some(state) = inner.conditions.get_mut(self.name) else { return false };
        let is_new = state.ready != ready || state.reason != reason;
        if state.ready != ready {
            state.since = OffsetDateTime::now_utc();
        }
        (state.ready, state.reason) = (ready, reason);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[test]
    fn a_fact_is_asked_for_at_each_report() {
        let (health, count) = (Health::default(), Mutex::new(0));
        health.ask("asked", move || {
            let mut count = count.lock().unwrap();
            *count += 1;
            (*count).into()
        });

        assert_eq!(
            [health.report(), health.report()].map(|report| report["asked"].clone()),
            [1, 2]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dependency_is_checked_more_often_while_it_is_away() {
        let health = Health::default();
        let condition = health.condition("disk");
        let (began, mut checked) = (Instant::now(), Vec::new());
        let mut answers = [Ok(()), Err("away"), Err("away"), Ok(())].into_iter();
        let check = || {
            checked.push((began.elapsed().as_secs(), health.conditions()["disk"].ready));
            let answer = answers.next();
            async move {
                match answer {
                    Some(answer) => answer.map_err(str::to_owned),
                    None => pending().await,
                }
            }
        };
        let pauses = Pauses { ready: Duration::from_secs(30), not_ready: Duration::from_secs(1) };

        let watched = timeout(Duration::from_secs(100), condition.watch(check, pauses)).await;

        assert!(watched.is_err(), "it never returns");
        assert_eq!(checked, [(0, false), (30, true), (31, false), (32, false), (62, true)]);
    }
}
