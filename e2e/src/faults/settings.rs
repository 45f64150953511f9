//! The services' settings, as their users would write them.

use serde_json::{Value, json};

/// How long replicas wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Seconds, so that what takes minutes elsewhere happens in a short run.
    Brisk,
    /// The same, and icestore holds its open groups as long as it does by default.
    Holding,
    /// What the services wait by default for attempts, pings and idle streams.
    Patient,
}

/// The settings of a replica; `port` tells where a link leads.
pub(super) fn of(
    (service, ordinal): (&str, u32),
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
            // The shortest there is.
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
            // So little memory, and so fresh, that Redis and Firestore are asked all the time.
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

/// All replicas share the fleet. The first one alone takes in what needs an order, which a shared
/// group cannot keep, and the guests.
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
