//! Metrics of enrich in addition to those of every pipeline.

use pipeline::metrics::ReasonLabel;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::reasons::DOCUMENT_MISSING;

/// Layers that answer keys.
const LAYERS: [&str; 7] =
    ["memory", "memory_stale", "redis", "redis_stale", "source", "absent", "impossible"];

/// Label for a layer of the caches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Layer {
    /// Name of the layer.
    pub layer: &'static str,
}

/// Metrics of the lookups. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Lookups answered by each layer. An answer from `memory` or `redis` saves a read of the
    /// source. So does each message that shares a read with others.
    pub answered: Family<Layer, Counter>,
    /// Failed calls of each layer.
    pub failed: Family<Layer, Counter>,
    /// Documents requested from the source, found or not. Each is billed.
    pub source_reads: Counter,
    /// Messages that needed a document. The difference to `source_reads` is the number of saved
    /// reads.
    pub lookups: Counter,
    /// Time since the served value was read from the source.
    pub age: Histogram,
    /// Number of entries in memory.
    pub entries: Gauge,
    /// Estimated bytes of these entries.
    pub bytes: Gauge,
    /// Messages that were sent without a document, by reason.
    pub unenriched: Family<ReasonLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            failed: Family::default(),
            source_reads: Counter::default(),
            lookups: Counter::default(),
            // The buckets reach from 1 s to about 3 days.
            age: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            entries: Gauge::default(),
            bytes: Gauge::default(),
            unenriched: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers all metrics under their names. Each label starts with 0.
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
        for reason in ["no_key", DOCUMENT_MISSING.as_str()] {
            self.unenriched.get_or_create(&ReasonLabel { reason }).inc_by(0);
        }
    }

    pub(crate) fn answered(&self, layer: &'static str) {
        self.answered.get_or_create(&Layer { layer }).inc();
    }

    pub(crate) fn failed(&self, layer: &'static str) {
        self.failed.get_or_create(&Layer { layer }).inc();
    }
}
