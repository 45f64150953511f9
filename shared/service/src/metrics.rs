//! Metrics that every process has, in addition to those of its pipeline.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::{Health, logs};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    service: &'static str,
    version: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct DependencyLabel {
    dependency: &'static str,
}

/// Registers `dataflow_build_info`, `dataflow_service_ready` and the counter of lost log lines.
pub(crate) fn register(registry: &mut Registry, service: &'static str, health: &Health) {
    let build = Build { service, version: env!("CARGO_PKG_VERSION") };
    registry.register("dataflow_build", "What runs here", Info::new(build));
    registry.register_collector(Box::new(Readiness(health.clone())));
    registry.register_collector(Box::new(LostLines));
}

/// Counter of lost log lines.
#[derive(Debug)]
struct LostLines;

impl Collector for LostLines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Log lines that were lost because nobody read standard error";
        let name = "dataflow_service_lost_log_lines";
        let counter = ConstCounter::new(logs::lost());
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
}

/// Gauge of each dependency: 1 if it is available, else 0.
#[derive(Debug)]
struct Readiness(Health);

impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "1 for a dependency that is there, 0 for one that is waited for";
        let mut family =
            encoder.encode_descriptor("dataflow_service_ready", help, None, MetricType::Gauge)?;
        for (dependency, state) in self.0.conditions() {
            let value = ConstGauge::new(i64::from(state.ready));
            value.encode(family.encode_family(&DependencyLabel { dependency })?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dependency_tells_whether_it_is_there() {
        let health = Health::default();
        health.condition("mqtt").ready();
        let _topics = health.condition("topics");
        let mut registry = Registry::default();

        register(&mut registry, "ingestion", &health);

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("dataflow_service_ready{dependency=\"mqtt\"} 1\n"), "{text}");
        assert!(text.contains("dataflow_service_ready{dependency=\"topics\"} 0\n"), "{text}");
        assert!(text.contains("dataflow_build_info{service=\"ingestion\",version="), "{text}");
    }
}
