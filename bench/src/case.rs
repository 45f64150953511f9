//! Cases that are measured.

use e2e::names::ROUTE;
use serde_json::{Map, Value, json};

use crate::service::Service;

/// Case that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) service: Service,
    pub(crate) name: String,
    pub(crate) load: Load,
    /// Differences from the default settings.
    pub(crate) settings: Value,
    /// True if latency at half load is measured, too.
    pub(crate) has_latency: bool,
}

/// Backlog of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    pub(crate) payload_bytes: usize,
    /// Number of devices, which take turns. Each has a document.
    pub(crate) devices: u32,
    /// Number of locations, which take turns. Each is a folder of the archive.
    pub(crate) locations: u32,
    /// Percentage of messages from unknown devices, which have no document.
    pub(crate) unknown_percent: u64,
}

impl Case {
    pub(crate) fn new(service: Service, name: impl Into<String>, load: Load) -> Self {
        let (name, settings) = (name.into(), json!({}));
        Self { service, name, load, settings, has_latency: false }
    }

    fn with(self, settings: Value) -> Self {
        Self { settings, ..self }
    }
}

/// Returns the cases: the defaults, and the best settings that were found, at 1 KB. If `full`, the
/// cases also vary everything that the cost depends on.
pub(crate) fn all(messages: u64, full: bool) -> Vec<Case> {
    let load =
        Load { messages, payload_bytes: 1024, devices: 100, locations: 7, unknown_percent: 0 };
    let mut cases = Vec::new();
    for service in Service::ALL {
        cases.push(Case { has_latency: true, ..Case::new(service, "1 KB, defaults", load) });
        cases.extend(
            best(service).map(|best| Case::new(service, "1 KB, best settings", load).with(best)),
        );
    }
    if full {
        cases.extend(growth(load));
    }
    cases
}

/// Returns settings that took less CPU time than the defaults, by more than the spread of several
/// runs.
fn best(service: Service) -> Option<Value> {
    match service {
        Service::Ingestion => Some(json!({
            "pipeline": { "lanes": 1, "batch": { "max_idle": "5ms" } },
            "mqtt": { "receive_maximum": 5000 },
        })),
        Service::Enrich | Service::Bigqueries | Service::Icestore => None,
    }
}

fn growth(load: Load) -> Vec<Case> {
    let mut cases = Vec::new();
    for service in Service::ALL {
        for (name, payload_bytes, share) in
            [("100 B", 100, 1), ("10 KB", 10 << 10, 5), ("100 KB", 100 << 10, 50)]
        {
            let load = Load { payload_bytes, messages: load.messages / share, ..load };
            cases.push(Case::new(service, name, load));
        }
        for devices in [10, 1_000, 10_000, 100_000] {
            let name = format!("{devices} devices");
            cases.push(Case::new(service, name, Load { devices, ..load }));
        }
        for lanes in [1, 2] {
            let settings = json!({ "pipeline": { "lanes": lanes } });
            cases.push(Case::new(service, format!("{lanes} lanes"), load).with(settings));
        }
        let backlog = Load { messages: 1_000_000, ..load };
        cases.push(Case::new(service, "backlog of 1,000,000", backlog));
    }
    for locations in [1, 10, 100, 1_000, 10_000] {
        let name = format!("{locations} archive keys");
        cases.push(Case::new(Service::Icestore, name, Load { locations, ..load }));
    }
    for count in [1, 10, 100, 1_000] {
        let settings = json!({ "routes": others(count - 1) });
        cases.push(Case::new(Service::Ingestion, format!("{count} routes"), load).with(settings));
    }
    for (unknown_percent, share) in [(0, 1), (1, 1), (10, 2), (100, 10)] {
        let name = format!("{} % cache hits", 100 - unknown_percent);
        let load = Load { unknown_percent, messages: load.messages / share, ..load };
        // Redis would replace most reads.
        let settings = json!({ "cache": { "redis": { "url": null } } });
        cases.push(Case::new(Service::Enrich, name, load).with(settings));
    }
    cases
}

/// Returns routes that no message takes.
fn others(count: u32) -> Value {
    let route = |number| {
        json!({
            "source": { "mqtt_topic": format!("plants/{number}/{{line}}/+/up"), "qos": 1 },
            "destination": { "route_name": ROUTE },
        })
    };
    let routes: Map<_, _> =
        (0..count).map(|number| (format!("other{number}"), route(number))).collect();
    routes.into()
}
