//! Metric families that all pipelines of a process share.

use std::fmt;
use std::hash::Hash;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::{FlushLabels, Metrics, ReasonLabel};
use crate::hops::Hops;
use crate::oldest_unacked::OldestUnacked;
use crate::reason::Reasons;

/// Label with the name of a pipeline. Each metric of a pipeline has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PipelineLabel {
    pipeline: &'static str,
}

/// Labels of a metric that has a label besides the name of its pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PipelineLabels<L> {
    pipeline: PipelineLabel,
    other: L,
}

impl<L: EncodeLabelSet> EncodeLabelSet for PipelineLabels<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.pipeline.encode(encoder)?;
        self.other.encode(encoder)
    }
}

/// Counters of one pipeline, one for each value of a label. Clones share their values.
#[derive(Debug, Clone)]
pub struct Counters<L> {
    pipeline: PipelineLabel,
    family: Family<PipelineLabels<L>, Counter>,
}

impl<L: Clone + Eq + Hash> Counters<L> {
    /// Returns the counter with this label. Creates it if there is none.
    #[must_use]
    pub fn get_or_create(&self, label: &L) -> Counter {
        let labels = PipelineLabels { pipeline: self.pipeline.clone(), other: label.clone() };
        self.family.get_or_create_owned(&labels)
    }
}

type Histograms = Family<PipelineLabel, Histogram, fn() -> Histogram>;

/// Metrics of all pipelines of a process. Clones share them.
///
/// A metric exists once, with a sample for each pipeline. The label `pipeline` has its name.
#[derive(Debug, Clone)]
pub struct Families {
    received: Family<PipelineLabel, Counter>,
    repeated: Family<PipelineLabel, Counter>,
    sent: Family<PipelineLabel, Counter>,
    sent_bytes: Family<PipelineLabel, Counter>,
    skipped: Family<PipelineLabels<ReasonLabel>, Counter>,
    dead_lettered: Family<PipelineLabels<ReasonLabel>, Counter>,
    dropped: Family<PipelineLabels<ReasonLabel>, Counter>,
    nacked: Family<PipelineLabels<ReasonLabel>, Counter>,
    retried: Family<PipelineLabels<ReasonLabel>, Counter>,
    flushed: Family<PipelineLabels<FlushLabels>, Counter>,
    in_flight: Family<PipelineLabel, Gauge>,
    oldest_unacked: Family<PipelineLabel, OldestUnacked>,
    batch_memory: Family<PipelineLabel, Gauge>,
    open_batches: Family<PipelineLabel, Gauge>,
    batch_records: Histograms,
    write_duration: Histograms,
    age: Histograms,
    end_to_end_age: Histograms,
    hops: Hops,
}

impl Default for Families {
    fn default() -> Self {
        let histograms = |create: fn() -> Histogram| Family::new_with_constructor(create);
        Self {
            received: Family::default(),
            repeated: Family::default(),
            sent: Family::default(),
            sent_bytes: Family::default(),
            skipped: Family::default(),
            dead_lettered: Family::default(),
            dropped: Family::default(),
            nacked: Family::default(),
            retried: Family::default(),
            flushed: Family::default(),
            in_flight: Family::default(),
            oldest_unacked: Family::default(),
            batch_memory: Family::default(),
            open_batches: Family::default(),
            batch_records: histograms(|| Histogram::new(exponential_buckets(1.0, 4.0, 9))),
            write_duration: histograms(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 18))),
            age: histograms(|| Histogram::new(exponential_buckets(0.001, 2.0, 22))),
            end_to_end_age: histograms(|| Histogram::new(exponential_buckets(0.001, 2.0, 22))),
            hops: Hops::default(),
        }
    }
}

impl Families {
    /// Creates the metrics of a pipeline. They have each of these reasons from the start, with 0.
    /// Otherwise Prometheus would miss the first increase of a counter that it has not seen before.
    ///
    /// Two pipelines need two names, because pipelines of one name would share their metrics.
    #[must_use]
    pub fn of(&self, pipeline: &'static str, reasons: &Reasons) -> Metrics {
        let label = PipelineLabel { pipeline };
        let by_reason = |family: &Family<PipelineLabels<ReasonLabel>, Counter>| Counters {
            pipeline: label.clone(),
            family: family.clone(),
        };
        let metrics = Metrics {
            pipeline,
            received: self.received.get_or_create_owned(&label),
            repeated: self.repeated.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
            sent_bytes: self.sent_bytes.get_or_create_owned(&label),
            skipped: by_reason(&self.skipped),
            dead_lettered: by_reason(&self.dead_lettered),
            dropped: by_reason(&self.dropped),
            nacked: by_reason(&self.nacked),
            retried: by_reason(&self.retried),
            flushed: Counters { pipeline: label.clone(), family: self.flushed.clone() },
            in_flight: self.in_flight.get_or_create_owned(&label),
            oldest_unacked: self.oldest_unacked.get_or_create_owned(&label),
            batch_memory: self.batch_memory.get_or_create_owned(&label),
            open_batches: self.open_batches.get_or_create_owned(&label),
            batch_records: self.batch_records.get_or_create_owned(&label),
            write_duration: self.write_duration.get_or_create_owned(&label),
            age: self.age.get_or_create_owned(&label),
            end_to_end_age: self.end_to_end_age.get_or_create_owned(&label),
            hops: self.hops.clone(),
        };
        metrics.add_all(reasons);
        metrics
    }

