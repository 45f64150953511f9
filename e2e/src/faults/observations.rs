//! Watches readiness, progress and resource usage while faults happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::counters::{Counts, ProcessCounters, Progress};
use super::fault_env::FaultEnv;
use super::replica::{ANSWER_TIMEOUT, Replica};
use crate::metrics::Metrics;
use crate::names::POSTGRES;
use crate::usage;

/// Number of destinations.
const DESTINATIONS: usize = 3;
/// Time between two samples.
const STEP: Duration = Duration::from_millis(200);
/// Samples between two reads of all metrics.
const STEPS_A_READING: u64 = 5;

/// State at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// True if every replica that should run was ready.
    is_ready: bool,
    /// Number of requests written to the table, of objects in the bucket, and of rows of PostgreSQL.
    written: [u64; DESTINATIONS],
}

/// Resource usage of one process over its life.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    /// Time in seconds, resident megabytes, and number of open files and sockets.
    pub(super) points: Vec<(f64, f64, f64)>,
}

/// All observations of a run.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) samples: Vec<Sample>,
    /// Resource usage by replica name and process id.
    pub(super) usage: BTreeMap<(String, u32), Usage>,
    /// Processes that ended by themselves, which must never happen.
    pub(super) incidents: Vec<String>,
    /// Counters of the services.
    pub(super) progress: Progress,
    /// Most megabytes that the settings of each replica allow, if the replica reports it.
    pub(super) allowed: BTreeMap<String, f64>,
}

/// Watches until `stopped` is set.
pub(super) async fn observe(
    env: Arc<FaultEnv>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Observations> {
    let mut observations = Observations::default();
    let started = Instant::now();
    let mut steps = 0_u64;
    while !*stopped.borrow_and_update() {
        let replicas = env.replicas();
        let (ready, calls) = tokio::join!(
            join_all(replicas.iter().map(|replica| replica.answers("readyz"))),
            env.embedded.calls(),
        );
        let calls = calls?;
        let count = |method: &str| calls.get(method).copied().unwrap_or(0);
        let stored = observations.progress.sent(POSTGRES);
        let written = [count("AppendRows"), count("storage.objects.insert"), stored];
        let is_ready = ready.iter().all(|is_ready| *is_ready);
        observations.samples.push(Sample { at: Instant::now(), is_ready, written });
        for replica in &replicas {
            observations.read_usage(replica, started)?;
        }
        if steps.is_multiple_of(STEPS_A_READING) {
            observations.read_metrics(&replicas).await;
        }
        steps += 1;
        tokio::select! {
            () = sleep(STEP) => {}
            _ = stopped.changed() => {}
        }
    }
    Ok(observations)
}

impl Observations {
    async fn read_metrics(&mut self, replicas: &[Arc<Replica>]) {
        let ask = async |replica: &Replica| {
            (replica.running(), replica.ask("metrics", ANSWER_TIMEOUT).await)
        };
        let answers = join_all(replicas.iter().map(|replica| ask(replica))).await;
        for (replica, answer) in replicas.iter().zip(answers) {
            if !self.allowed.contains_key(&replica.name()) {
                let status = replica.ask("status", ANSWER_TIMEOUT).await.unwrap_or_default();
                let status: Value = serde_json::from_str(&status).unwrap_or_default();
                let bytes = status["memory"]["needed_bytes"].as_f64();
                self.allowed.extend(bytes.map(|bytes| (replica.name(), bytes / 1024.0 / 1024.0)));
            }
            if let (Some(running), Some(text)) = answer {
                let (service, pid) = (replica.service, running.pid);
                let process = ProcessCounters { service, replica: replica.name(), pid };
                self.progress.add(Instant::now(), process, Counts::of(&Metrics::parse(&text)));
            }
        }
    }

    fn read_usage(&mut self, replica: &Replica, started: Instant) -> anyhow::Result<()> {
        self.incidents.extend(replica.restart_if_ended()?);
        let Some(running) = replica.running() else { return Ok(()) };
        // A process that ends meanwhile has no usage.
        let used = (usage::resident_megabytes(running.pid), usage::open_files(running.pid));
        if let (Ok(megabytes), Ok(files)) = used {
            let seconds = started.elapsed().as_secs_f64();
            let usage = self.usage.entry((replica.name(), running.pid)).or_default();
            usage.points.push((seconds, megabytes, files as f64));
        }
        Ok(())
    }

    /// Returns the time after `end` until all replicas were ready and all destinations had
    /// progressed; `None` if that did not happen.
    pub(super) fn recovery(&self, end: Instant) -> Option<Duration> {
        let at_end = self.samples.iter().rfind(|sample| sample.at <= end)?.written;
        let mut after = self.samples.iter().filter(|sample| sample.at > end);
        let is_well = |sample: &&Sample| {
            sample.is_ready && (0..DESTINATIONS).all(|index| sample.written[index] > at_end[index])
        };
        Some(after.find(is_well)?.at - end)
    }

    /// Returns the longest time between `from` and `to` in which one of the destinations did not
    /// progress.
    pub(super) fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let window = || self.samples.iter().filter(|sample| (from..=to).contains(&sample.at));
        let pause_of = |index: usize| {
            let (mut longest, mut since) = (Duration::ZERO, from);
            let mut last = None;
            for sample in window() {
                longest = longest.max(sample.at - since);
                if last.is_some_and(|last| last < sample.written[index]) {
                    since = sample.at;
                }
                last = Some(sample.written[index]);
            }
            longest
        };
        (0..DESTINATIONS).map(pause_of).max().unwrap_or_default()
    }

    /// Returns the rise of a value per hour for each replica, by least squares. It is taken over
    /// the life of the process that lived longest.
    pub(super) fn slopes(&self, value: impl Fn(&(f64, f64, f64)) -> f64) -> BTreeMap<String, f64> {
        let mut longest: BTreeMap<String, &Usage> = BTreeMap::new();
        for ((name, _), usage) in &self.usage {
            let known = longest.entry(name.clone()).or_insert(usage);
            if usage.points.len() > known.points.len() {
                *known = usage;
            }
        }
        let slope = |usage: &Usage| {
            let points: Vec<_> =
                usage.points.iter().map(|point| (point.0 / 3600.0, value(point))).collect();
            slope(&points)
        };
        longest.into_iter().map(|(name, usage)| (name, slope(usage))).collect()
    }
}

/// Returns the slope of the straight line through points, by least squares; 0 for fewer than two
/// points.
pub(super) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_line() {
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), 2.0);
        assert_eq!(slope(&[(1.0, 1.0)]), 0.0);
        assert_eq!(slope(&[]), 0.0);
    }

    #[test]
    fn pauses_and_recoveries_are_those_of_the_slower_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let sample = |seconds, is_ready, written| Sample { at: at(seconds), is_ready, written };
        let observations = Observations {
            samples: vec![
                sample(0, true, [1, 1, 1]),
                sample(1, true, [2, 1, 2]),
                sample(2, false, [3, 1, 3]),
                sample(3, false, [4, 2, 4]),
                sample(4, true, [5, 2, 5]),
                sample(5, true, [6, 3, 6]),
            ],
            ..Observations::default()
        };

        assert_eq!(observations.longest_pause(at(0), at(5)), Duration::from_secs(3));
        assert_eq!(observations.recovery(at(2)), Some(Duration::from_secs(2)));
        assert_eq!(observations.recovery(at(4)), Some(Duration::from_secs(1)));
        assert_eq!(observations.recovery(at(5)), None);
    }
}
