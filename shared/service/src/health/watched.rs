//! State of the pipelines of a process, for its health.

use std::time::Duration;

use pipeline::Status;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// The pipelines of a process. If there are several, each text begins with the name of its pipeline.
#[derive(Debug, Default)]
pub(super) struct WatchedPipelines(Vec<WatchedPipeline>);

#[derive(Debug)]
struct WatchedPipeline {
    status: Status,
    metrics: pipeline::Metrics,
}

/// Counts that `/status` shows, of one pipeline or of all.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Counts {
    received: u64,
    sent: u64,
    in_flight_messages: usize,
    in_flight_bytes: usize,
    batch_memory_bytes: usize,
}

/// Distance of a pipeline to the newest message.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Lag {
    oldest_unsettled_seconds: i64,
    in_flight_messages: usize,
}

impl WatchedPipelines {
    pub(super) fn add(&mut self, status: Status, metrics: pipeline::Metrics) {
        self.0.push(WatchedPipeline { status, metrics });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the state of each pipeline.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.0.iter().map(|watched| &watched.status)
    }

    /// Returns the reasons of all outages of a kind, and the start of the first one.
    pub(super) fn outage(
        &self,
        of: fn(&Status) -> Option<(String, OffsetDateTime)>,
    ) -> Option<(String, OffsetDateTime)> {
        self.texts(of).reduce(|(reasons, first), (reason, since)| {
            (format!("{reasons}; {reason}"), first.min(since))
        })
    }

    /// Returns the newest failure of a kind.
    pub(super) fn last_failure(
        &self,
        of: fn(&Status) -> Option<(String, OffsetDateTime)>,
    ) -> Option<(String, OffsetDateTime)> {
        self.texts(of).max_by_key(|(_, at)| *at)
    }

    /// Returns a text about a task that hangs.
    pub(super) fn stalled(&self) -> Option<String> {
        let hang = |(task, silent): (String, Duration)| {
            format!("{task} has shown no sign of life for {silent:?}")
        };
        self.texts(move |status| status.stalled().map(|stalled| (hang(stalled), ())))
            .next()
            .map(|(text, ())| text)
    }

    /// Adds the counts and the lag to the report of `/status`: sums, and the age of the oldest message
    /// of all. If there are several pipelines, adds those of each one too.
    pub(super) fn report(&self, report: &mut Map<String, Value>) {
        if self.is_empty() {
            return;
        }
        let all = self.0.iter().map(WatchedPipeline::state);
        let (counts, lag) = all
            .fold(<(Counts, Lag)>::default(), |sum, one| (sum.0.plus(one.0), sum.1.worst(one.1)));
        report.insert("counts".into(), json!(counts));
        report.insert("lag".into(), json!(lag));
        if self.0.len() > 1 {
            let each = self.0.iter().map(|watched| {
                let (counts, lag) = watched.state();
                (watched.status.pipeline().to_owned(), json!({ "counts": counts, "lag": lag }))
            });
            report.insert("pipelines".into(), each.collect::<Map<_, _>>().into());
        }
    }

    /// Returns what all pipelines say.
    fn texts<A>(
        &self,
        of: impl Fn(&Status) -> Option<(String, A)>,
    ) -> impl Iterator<Item = (String, A)> {
        self.statuses().filter_map(move |status| {
            let (text, at) = of(status)?;
            let is_only = self.0.len() == 1;
            Some((if is_only { text } else { format!("{}: {text}", status.pipeline()) }, at))
        })
    }
}

impl WatchedPipeline {
    fn state(&self) -> (Counts, Lag) {
        let (in_flight_messages, in_flight_bytes) = self.status.in_flight();
        let counts = Counts {
            received: self.metrics.received.get(),
            sent: self.metrics.sent.get(),
            in_flight_messages,
            in_flight_bytes,
            batch_memory_bytes: self.status.batch_memory(),
        };
        let oldest_unsettled_seconds = self.metrics.oldest_unacked.oldest_seconds();
        (counts, Lag { oldest_unsettled_seconds, in_flight_messages })
    }
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            sent: self.sent + other.sent,
            in_flight_messages: self.in_flight_messages + other.in_flight_messages,
            in_flight_bytes: self.in_flight_bytes + other.in_flight_bytes,
            batch_memory_bytes: self.batch_memory_bytes + other.batch_memory_bytes,
        }
    }
}

impl Lag {
    fn worst(self, other: Self) -> Self {
        Self {
            oldest_unsettled_seconds: self
                .oldest_unsettled_seconds
                .max(other.oldest_unsettled_seconds),
            in_flight_messages: self.in_flight_messages + other.in_flight_messages,
        }
    }
}
