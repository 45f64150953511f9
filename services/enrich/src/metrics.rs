//! What enrich counts, beside what every pipeline counts.

use pipeline::metrics::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What answers keys.
const LAYERS: [&str; 7] =
    ["memory", "memory_stale", "redis", "redis_stale", "source", "absent", "impossible"];

/// A layer of the caches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Layer {
    /// Its name.
    pub layer: &'static str,
}

/// The metrics of the look-ups; clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Look-ups that a layer has answered. What was answered by `memory` or `redis` is a read of
    /// the source that was saved; so is each message that waited for a read with others.
    pub answered: Family<Layer, Counter>,
    /// Calls of a layer that failed.
    pub failed: Family<Layer, Counter>,
    /// Documents asked for at the source, found or not: each is billed.
    pub source_reads: Counter,
    /// Messages that needed a document: the difference to `source_reads` was saved.
    pub lookups: Counter,
    /// Time since the served value was read from the source.
    pub age: Histogram,
    /// Entries in memory.
    pub entries: Gauge,
    /// Bytes of these entries, estimated.
    pub bytes: Gauge,
    /// Messages that went on without a document, by reason.
    pub unenriched: Family<Reason, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            failed: Family::default(),
            source_reads: Counter::default(),
            lookups: Counter::default(),
            // 1 s to about 3 days.
            age: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            entries: Gauge::default(),
            bytes: Gauge::default(),
            unenriched: Family::default(),
        }
    }
}

impl Metrics {
    /// Enters all of them under their names, each label with 0.
    pub fn register(&self, registry: &mut Registry) {
        let area = registry.sub_registry_with_prefix("dataflow_enrich");
        let answered = "Keys answered, by the layer that knew them";
        area.register("answered", answered, self.answered.clone());
        area.register("layer_failures", "Calls of a layer that failed", self.failed.clone());
        let reads = "Documents read from the source, found or not; each is billed";
        area.register("source_reads", reads, self.source_reads.clone());
        let lookups = "Messages that needed a document; less source_reads, the reads saved";
        area.register("lookups", lookups, self.lookups.clone());
        let age = "Time since a value served from a cache was read from the source";
        area.register_with_unit("value_age", age, Unit::Seconds, self.age.clone());
        area.register("memory_entries", "Entries in memory", self.entries.clone());
        let bytes = "Bytes of the entries in memory, estimated";
        area.register_with_unit("memory", bytes, Unit::Bytes, self.bytes.clone());
        let unenriched = "Messages that went on without a document, by reason";
        area.register("unenriched", unenriched, self.unenriched.clone());
        for layer in LAYERS {
            self.answered.get_or_create(&Layer { layer }).inc_by(0);
        }
        for layer in ["redis", "source"] {
            self.failed.get_or_create(&Layer { layer }).inc_by(0);
        }
        for reason in ["no_key", "document_missing"] {
            self.unenriched.get_or_create(&Reason { reason }).inc_by(0);
        }
    }

    pub(crate) fn answered(&self, layer: &'static str) {
        self.answered.get_or_create(&Layer { layer }).inc();
    }

    pub(crate) fn failed(&self, layer: &'static str) {
        self.failed.get_or_create(&Layer { layer }).inc();
    }
}
