//! State of all services, as the page shows it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::samples::Buckets;
use crate::stage::WaitingFor;
use crate::window::Trend;

/// State without the rights of a viewer, which differ.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    pub at: String,
    pub ready: bool,
    pub viewers: usize,
    pub stages: Vec<StageState>,
    pub end_to_end: Vec<EndToEnd>,
    pub dead_letters: DeadLetters,
    pub tap: TapState,
}

/// State of a service.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StageState {
    pub name: String,
    pub kind: Kind,
    pub from: Option<String>,
    pub replicas: Vec<ReplicaState>,
    pub received_per_second: f64,
    pub sent_per_second: f64,
    pub in_flight: u64,
    pub backlog: Option<u64>,
    pub oldest_seconds: f64,
    pub received: u64,
    pub sent: u64,
    pub skipped: u64,
    pub dead_lettered: u64,
    pub dropped: u64,
    pub nacked: u64,
    pub latency: Option<Latency>,
    pub slowest: bool,
    pub guarantees: Vec<String>,
    /// Growth by which the slowest one is found.
    #[serde(skip)]
    pub trend: Trend,
}

/// Place of a service in the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    #[default]
    Source,
    Transform,
    Sink,
}

/// State of one process.
#[derive(Debug, Serialize)]
pub(crate) struct ReplicaState {
    pub address: String,
    pub reachable: bool,
    pub ready: bool,
    pub version: String,
    pub waiting_for: Vec<WaitingFor>,
}

/// Ages of the messages of the last minute.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    pub count: u64,
}

impl Latency {
    /// Returns `None` without messages.
    pub(crate) fn of(ages: &Buckets) -> Option<Self> {
        let (p50, p99) = (ages.quantile(0.5)?, ages.quantile(0.99)?);
        Some(Self { p50_seconds: p50, p99_seconds: p99, count: ages.count() })
    }
}

/// Ages of messages since their ingest, in the last minute.
#[derive(Debug, Serialize)]
pub(crate) struct EndToEnd {
    pub sink: String,
    #[serde(flatten)]
    pub latency: Latency,
}

/// Dead letters of all services.
#[derive(Debug, Serialize)]
pub(crate) struct DeadLetters {
    pub total: u64,
    pub by_reason: Vec<ReasonCount>,
    pub recent: Vec<LetterState>,
    /// Reason why `recent` is not complete, for people.
    pub unavailable: Option<String>,
}

/// Number of dead letters.
#[derive(Debug, Serialize)]
pub(crate) struct ReasonCount {
    pub stage: String,
    pub reason: String,
    pub count: u64,
}

impl ReasonCount {
    /// Lists the numbers of a stage.
    pub(crate) fn all<'a>(
        stage: &'a str,
        reasons: &'a BTreeMap<String, u64>,
    ) -> impl Iterator<Item = Self> + use<'a> {
        reasons.iter().filter(|(_, count)| **count > 0).map(|(reason, count)| Self {
            stage: stage.to_owned(),
            reason: reason.clone(),
            count: *count,
        })
    }
}

/// A dead letter that was written lately.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LetterState {
    pub id: String,
    pub stage: String,
    pub reason: String,
    /// Only for viewers who may see payloads, because it may quote them.
    pub detail: Option<String>,
    pub why: String,
    pub at: String,
    pub ingest_id: String,
    pub device_id: String,
    pub replayable: bool,
    /// Only for viewers who may see payloads.
    pub payload: Option<String>,
}

/// Viewers of samples.
#[derive(Debug, Serialize)]
pub(crate) struct TapState {
    pub viewers: usize,
    pub dropped: u64,
}

impl State {
    /// Writes the state for viewers who may see payloads.
    pub(crate) fn with_payloads(&self) -> String {
        // Texts and numbers always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Removes what comes from messages.
    pub(crate) fn remove_payloads(&mut self) {
        for letter in &mut self.dead_letters.recent {
            (letter.detail, letter.payload) = (None, None);
        }
    }
}

/// Growth of the oldest age in seconds below which no stage counts as slow.
const MIN_SECONDS: f64 = 2.0;
/// Growth of the backlog in messages below which no stage counts as slow.
const MIN_MESSAGES: f64 = 100.0;

/// Marks the stage that falls behind most, if one does.
pub(crate) fn mark_slowest(stages: &mut [StageState]) {
    let weight = |stage: &StageState| {
        let Trend { messages, seconds } = stage.trend;
        // A backlog counts as the time that the stage needs for it.
        let work = messages / stage.sent_per_second.max(1.0);
        let behind = [(seconds, seconds >= MIN_SECONDS), (work, messages >= MIN_MESSAGES)];
        behind.into_iter().filter(|(_, counts)| *counts).map(|(weight, _)| weight).sum::<f64>()
    };
    let weights = stages.iter().map(weight).enumerate();
    let slowest = weights.max_by(|(_, one), (_, other)| one.total_cmp(other));
    if let Some((index, weight)) = slowest
        && weight > 0.0
        && let Some(stage) = stages.get_mut(index)
    {
        stage.slowest = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(trend: Trend) -> StageState {
        StageState { sent_per_second: 10.0, trend, ..StageState::default() }
    }

    fn slowest<const N: usize>(trends: [(f64, f64); N]) -> Option<usize> {
        let trends = trends.map(|(messages, seconds)| Trend { messages, seconds });
        let mut stages = trends.map(stage);
        mark_slowest(&mut stages);
        let marked: Vec<_> = (0..N).filter(|index| stages[*index].slowest).collect();
        assert!(marked.len() <= 1, "{marked:?}");
        marked.first().copied()
    }

    #[test]
    fn the_stage_that_falls_behind_most_is_the_slowest() {
        assert_eq!(slowest([(0.0, 0.0), (99.0, 1.9), (-500.0, -9.0)]), None, "this is noise");
        assert_eq!(slowest([(0.0, 3.0), (0.0, 9.0), (0.0, 0.0)]), Some(1));
        assert_eq!(slowest([(0.0, 3.0), (2000.0, 0.0)]), Some(1));
    }
}
