//! Metrics of a pipeline. Every message that leaves the stream is counted with its reason.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::batch::FlushReason;
use crate::oldest_unacked::OldestUnacked;
use crate::reason::{Reason, Reasons};
use crate::reasons;

/// Reasons for nacks. A message that is nacked under
/// [`Policy::Leave`](crate::dead_letter::Policy::Leave) has the reason of its refusal instead.
const NACKED: [&str; 8] = [
    "lease",
    "transform",
    "asked",
    "order",
    "stale",
    "stop",
    reasons::PANICKED.as_str(),
    "dead_letter_failed",
];
/// Actions that are retried.
const RETRIED: [&str; 4] = ["receive", "transform", "write", "dead_letter"];

/// Label with the reason of an event, as a short and stable code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The reason code.
    pub reason: &'static str,
}

/// Labels of the metric of flushed batches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlushLabels {
    /// Limit that the batch reached.
    pub cause: FlushReason,
}

/// Metrics of one pipeline. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Messages taken from the source, including repeats.
    pub received: Counter,
    /// Messages that the transport says it has delivered before.
    pub repeated: Counter,
    /// Records that are durable at the destination.
    pub sent: Counter,
    /// Encoded bytes of the batches that were written.
    pub sent_bytes: Counter,
    /// Messages acknowledged without a record, by reason.
    pub skipped: Family<ReasonLabel, Counter>,
    /// Messages that are durable in the dead letters, by reason.
    pub dead_lettered: Family<ReasonLabel, Counter>,
    /// Messages that were given up and dropped, as the settings ask, by reason.
    pub dropped: Family<ReasonLabel, Counter>,
    /// Messages nacked for another delivery, by reason.
    pub nacked: Family<ReasonLabel, Counter>,
    /// Attempts after the first, by the action that failed.
    pub retried: Family<ReasonLabel, Counter>,
    /// Batches written, by the limit that closed them.
    pub flushed: Family<FlushLabels, Counter>,
    /// Messages that are received but not yet settled.
    pub in_flight: Gauge,
    /// Age of the oldest unsettled message.
    pub oldest_unacked: OldestUnacked,
    /// Bytes of open batches and of those being written.
    pub batch_memory: Gauge,
    /// Open batches of all lanes.
    pub open_batches: Gauge,
    /// Records in a batch.
    pub batch_records: Histogram,
    /// Duration of a write, without its retries.
    pub write_duration: Histogram,
    /// Time from the publish time of a message until its record is durable.
    pub age: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            received: Counter::default(),
            repeated: Counter::default(),
            sent: Counter::default(),
            sent_bytes: Counter::default(),
            skipped: Family::default(),
            dead_lettered: Family::default(),
            dropped: Family::default(),
            nacked: Family::default(),
            retried: Family::default(),
            flushed: Family::default(),
            in_flight: Gauge::default(),
            oldest_unacked: OldestUnacked::default(),
            batch_memory: Gauge::default(),
            open_batches: Gauge::default(),
            batch_records: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            write_duration: Histogram::new(exponential_buckets(0.000_5, 2.0, 18)),
            age: Histogram::new(exponential_buckets(0.001, 2.0, 22)),
        }
    }
}

impl Metrics {
    /// Creates metrics that contain each of these reasons from the start, with 0. Otherwise
    /// Prometheus would miss the first increase of a counter that it has not seen before.
    #[must_use]
    pub fn new(reasons: &Reasons) -> Self {
        let metrics = Self::default();
        for reason in reasons.skipped() {
            Self::count_reason(&metrics.skipped, reason, 0);
        }
        for reason in reasons.refused() {
            metrics.add_refused(reason);
        }
        // Any stage of any service can have a bug.
        for reason in reasons::EVERY_SERVICE {
            metrics.add_refused(*reason);
        }
        NACKED.iter().for_each(|reason| Self::count(&metrics.nacked, reason, 0));
        RETRIED.iter().for_each(|reason| Self::count(&metrics.retried, reason, 0));
        for reason in FlushReason::ALL {
            metrics.flushed.get_or_create(&FlushLabels { cause: reason }).inc_by(0);
        }
        metrics
    }

    /// Adds more reasons of dead letters from the start, such as those of a custom row type.
    #[must_use]
    pub fn with_refused(self, reasons: &[Reason]) -> Self {
        reasons.iter().for_each(|reason| self.add_refused(*reason));
        self
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
        registry.register_collector(Box::new(self.oldest_unacked.clone()));
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
        self.register_reasons(registry);
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
        registry.register(
            "flushed_batches",
            "Batches written, by what closed them",
            self.flushed.clone(),
        );
    }

    fn add_refused(&self, reason: Reason) {
        Self::count_reason(&self.dead_lettered, reason, 0);
        Self::count_reason(&self.dropped, reason, 0);
    }

    /// Adds to the counter of the reason why messages leave the stream.
    pub(crate) fn count_reason(family: &Family<ReasonLabel, Counter>, reason: Reason, by: usize) {
        Self::count(family, reason.as_str(), by);
    }

    /// Adds to the counter of this reason.
    pub(crate) fn count(family: &Family<ReasonLabel, Counter>, reason: &'static str, by: usize) {
        family.get_or_create(&ReasonLabel { reason }).inc_by(by as u64);
    }
}
