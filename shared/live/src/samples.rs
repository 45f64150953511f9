//! Numbers of one replica, read from its metrics in Prometheus' text format.

use std::collections::BTreeMap;

/// First part of the names of all metrics that are read.
const PREFIX: &str = "dataflow_pipeline_";

/// Numbers of a replica since its start, or their growth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub received: u64,
    pub sent: u64,
    pub skipped: u64,
    pub dead_lettered: u64,
    pub dropped: u64,
    pub nacked: u64,
    /// Dead letters by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Ages of messages at this stage.
    pub ages: Buckets,
    /// Ages of messages since their ingest.
    pub end_to_end: Buckets,
}

impl Counts {
    /// Returns the messages that need no more work here.
    pub(crate) fn settled(&self) -> u64 {
        self.sent + self.skipped + self.dead_lettered + self.dropped
    }

    /// Combines two, number by number.
    fn zip(&self, other: &Self, combine: fn(u64, u64) -> u64) -> Self {
        let keys = self.reasons.keys().chain(other.reasons.keys());
        let reason = |key: &String| {
            let of = |counts: &Self| counts.reasons.get(key).copied().unwrap_or_default();
            (key.clone(), combine(of(self), of(other)))
        };
        Self {
            received: combine(self.received, other.received),
            sent: combine(self.sent, other.sent),
            skipped: combine(self.skipped, other.skipped),
            dead_lettered: combine(self.dead_lettered, other.dead_lettered),
            dropped: combine(self.dropped, other.dropped),
            nacked: combine(self.nacked, other.nacked),
            reasons: keys.map(reason).collect(),
            ages: self.ages.zip(&other.ages, combine),
            end_to_end: self.end_to_end.zip(&other.end_to_end, combine),
        }
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.zip(other, |one, other| one + other)
    }

    /// Returns the growth since `before`. A number that is smaller now began at 0, because the process
    /// was started again.
    pub(crate) fn since(&self, before: &Self) -> Self {
        self.zip(before, |now, before| now.checked_sub(before).unwrap_or(now))
    }
}

/// Numbers of a replica at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    pub counts: Counts,
    pub in_flight: u64,
    pub oldest_seconds: f64,
}

impl Sample {
    /// Reads the metrics. Pipelines of one process are added up.
    pub(crate) fn parse(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(PREFIX) else { continue };
            let Some((name, value)) = rest.rsplit_once(' ') else { continue };
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let Ok(value) = value.parse::<f64>() else { continue };
            sample.take(name, labels, value);
        }
        sample
    }

    fn take(&mut self, name: &str, labels: &str, value: f64) {
        let count = value as u64;
        let counts = &mut self.counts;
        match name {
            "received_messages_total" => counts.received += count,
            "sent_messages_total" => counts.sent += count,
            "skipped_messages_total" => counts.skipped += count,
            "dropped_messages_total" => counts.dropped += count,
            "nacked_messages_total" => counts.nacked += count,
            "dead_lettered_messages_total" => {
                counts.dead_lettered += count;
                if let Some(reason) = label(labels, "reason").filter(|_| count > 0) {
                    *counts.reasons.entry(reason.to_owned()).or_default() += count;
                }
            }
            "in_flight_messages" => self.in_flight += count,
            "oldest_unacknowledged_age_seconds" => {
                self.oldest_seconds = self.oldest_seconds.max(value);
            }
            "age_seconds_bucket" => counts.ages.take(labels, count),
            "end_to_end_age_seconds_bucket" => counts.end_to_end.take(labels, count),
            // The other metrics are not on the page.
            _ => {}
        }
    }
}

/// Returns the value of a label. No value has a quote.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| {
        let value = label.trim_end_matches('}').strip_prefix(name)?.strip_prefix("=\"")?;
        value.strip_suffix('"')
    })
}

/// Buckets of a histogram: the number of values up to each bound. The key is the bound's bits, whose
/// order is that of the bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Buckets(BTreeMap<u64, u64>);

