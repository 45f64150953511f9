//! Settings of replicas: those of every environment, with the differences of the fault test.

use serde_json::{Value, json};

use crate::names::{DEAD_LETTERS, ROUTE};
use crate::settings::merge;

/// Set of time-outs of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeouts {
    /// Time-outs of seconds, so that effects that need minutes in production appear in a short run.
    Short,
    /// Like `Short`, but icestore keeps its groups open for its default time.
    LongBatches,
    /// Default time-outs of the services for attempts, pings and idle streams.
    Default,
}

/// Changes the settings of every environment to those of the fault test.
pub(super) fn change(settings: &mut Value, service: &str, ordinal: u32, timeouts: Timeouts) {
    let common = json!({
        "dead_letters": { "bucket": DEAD_LETTERS },
        "grace_period": "20s",
        "pipeline": { "retry": { "min": "100ms", "max": "2s" } },
    });
    merge(settings, &common);
    merge(settings, &of_service(service, ordinal));
    merge(settings, &of_timeouts(service, ordinal, timeouts));
    if service == "ingestion" {
        settings["routes"] = routes(ordinal);
    }
    if let Some(columns) = settings.pointer_mut("/table/columns").and_then(Value::as_array_mut) {
        columns.extend(more_columns());
    }
}

fn of_service(service: &str, ordinal: u32) -> Value {
    match service {
        "ingestion" => json!({
            "mqtt": {
                "name": "faults",
                "ordinal": ordinal,
                "reconnect": { "min": "100ms", "max": "1s" },
            },
            // The same reading has the same id, however often the broker delivers it. So it is one
            // row of PostgreSQL.
            "identity": { "event_time_pointer": "/at", "id_pointer": "/number" },
            // The process that takes the place of another one starts before its end.
            "http_ingest": { "port": 0 },
        }),
        "enrich" => json!({
            "enrichment": { "input": "envelope" },
            // Small and short-lived caches, so that Redis and Firestore are asked all the time.
            "cache": {
                "freshness": { "fresh_for": "2s", "stale_for": "0s", "absent_for": "1s" },
                "memory": { "max_entries": 16 },
            },
        }),
        _ => json!({}),
    }
}

fn of_timeouts(service: &str, ordinal: u32, timeouts: Timeouts) -> Value {
    let mut settings = json!({});
    match (service, timeouts) {
        ("icestore", Timeouts::Short) => {
            settings["pipeline"]["batch"]["max_age"] = "500ms".into();
        }
        ("icestore", Timeouts::Default) => settings["pipeline"]["batch"]["max_age"] = "5s".into(),
        _ => {}
    }
    if timeouts == Timeouts::Default {
        return settings;
    }
    settings["pipeline"]["attempt_timeout"] = "5s".into();
    if service == "ingestion" {
        settings["mqtt"] = json!({ "keep_alive": "5s", "connect_timeout": "5s" });
        return settings;
    }
    settings["subscription"] = json!({ "lease_extension": "10s", "idle_timeout": "5s" });
    if ordinal == 1 {
        // The shortest lease that is allowed.
        settings["subscription"]["max_lease"] = "1m".into();
    }
    settings
}

/// Returns columns for messages of hostile clients.
fn more_columns() -> [Value; 3] {
    [
        json!({ "name": "happened_at", "type": "TIMESTAMP", "from": "/at" }),
        json!({ "name": "counted", "type": "INT64", "from": "/count" }),
        json!({ "name": "amount", "type": "NUMERIC", "from": "/amount" }),
    ]
}

/// Builds the routes of ingestion.
///
/// All replicas share the fleet. The first replica alone takes the ordered messages, because a
/// shared group does not keep the order. It also takes the messages of hostile clients.
fn routes(ordinal: u32) -> Value {
    let mut routes = json!({ "shared": {
        "source": { "mqtt_topic": "devices/{device_id}/up", "qos": 1, "shared_group": "fleet" },
        "destination": { "route_name": ROUTE },
    }, "over_http": {
        "source": { "http_source": "{device_id}" },
        "destination": { "route_name": ROUTE },
    } });
    if ordinal == 0 {
        routes["ordered"] = json!({
            "source": { "mqtt_topic": "ordered/{device_id}/up", "qos": 1 },
            "destination": { "route_name": ROUTE },
            "ordering_key": "{device_id}",
        });
        routes["hostile"] = json!({
            "source": { "mqtt_topic": "hostile/{device_id}/up", "qos": 1 },
            "destination": { "route_name": ROUTE },
        });
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::Cloud;
    use crate::names::SERVICES;
    use crate::settings::ServiceSettings;

    #[test]
    fn no_service_gets_a_section_that_it_does_not_know() -> anyhow::Result<()> {
        let all = ServiceSettings::new(&Cloud::embedded("http://127.0.0.1:8085"), 1883, None);
        let sections = |settings: &Value| -> Vec<String> {
            settings.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };

        for service in SERVICES {
            let mut settings = all.json(service)?;
            let known = sections(&settings);
            change(&mut settings, service, 0, Timeouts::Short);
            assert_eq!(sections(&settings), known, "{service}");
        }
        Ok(())
    }
}
