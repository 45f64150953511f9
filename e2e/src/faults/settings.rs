//! The services' settings, as their users would write them.

use serde_json::{Value, json};

/// The settings of a replica; `port` tells where a link leads.
pub(super) fn of(service: &str, ordinal: u32, port: impl Fn(&str) -> u16) -> Value {
    let cloud = |link: &str| format!("http://127.0.0.1:{}", port(link));
    let dead_letters = json!({ "topic_id": "dead", "bucket": "graves" });
    let mut settings = json!({
        "project": "local",
        "dead_letters": dead_letters,
        "pubsub": { "endpoint": cloud("pubsub") },
        "storage": { "endpoint": cloud("storage") },
        "http": { "host": "127.0.0.1" },
        "grace_period": "20s",
        "pipeline": { "attempt_timeout": "5s", "retry": { "min": "100ms", "max": "2s" } },
    });
    let subscription =
        |id: &str| json!({ "id": id, "lease_extension": "10s", "idle_timeout": "5s" });
    match service {
        "ingestion" => {
            settings["mqtt"] = json!({
                "url": format!("mqtt://127.0.0.1:{}", port("mqtt")),
                "name": "faults",
                "ordinal": ordinal,
                "keep_alive": "5s",
                "connect_timeout": "5s",
                "reconnect": { "min": "100ms", "max": "1s" },
            });
            settings["routes"] = routes(ordinal);
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
            ] });
            settings["bigquery"] = json!({ "endpoint": cloud("bigquery") });
        }
        _ => {
            settings["subscription"] = subscription("archive");
            settings["storage"]["bucket"] = "archive".into();
            settings["pipeline"]["batch"] = json!({ "max_age": "500ms" });
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
