//! Metrics of a pipeline. Every message that leaves the stream is counted with its reason.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::batch::FlushReason;
use crate::hops::Hops;
use crate::oldest_unacked::OldestUnacked;
use crate::reason::{Reason, Reasons};
use crate::reasons;

mod families;

pub use families::{Counters, Families};

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
    /// Name of the pipeline.
    pipeline: &'static str,
    /// Messages taken from the source, including repeats.
    pub received: Counter,
    /// Messages that the transport says it has delivered before.
    pub repeated: Counter,
    /// Records that are durable at the destination.
    pub sent: Counter,
    /// Encoded bytes of the batches that were written.
    pub sent_bytes: Counter,
    /// Messages acknowledged without a record, by reason.
    pub skipped: Counters<ReasonLabel>,
    /// Messages that are durable in the dead letters, by reason.
    pub dead_lettered: Counters<ReasonLabel>,
    /// Messages that were given up and dropped, as the settings ask, by reason.
    pub dropped: Counters<ReasonLabel>,
    /// Messages nacked for another delivery, by reason.
    pub nacked: Counters<ReasonLabel>,
    /// Attempts after the first, by the action that failed.
    pub retried: Counters<ReasonLabel>,
    /// Batches written, by the limit that closed them.
    pub flushed: Counters<FlushLabels>,
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
    /// Time from the ingest of a message until its record is durable.
    pub end_to_end_age: Histogram,
    /// Viewers of the process, which get the steps of messages.
    pub hops: Hops,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new("pipeline", &Reasons { refused: &[], skipped: &[] })
    }
}

impl Metrics {
    /// Creates the metrics of a pipeline that no registry shows, for example in a test. See
    /// [`Families::of`] for the others.
    #[must_use]
    pub fn new(pipeline: &'static str, reasons: &Reasons) -> Self {
        Families::default().of(pipeline, reasons)
    }

    /// Returns the name of the pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &'static str {
        self.pipeline
    }

    /// Adds all reasons and causes with 0.
    fn add_all(&self, reasons: &Reasons) {
        for reason in reasons.skipped() {
            Self::count_reason(&self.skipped, reason, 0);
        }
        for reason in reasons.refused() {
            self.add_refused(reason);
        }
        // Any stage of any service can have a bug.
        for reason in reasons::EVERY_SERVICE {
            self.add_refused(*reason);
        }
        NACKED.iter().for_each(|reason| Self::count(&self.nacked, reason, 0));
        RETRIED.iter().for_each(|reason| Self::count(&self.retried, reason, 0));
        for reason in FlushReason::ALL {
            self.flushed.get_or_create(&FlushLabels { cause: reason }).inc_by(0);
        }
    }

    /// Adds more reasons of dead letters from the start, such as those of a custom row type.
    #[must_use]
    pub fn with_refused(self, reasons: &[Reason]) -> Self {
        reasons.iter().for_each(|reason| self.add_refused(*reason));
        self
    }

    fn add_refused(&self, reason: Reason) {
        Self::count_reason(&self.dead_lettered, reason, 0);
        Self::count_reason(&self.dropped, reason, 0);
    }

    /// Adds to the counter of the reason why messages leave the stream.
    pub(crate) fn count_reason(family: &Counters<ReasonLabel>, reason: Reason, by: usize) {
        Self::count(family, reason.as_str(), by);
    }

    /// Adds to the counter of this reason.
    pub(crate) fn count(family: &Counters<ReasonLabel>, reason: &'static str, by: usize) {
        family.get_or_create(&ReasonLabel { reason }).inc_by(by as u64);
    }
}
