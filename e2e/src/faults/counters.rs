//! Counters of the services, over time.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Metrics, RECEIVED, SENT};

/// Counters of one process, or sums over several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages that the source delivered.
    pub(super) received: u64,
    /// Records that are durable at the destination.
    pub(super) sent: u64,
    /// Encoded bytes of these records.
    pub(super) sent_bytes: u64,
    /// MQTT connections that ended.
    pub(super) reconnects: u64,
}

impl Counts {
    /// Takes the counters from the metrics of a service; a missing counter is 0.
    pub(super) fn of(metrics: &Metrics) -> Self {
        Self {
            received: metrics.count(RECEIVED),
            sent: metrics.count(SENT),
            sent_bytes: metrics.pipeline("sent_bytes_total"),
            reconnects: metrics.count("dataflow_ingestion_reconnects_total"),
        }
    }

    fn combine(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            received: with(self.received, other.received),
            sent: with(self.sent, other.sent),
            sent_bytes: with(self.sent_bytes, other.sent_bytes),
            reconnects: with(self.reconnects, other.reconnects),
        }
    }
}

/// One process of a replica.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessCounters {
    pub(super) service: &'static str,
    pub(super) replica: String,
    pub(super) pid: u32,
}

/// Sums per service over time. A process that has ended keeps its last counts.
#[derive(Debug, Default)]
pub(super) struct Progress {
    newest: BTreeMap<ProcessCounters, Counts>,
    points: Vec<(Instant, &'static str, Counts)>,
}

impl Progress {
    /// Adds the counts of a process at this time.
    pub(super) fn add(&mut self, at: Instant, process: ProcessCounters, counts: Counts) {
        let service = process.service;
        self.newest.insert(process, counts);
        let processes = self.newest.iter().filter(|(process, _)| process.service == service);
        let sum = processes
            .fold(Counts::default(), |sum, (_, counts)| sum.combine(*counts, u64::saturating_add));
        self.points.push((at, service, sum));
    }

    fn of<'a>(&'a self, service: &'a str) -> impl DoubleEndedIterator<Item = (Instant, Counts)> {
        let points = self.points.iter().filter(move |(_, other, _)| *other == service);
        points.map(|(at, _, counts)| (*at, *counts))
    }

    /// Returns the records of a service that are durable by now.
    pub(super) fn sent(&self, service: &str) -> u64 {
        self.points.iter().rfind(|(_, other, _)| *other == service).map_or(0, |(.., sum)| sum.sent)
    }

    /// Returns how much the counts of a service rose between two times.
    pub(super) fn gained(&self, service: &str, from: Instant, to: Instant) -> Counts {
        let last = |until| {
            let point = self.of(service).rfind(|(at, _)| *at <= until);
            point.map_or_else(Counts::default, |(_, counts)| counts)
        };
        last(to).combine(last(from), u64::saturating_sub)
    }

    /// Returns the longest part of a time in which a counter of a service did not
    /// change.
    ///
    /// Only the time between two equal samples counts. If the machine was too busy to take samples,
    /// that time alone is no stall.
    pub(super) fn stall(
        &self,
        service: &str,
        counter: fn(&Counts) -> u64,
        time: RangeInclusive<Instant>,
    ) -> Duration {
        let mut longest = Duration::ZERO;
        let mut unchanged: Option<(Instant, u64)> = None;
        for (at, counts) in self.of(service).filter(|(at, _)| time.contains(at)) {
            let now = counter(&counts);
            match unchanged {
                Some((since, before)) if before == now => longest = longest.max(at - since),
                _ => unchanged = Some((at, now)),
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_text() {
        let text = "# TYPE dataflow_pipeline_sent_messages counter\n\
                    dataflow_pipeline_sent_messages_total 7\n\
                    dataflow_pipeline_sent_bytes_total 90\n";

        let counts = Counts::of(&Metrics::parse(text));

        assert_eq!(counts, Counts { sent: 7, sent_bytes: 90, ..Counts::default() });
    }

    #[test]
    fn what_an_ended_process_counted_stays_and_a_standstill_is_seen() {
        let mut progress = Progress::default();
        let sent = |sent| Counts { sent, ..Counts::default() };
        let from = Instant::now();
        let at = |seconds| from + Duration::from_secs(seconds);

        for (seconds, pid, count) in [(1, 1, 5), (2, 2, 0), (3, 2, 0), (4, 2, 0), (5, 2, 3)] {
            let process = ProcessCounters { service: "enrich", replica: "enrich-0".into(), pid };
            progress.add(at(seconds), process, sent(count));
        }

        assert_eq!((progress.sent("enrich"), progress.sent("icestore")), (8, 0));
        assert_eq!(progress.gained("enrich", from, at(5)), sent(8));
        assert_eq!(progress.gained("icestore", from, at(5)), sent(0));
        let stall = progress.stall("enrich", |counts| counts.sent, from..=at(5));
        assert_eq!(stall, Duration::from_secs(3));
    }
}
