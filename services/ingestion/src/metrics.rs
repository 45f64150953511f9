//! Metrics of ingestion in addition to those of its pipeline. Their names start with
//! `dataflow_ingestion_`.

use pipeline::metrics::ReasonLabel;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::http::refusal;

/// Counters. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Connections that ended.
    pub reconnects: Counter,
    /// Sessions that the broker has lost. Messages may be missing.
    pub possible_gaps: Counter,
    /// Connections of a new process that found no session: the replica is new, or its session
    /// expired.
    pub absent_sessions: Counter,
    /// QoS 0 messages dropped because too many waited, or because the process ended.
    pub qos0_dropped: Counter,
    /// Values that could not be used as sent: ids, event times, user properties.
    pub replaced: Family<ReasonLabel, Counter>,
    /// Items over HTTP and gRPC that are published, or dead letters.
    pub http_accepted: Counter,
    /// Items over HTTP and gRPC that were refused.
    pub http_refused: Family<ReasonLabel, Counter>,
    /// Requests over HTTP and gRPC that were refused before their items were known.
    pub http_refused_requests: Family<ReasonLabel, Counter>,
}

impl Metrics {
    /// Registers all metrics. Each reason starts with 0.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_ingestion");
        registry.register("reconnects", "Connections that ended", self.reconnects.clone());
        registry.register(
            "possible_gaps",
            "Sessions that the broker did not have any more",
            self.possible_gaps.clone(),
        );
        registry.register(
            "absent_sessions",
            "Connections of a new process that found no session at the broker",
            self.absent_sessions.clone(),
        );
        registry.register(
            "qos0_dropped_messages",
            "QoS 0 messages dropped because too many waited, or because the process ended",
            self.qos0_dropped.clone(),
        );
        registry.register(
            "replaced_values",
            "Given ids, event times and properties that could not be used, by reason",
            self.replaced.clone(),
        );
        for reason in ["id_length", "event_time", "traceparent", "attribute_size", "reserved_name"]
        {
            self.replaced.get_or_create(&ReasonLabel { reason }).inc_by(0);
        }
    }

    /// Registers the metrics of ingest over HTTP and gRPC. Each reason starts with 0.
    pub fn register_http(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_ingestion_http");
        registry.register(
            "accepted_items",
            "Items over HTTP and gRPC that are published, or dead letters",
            self.http_accepted.clone(),
        );
        registry.register(
            "refused_items",
            "Items over HTTP and gRPC that were refused, by reason",
            self.http_refused.clone(),
        );
        registry.register(
            "refused_requests",
            "Requests over HTTP and gRPC that were refused before their items were known, by reason",
            self.http_refused_requests.clone(),
        );
        for reason in refusal::REASONS {
            self.http_refused.get_or_create(&ReasonLabel { reason }).inc_by(0);
            self.http_refused_requests.get_or_create(&ReasonLabel { reason }).inc_by(0);
        }
    }

    pub(crate) fn refuse_item(&self, reason: &'static str) {
        self.http_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn refuse_request(&self, reason: &'static str) {
        self.http_refused_requests.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Returns the number of values replaced for this reason.
    #[cfg(test)]
    pub(crate) fn replaced(&self, reason: &'static str) -> u64 {
        self.replaced.get_or_create(&ReasonLabel { reason }).get()
    }

    pub(crate) fn replace(&self, reason: &'static str) {
        self.replaced.get_or_create(&ReasonLabel { reason }).inc();
    }
}
