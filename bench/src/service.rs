//! Services with their measured settings: the defaults, except for names and addresses.

use serde_json::{Value, json};

/// One of the four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ingestion,
    Enrich,
    Bigqueries,
    Icestore,
}

/// Addresses that a service needs.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) cloud: &'a str,
    pub(crate) broker_port: u16,
    pub(crate) redis: &'a str,
}

impl Service {
    pub(crate) const ALL: [Self; 4] =
        [Self::Ingestion, Self::Enrich, Self::Bigqueries, Self::Icestore];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingestion => "ingestion",
            Self::Enrich => "enrich",
            Self::Bigqueries => "bigqueries",
            Self::Icestore => "icestore",
        }
    }

    /// Returns the settings of the service. It reads from a subscription called `source`, and
    /// publishes to `target`.
    pub(crate) fn settings(self, places: &Places<'_>, (source, target): (&str, &str)) -> Value {
        let Places { cloud, broker_port, redis } = places;
        let mut settings = json!({
            "project": "local",
            "dead_letters": { "topic_id": "dead" },
            "pubsub": { "endpoint": cloud },
            "http": { "host": "127.0.0.1" },
        });
        match self {
            Self::Ingestion => {
                settings["mqtt"] = json!({ "url": format!("mqtt://127.0.0.1:{broker_port}") });
                settings["routes"] = json!({ "up": {
                    "source": { "mqtt_topic": "devices/{device_id}/up", "qos": 1 },
                    "destination": { "route_name": "up" },
                } });
                settings["producers"] = json!({ "up": { "topic_id": target } });
            }
            Self::Enrich => {
                settings["subscription"] = json!({ "id": source });
                settings["topic_id"] = target.into();
                settings["firestore"] = json!({ "collection": "devices", "endpoint": cloud });
                settings["cache"] = json!({ "redis": { "url": redis } });
                settings["admin"] = json!({ "port": 0 });
            }
            Self::Bigqueries => {
                settings["subscription"] = json!({ "id": source });
                settings["table"] = json!({ "dataset": "dataflow", "id": "readings", "columns": [
                    { "name": "device_id", "type": "STRING", "from": "attribute.device_id" },
                    { "name": "location", "type": "STRING", "from": "enrichment.location" },
                    { "name": "number", "type": "INT64" },
                    { "name": "temperature", "type": "FLOAT64" },
                ] });
                settings["bigquery"] = json!({ "endpoint": cloud });
            }
            Self::Icestore => {
                settings["subscription"] = json!({ "id": source });
                settings["storage"] = json!({ "bucket": "bucket", "endpoint": cloud });
            }
        }
        settings
    }
}

/// Merges the changes of a case into settings.
pub(crate) fn merge(settings: &mut Value, changes: &Value) {
    match (settings, changes) {
        (Value::Object(settings), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(settings.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
        (settings, change) => settings.clone_from(change),
    }
}
