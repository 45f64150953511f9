//! Report of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::observations::Observations;
use super::oracle::Outcome;

/// Time range in which a fault was active.
#[derive(Debug, Clone)]
pub(super) struct Injected {
    pub(super) name: String,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// Results for one fault.
///
/// A message counts for every fault that was active when the message was confirmed. It also counts
/// for a fault from which the services were still recovering then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Number of times that the fault was injected.
    pub injected: u64,
    /// Messages whose receipt was confirmed meanwhile.
    pub obligations: u64,
    /// Confirmed messages that are lost.
    pub missing: u64,
    /// Confirmed messages that were changed.
    pub corrupted: u64,
    /// Copies of confirmed messages beyond the first.
    pub duplicates: u64,
    /// Longest time in which the table or the archive did not progress.
    pub longest_pause: Duration,
    /// Longest time from the end of the fault until all replicas were ready and both destinations
    /// had progressed.
    pub recovery: Duration,
}

/// Report of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// One row per fault.
    pub rows: BTreeMap<String, Row>,
    /// The sums over all messages, each counted once.
    pub total: Row,
    /// Failures in words; empty for a run that passed.
    pub failures: Vec<String>,
    /// Measured values, such as growth and latency.
    pub measures: Vec<String>,
    /// Number of readings with an ordering key that arrived, and number of those that came out of
    /// order.
    pub order: (usize, usize),
    /// MQTT connections that ended while a link was slow and no other fault was active.
    pub slow_reconnects: u64,
    /// Most resident megabytes that each replica used, and most that it may use.
    pub memory: BTreeMap<String, (f64, f64)>,
}

impl Report {
    pub(super) fn new(
        outcome: &Outcome,
        observations: &Observations,
        injected: &[Injected],
    ) -> Self {
        let mut report = Self::default();
        let load_end = outcome.obligations.iter().map(|(_, at)| *at).max();
        for event in injected {
            // After the end of the load no progress is expected.
            let recovery = observations.recovery(event.to).unwrap_or_default();
            let until = load_end.map_or(event.to, |end| end.min(event.to + recovery));
            let row = report.rows.entry(event.name.clone()).or_default();
            row.injected += 1;
            row.recovery = row.recovery.max(recovery);
            row.longest_pause =
                row.longest_pause.max(observations.longest_pause(event.from, until));
            row.count(outcome, |at| (event.from..=until).contains(&at));
        }
        report.total.injected = injected.len() as u64;
        report.total.count(outcome, |_| true);
        report.total.corrupted = outcome.corrupted.len() as u64;
        let rows = || report.rows.values();
        report.total.longest_pause = rows().map(|row| row.longest_pause).max().unwrap_or_default();
        report.total.recovery = rows().map(|row| row.recovery).max().unwrap_or_default();
        report.failures.clone_from(&outcome.failures);
        report.failures.extend(observations.incidents.iter().cloned());
        for (what, count) in
            [("missing", report.total.missing), ("corrupted", report.total.corrupted)]
        {
            if count > 0 {
                report.failures.push(format!("{count} {what}"));
            }
        }
        report
    }

    /// Returns true if there are no failures.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Report {
    /// Writes all results that decide about a run in a few lines.
    fn summarize(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { obligations, missing, corrupted, duplicates, .. } = self.total;
        let (came, wrong) = self.order;
        let (pause, recovery) = (self.total.longest_pause, self.total.recovery);
        writeln!(
            f,
            "summary: {obligations} obligations, {missing} missing, {corrupted} corrupted, {duplicates} duplicates; \
             {came} readings in order, {wrong} not; longest pause {:.1} s, longest recovery {:.1} s; \
             {} reconnects during slow links",
            pause.as_secs_f64(),
            recovery.as_secs_f64(),
            self.slow_reconnects
        )?;
        let memory = self.memory.iter();
        let memory: Vec<_> =
            memory.map(|(name, (used, most))| format!("{name} {used:.0} of {most:.0}")).collect();
        writeln!(f, "memory in MB, of what the settings allow: {}", memory.join(", "))
    }
}

impl Row {
    fn count(&mut self, outcome: &Outcome, is_meant: impl Fn(Instant) -> bool) {
        for (sender, _) in outcome.obligations.iter().filter(|(_, at)| is_meant(*at)) {
            self.obligations += 1;
            self.missing += u64::from(outcome.missing.contains(sender));
            self.duplicates += outcome.duplicates.get(sender).copied().unwrap_or(0);
            let is_it = |corrupted: &&Option<_>| corrupted.as_ref() == Some(sender);
            self.corrupted += outcome.corrupted.iter().filter(is_it).count() as u64;
        }
    }
}

/// Most failures that are printed.
const MAX_FAILURES: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24}{:>9}{:>13}{:>9}{:>11}{:>12}{:>9}{:>11}",
            "fault",
            "injected",
            "obligations",
            "missing",
            "corrupted",
            "duplicates",
            "pause s",
            "recovery s"
        )?;
        for (name, row) in self.rows.iter().map(|(name, row)| (name.as_str(), row)) {
            writeln!(f, "{name:<24}{row}")?;
        }
        writeln!(f, "{:<24}{}", "all", self.total)?;
        self.summarize(f)?;
        for measure in &self.measures {
            writeln!(f, "{measure}")?;
        }
        for failure in self.failures.iter().take(MAX_FAILURES) {
            writeln!(f, "WRONG: {failure}")?;
        }
        let rest = self.failures.len().saturating_sub(MAX_FAILURES);
        if rest > 0 {
            writeln!(f, "WRONG: {rest} more")?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { injected, obligations, missing, corrupted, duplicates, .. } = self;
        let (pause, recovery) = (self.longest_pause.as_secs_f64(), self.recovery.as_secs_f64());
        write!(
            f,
            "{injected:>9}{obligations:>13}{missing:>9}{corrupted:>11}{duplicates:>12}{pause:>9.1}{recovery:>11.1}"
        )
    }
}
