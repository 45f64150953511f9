//! Writes the settings of the services as users would write them.

use serde_json::{Value, json};

/// Set of time-outs for replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Time-outs of seconds, so that effects that need minutes in production appear in a short run.
    Brisk,
    /// Like `Brisk`, but icestore keeps its groups open for its default time.
    Holding,
    /// Default time-outs of the services for attempts, pings and idle streams.
    Patient,
}

/// Builds the settings of a replica; `port` returns the port of a link.
pub(super) fn of(
    service: &str,
    ordinal: u32,
    profile: Profile,
    port: impl Fn(&str) -> u16,
) -> Value {
    let mut settings = patient(service, ordinal, port);
    let max_age = match profile {
        Profile::Brisk => Some("500ms"),
        Profile::Holding => None,
        Profile::Patient => Some("5s"),
    };
    if let ("icestore", Some(max_age)) = (service, max_age) {
        settings["pipeline"]["batch"] = json!({ "max_age": max_age });
    }
    if profile == Profile::Patient {
        return settings;
    }
    settings["pipeline"]["attempt_timeout"] = "5s".into();
    if service == "ingestion" {
        settings["mqtt"]["keep_alive"] = "5s".into();
        settings["mqtt"]["connect_timeout"] = "5s".into();
    } else {
        let subscription = &mut settings["subscription"];
        subscription["lease_extension"] = "10s".into();
        subscription["idle_timeout"] = "5s".into();
        if ordinal == 1 {
            // The shortest lease that is allowed.
            subscription["max_lease"] = "1m".into();
        }
    }
    settings
}

fn patient(service: &str, ordinal: u32, port: impl Fn(&str) -> u16) -> Value {
    let cloud = |link: &str| format!("http://127.0.0.1:{}", port(link));
    let pubsub = if service == "ingestion" { "publish" } else { "pubsub" };
    let dead_letters = json!({ "topic_id": "dead", "bucket": "graves" });
    let mut settings = json!({
        "project": "local",
        "dead_letters": dead_letters,
        "pubsub": { "endpoint": cloud(pubsub) },
        "storage": { "endpoint": cloud("storage") },
        "http": { "host": "127.0.0.1" },
        "grace_period": "20s",
        "pipeline": { "retry": { "min": "100ms", "max": "2s" } },
    });
    let subscription = |id: &str| json!({ "id": id });
    match service {
        "ingestion" => {
            settings["mqtt"] = json!({
                "url": format!("mqtt://127.0.0.1:{}", port("mqtt")),
                "name": "faults",
                "ordinal": ordinal,
                "reconnect": { "min": "100ms", "max": "1s" },
            });
            settings["routes"] = routes(ordinal);
            settings["identity"] = json!({ "event_time_pointer": "/at" });
            settings["producers"] = json!({ "raw": { "topic_id": "raw" } });
        }
        "enrich" => {
            settings["subscription"] = subscription("enrich");
            settings["topic_id"] = "enriched".into();
            settings["enrichment"] = json!({ "input": "envelope" });
            settings["firestore"] =
                json!({ "collection": "devices", "endpoint": cloud("firestore") });
            // Small and short-lived caches, so that Redis and Firestore are asked all the time.
            settings["cache"] = json!({
                "freshness": { "fresh_for": "2s", "stale_for": "0s", "absent_for": "1s" },
                "memory": { "max_entries": 16 },
                "redis": { "url": format!("redis://127.0.0.1:{}", port("redis")) },
            });
            settings["admin"] = json!({ "port": 0 });
        }
        "bigqueries" => {
            settings["subscription"] = subscription("rows");
            settings["table"] = json!({ "dataset": "dataflow", "id": "readings", "columns": [
                { "name": "device_id", "type": "STRING", "from": "attribute.device_id" },
                { "name": "location", "type": "STRING", "from": "enrichment.location" },
                { "name": "temperature", "type": "FLOAT64", "from": "/temperature" },
                { "name": "happened_at", "type": "TIMESTAMP", "from": "/at" },
                { "name": "counted", "type": "INT64", "from": "/count" },
                { "name": "amount", "type": "NUMERIC", "from": "/amount" },
            ] });
            settings["bigquery"] = json!({ "endpoint": cloud("bigquery") });
        }
        _ => {
            settings["subscription"] = subscription("archive");
            settings["storage"]["bucket"] = "archive".into();
        }
    }
    settings
}

/// Builds the MQTT routes of ingestion.
///
/// All replicas share the fleet. The first replica alone takes the ordered messages, because a
/// shared group does not keep the order. It also takes the messages of guests.
fn routes(ordinal: u32) -> Value {
    let mut routes = json!({ "shared": {
        "source": { "mqtt_topic": "devices/{device_id}/up", "qos": 1, "shared_group": "fleet" },
        "destination": { "route_name": "raw" },
    } });
    if ordinal == 0 {
        routes["ordered"] = json!({
            "source": { "mqtt_topic": "ordered/{device_id}/up", "qos": 1 },
            "destination": { "route_name": "raw" },
            "ordering_key": "{device_id}",
        });
        routes["guests"] = json!({
            "source": { "mqtt_topic": "guests/{device_id}/up", "qos": 1 },
            "destination": { "route_name": "raw" },
        });
    }
    routes
}
