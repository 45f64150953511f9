//! Results: medians, the table, and JSON.

use std::fmt;

use e2e::metrics::Metrics;
use serde::Serialize;

use crate::case::Case;

/// Result of one run, or the median of several.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) messages_per_second: f64,
    pub(crate) cpu_us_per_message: f64,
    pub(crate) peak_rss_mb: f64,
    pub(crate) ready_ms: f64,
    pub(crate) drain_ms: f64,
    /// Difference between the largest and the smallest CPU time of several runs, in percent of the
    /// median.
    pub(crate) spread_percent: f64,
}

impl Measured {
    /// Returns the median of each figure, but the largest memory.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut values: Vec<_> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let cpu = || runs.iter().map(|run| run.cpu_us_per_message);
        let cpu_us_per_message = median(|run| run.cpu_us_per_message);
        let range = cpu().fold(0.0, f64::max) - cpu().fold(f64::INFINITY, f64::min);
        let has_cpu = cpu_us_per_message > 0.0;
        Self {
            messages_per_second: median(|run| run.messages_per_second),
            cpu_us_per_message,
            peak_rss_mb: runs.iter().map(|run| run.peak_rss_mb).fold(0.0, f64::max),
            ready_ms: median(|run| run.ready_ms),
            drain_ms: median(|run| run.drain_ms),
            spread_percent: if has_cpu { range / cpu_us_per_message * 100.0 } else { 0.0 },
        }
    }
}

/// Latencies in milliseconds. The given share of the messages stayed below each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
}

impl Latency {
    /// Reads the latencies from the metrics of a service.
    pub(crate) fn of(metrics: &Metrics) -> Self {
        let [p50_ms, p99_ms, p999_ms] = [0.5, 0.99, 0.999].map(|share| metrics.age(share) * 1e3);
        Self { p50_ms, p99_ms, p999_ms }
    }
}

/// Results of one case.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    service: String,
    case: String,
    messages_per_second: f64,
    cpu_us_per_message: Option<f64>,
    bare_cpu_us_per_message: Option<f64>,
    ratio: Option<f64>,
    peak_rss_mb: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    p999_ms: Option<f64>,
    ready_ms: Option<f64>,
    drain_ms: Option<f64>,
    spread_percent: Option<f64>,
    bare_messages_per_second: Option<f64>,
    bare_peak_rss_mb: Option<f64>,
}

impl Row {
    pub(crate) fn new(
        case: &Case,
        ours: Measured,
        bare: Measured,
        latency: Option<Latency>,
    ) -> Self {
        let row = Self::alone(case.service.name(), &case.name, ours);
        Self {
            bare_cpu_us_per_message: Some(bare.cpu_us_per_message),
            ratio: Some(ours.cpu_us_per_message / bare.cpu_us_per_message),
            p50_ms: latency.map(|latency| latency.p50_ms),
            p99_ms: latency.map(|latency| latency.p99_ms),
            p999_ms: latency.map(|latency| latency.p999_ms),
            bare_messages_per_second: Some(bare.messages_per_second),
            bare_peak_rss_mb: Some(bare.peak_rss_mb),
            ..row
        }
    }

    /// Creates a row of a case without a bare loop.
    pub(crate) fn alone(service: &str, case: &str, ours: Measured) -> Self {
        let known = |value: f64| (value > 0.0).then_some(value);
        Self {
            service: service.into(),
            case: case.into(),
            messages_per_second: ours.messages_per_second,
            cpu_us_per_message: known(ours.cpu_us_per_message),
            bare_cpu_us_per_message: None,
            ratio: None,
            peak_rss_mb: known(ours.peak_rss_mb),
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            ready_ms: known(ours.ready_ms),
            drain_ms: known(ours.drain_ms),
            spread_percent: known(ours.spread_percent),
            bare_messages_per_second: None,
            bare_peak_rss_mb: None,
        }
    }
}

/// Head of the table.
pub(crate) const HEAD: &str = "\
service     case                     messages/s   CPU us  bare us  ratio  peak MB  p50 ms  p99 ms  p99.9 ms  ready ms  drain ms  spread %  bare msg/s";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, case, messages_per_second, .. } = self;
        write!(f, "{service:<12}{case:<24}{messages_per_second:>11.0}")?;
        let columns = [
            (self.cpu_us_per_message, 9, 1),
            (self.bare_cpu_us_per_message, 9, 1),
            (self.ratio, 7, 2),
            (self.peak_rss_mb, 9, 0),
            (self.p50_ms, 8, 1),
            (self.p99_ms, 8, 1),
            (self.p999_ms, 10, 1),
            (self.ready_ms, 10, 0),
            (self.drain_ms, 10, 0),
            (self.spread_percent, 10, 0),
            (self.bare_messages_per_second, 12, 0),
        ];
        for (value, width, digits) in columns {
            match value {
                Some(value) => write!(f, "{value:>width$.digits$}")?,
                None => write!(f, "{:>width$}", "-")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_keeps_the_largest_memory() {
        let run = |cpu, peak| Measured {
            cpu_us_per_message: cpu,
            peak_rss_mb: peak,
            ..Measured::default()
        };

        let median = Measured::median(&[run(12.0, 90.0), run(10.0, 95.0), run(11.0, 80.0)]);

        assert_eq!((median.cpu_us_per_message, median.peak_rss_mb), (11.0, 95.0));
        assert!((median.spread_percent - 200.0 / 11.0).abs() < 1e-9);
    }
}