    /// Creates families whose pipelines are watched through `hops`.
    #[must_use]
    pub fn watched_through(hops: Hops) -> Self {
        Self { hops, ..Self::default() }
    }

    /// Registers all metrics with the prefix `dataflow_pipeline`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_pipeline");
        registry.register(
            "received_messages",
            "Messages taken from the source, repeats included",
            self.received.clone(),
        );
        registry.register(
            "repeated_messages",
            "Messages that the transport says it has delivered before",
            self.repeated.clone(),
        );
        registry.register(
            "sent_messages",
            "Records that are durable at the destination",
            self.sent.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Encoded bytes of the batches that were written",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        registry.register(
            "in_flight_messages",
            "Between source and settlement",
            self.in_flight.clone(),
        );
        registry.register_with_unit(
            "oldest_unacknowledged_age",
            "Since the publish time of the oldest message that is not settled; 0 without one",
            Unit::Seconds,
            self.oldest_unacked.clone(),
        );
        self.register_batches(registry);
        self.register_reasons(registry);
    }

    fn register_batches(&self, registry: &mut Registry) {
        registry.register("open_batches", "Open batches of all lanes", self.open_batches.clone());
        registry.register_with_unit(
            "batch_memory",
            "Open batches and those being written",
            Unit::Bytes,
            self.batch_memory.clone(),
        );
        registry.register("batch_records", "Records in a batch", self.batch_records.clone());
        registry.register_with_unit(
            "write_duration",
            "Duration of a write, without its retries",
            Unit::Seconds,
            self.write_duration.clone(),
        );
        registry.register_with_unit(
            "age",
            "From the publish time of a message until its record is durable",
            Unit::Seconds,
            self.age.clone(),
        );
        registry.register_with_unit(
            "end_to_end_age",
            "From the ingest of a message until its record is durable, if its id has the time",
            Unit::Seconds,
            self.end_to_end_age.clone(),
        );
        registry.register(
            "flushed_batches",
            "Batches written, by what closed them",
            self.flushed.clone(),
        );
    }

    fn register_reasons(&self, registry: &mut Registry) {
        let families = [
            ("skipped_messages", "Acknowledged without a record, by reason", &self.skipped),
            (
                "dead_lettered_messages",
                "Durable in the dead letters, by reason",
                &self.dead_lettered,
            ),
            (
                "dropped_messages",
                "Given up and lost, as the settings ask, by reason",
                &self.dropped,
            ),
            ("nacked_messages", "Handed back for another delivery, by reason", &self.nacked),
            ("retried_attempts", "Attempts after the first, by what failed", &self.retried),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NONE: Reasons = Reasons { refused: &[], skipped: &[] };

    #[test]
    fn pipelines_have_samples_of_their_own_in_one_metric() {
        let families = Families::default();
        let mut registry = Registry::default();
        families.register(&mut registry);
        let (one, two) = (families.of("one", &NONE), families.of("two", &NONE));

        one.sent.inc_by(3);
        Metrics::count(&two.nacked, "lease", 5);
        two.open_batches.set(7);

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "dataflow_pipeline_sent_messages_total{pipeline=\"one\"} 3\n",
            "dataflow_pipeline_sent_messages_total{pipeline=\"two\"} 0\n",
            "dataflow_pipeline_nacked_messages_total{pipeline=\"one\",reason=\"lease\"} 0\n",
            "dataflow_pipeline_nacked_messages_total{pipeline=\"two\",reason=\"lease\"} 5\n",
            "dataflow_pipeline_open_batches{pipeline=\"two\"} 7\n",
            "dataflow_pipeline_oldest_unacknowledged_age_seconds{pipeline=\"one\"} 0\n",
            "dataflow_pipeline_age_seconds_count{pipeline=\"two\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let described = text.lines().filter(|line| line.starts_with("# TYPE"));
        let (all, distinct) = (described.clone().count(), described.collect::<HashSet<_>>());
        assert_eq!(distinct.len(), all, "{text}");
        let is_named =
            |line: &str| line.contains("pipeline=\"one\"") != line.contains("pipeline=\"two\"");
        assert!(text.lines().all(|line| line.starts_with('#') || is_named(line)), "{text}");
    }
}
