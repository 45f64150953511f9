//! What is measured.

use serde_json::{Map, Value, json};

use crate::service::Service;

/// One thing to measure.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) service: Service,
    pub(crate) name: String,
    pub(crate) load: Load,
    /// What differs from the default settings.
    pub(crate) settings: Value,
    /// Whether latency at half load is measured too.
    pub(crate) has_latency: bool,
}

/// The backlog of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    pub(crate) payload_bytes: usize,
    /// Devices in turn; each has a document.
    pub(crate) devices: u32,
    /// Places in turn: folders of the archive.
    pub(crate) places: u32,
    /// How many messages of a hundred are of a device that nobody has heard of.
    pub(crate) unknown_percent: u64,
}

impl Case {
    fn new(service: Service, name: impl Into<String>, load: Load) -> Self {
        let (name, settings) = (name.into(), json!({}));
        Self { service, name, load, settings, has_latency: false }
    }

    fn with(self, settings: Value) -> Self {
        Self { settings, ..self }
    }
}

/// The cases: defaults and the best settings found at 1 KB; all that cost grows with, if it is to be
/// `full`.
pub(crate) fn all(messages: u64, full: bool) -> Vec<Case> {
    let load = Load { messages, payload_bytes: 1024, devices: 100, places: 7, unknown_percent: 0 };
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

/// Settings that were found to take less CPU time than the defaults, beyond the spread of several
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
    for places in [1, 10, 100, 1_000, 10_000] {
        let name = format!("{places} archive keys");
        cases.push(Case::new(Service::Icestore, name, Load { places, ..load }));
    }
    for count in [1, 10, 100, 1_000] {
        let settings = json!({ "routes": others(count - 1) });
        cases.push(Case::new(Service::Ingestion, format!("{count} routes"), load).with(settings));
    }
    for (unknown_percent, share) in [(0, 1), (1, 1), (10, 2), (100, 10)] {
        let name = format!("{} % cache hits", 100 - unknown_percent);
        let load = Load { unknown_percent, messages: load.messages / share, ..load };
        // Redis would take the place of most reads.
        let settings = json!({ "cache": { "redis": { "url": null } } });
        cases.push(Case::new(Service::Enrich, name, load).with(settings));
    }
    cases
}

/// Routes that no message takes.
fn others(count: u32) -> Value {
    let route = |number| {
        json!({
            "source": { "mqtt_topic": format!("plants/{number}/{{line}}/+/up"), "qos": 1 },
            "destination": { "route_name": "up" },
        })
    };
    let routes: Map<_, _> =
        (0..count).map(|number| (format!("other{number}"), route(number))).collect();
    routes.into()
}