impl Buckets {
    fn take(&mut self, labels: &str, count: u64) {
        // Rust also reads `+Inf`.
        if let Some(bound) = label(labels, "le").and_then(|bound| bound.parse::<f64>().ok()) {
            *self.0.entry(bound.to_bits()).or_default() += count;
        }
    }

    fn zip(&self, other: &Self, combine: fn(u64, u64) -> u64) -> Self {
        let bounds = self.0.keys().chain(other.0.keys());
        let of = |buckets: &Self, bound| buckets.0.get(bound).copied().unwrap_or_default();
        Self(bounds.map(|bound| (*bound, combine(of(self, bound), of(other, bound)))).collect())
    }

    /// Returns the number of values.
    pub(crate) fn count(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, count)| *count)
    }

    /// Returns the value that this share of the values does not exceed. Values count as evenly spread
    /// within a bucket, as in Prometheus. Returns `None` without values.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.count();
        if all == 0 {
            return None;
        }
        let rank = all as f64 * share;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            let (bound, count) = (f64::from_bits(*bound), *count as f64);
            if bound.is_infinite() {
                break;
            }
            if count >= rank && count > below {
                return Some(low + (bound - low) * ((rank - below) / (count - below)).max(0.0));
            }
            (low, below) = (bound, count);
        }
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE x counter\n\
         dataflow_pipeline_received_messages_total{pipeline=\"p\"} 100\n\
         dataflow_pipeline_received_messages_total{pipeline=\"q\"} 1\n\
         dataflow_pipeline_sent_messages_total{pipeline=\"p\"} 90\n\
         dataflow_pipeline_dead_lettered_messages_total{pipeline=\"p\",reason=\"bad\"} 2\n\
         dataflow_pipeline_dead_lettered_messages_total{pipeline=\"p\",reason=\"odd\"} 0\n\
         dataflow_pipeline_in_flight_messages{pipeline=\"p\"} 8\n\
         dataflow_pipeline_oldest_unacknowledged_age_seconds{pipeline=\"p\"} 3\n\
         dataflow_pipeline_age_seconds_bucket{le=\"0.001\",pipeline=\"p\"} 0\n\
         dataflow_pipeline_age_seconds_bucket{le=\"0.002\",pipeline=\"p\"} 50\n\
         dataflow_pipeline_age_seconds_bucket{le=\"0.004\",pipeline=\"p\"} 100\n\
         dataflow_pipeline_age_seconds_bucket{le=\"+Inf\",pipeline=\"p\"} 100\n\
         dataflow_other_total 7\n";

    #[test]
    fn metrics_of_all_pipelines_are_added_up() {
        let sample = Sample::parse(TEXT);

        assert_eq!((sample.counts.received, sample.counts.sent), (101, 90));
        assert_eq!(sample.counts.reasons, [("bad".to_owned(), 2)].into());
        assert_eq!((sample.in_flight, sample.oldest_seconds), (8, 3.0));
        assert_eq!(sample.counts.settled(), 92);
        let ages = &sample.counts.ages;
        assert_eq!(ages.count(), 100);
        assert!((ages.quantile(0.5).unwrap() - 0.002).abs() < 1e-12);
        assert!((ages.quantile(0.99).unwrap() - 0.00396).abs() < 1e-12);
        assert_eq!(Buckets::default().quantile(0.5), None);
    }

    #[test]
    fn growth_begins_at_0_when_a_process_was_started_again() {
        let (sample, mut later) = (Sample::parse(TEXT).counts, Sample::parse(TEXT).counts);
        later.received += 9;
        later.sent = 4;

        let growth = later.since(&sample);

        assert_eq!((growth.received, growth.sent), (9, 4));
        assert_eq!(growth.ages.count(), 0);
        assert_eq!(sample.plus(&growth).received, 110);
    }
}
