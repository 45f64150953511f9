//! Metrics of postgres in addition to those of every pipeline.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Metrics of the sink. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Rows that were left out, because their key was in the table already.
    pub duplicates: Counter,
    /// Partitions that could not be made or dropped, counted once for each attempt.
    pub failed_partition_changes: Counter,
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dataflow_postgres_duplicate_rows",
            "Rows that were left out, because the table has their key already",
            self.duplicates.clone(),
        );
        registry.register(
            "dataflow_postgres_failed_partition_changes",
            "Attempts to make or drop a partition that failed",
            self.failed_partition_changes.clone(),
        );
    }
}
