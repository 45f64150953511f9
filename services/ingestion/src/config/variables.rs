//! Variables of MQTT that other programs know, too.

use service::settings::{Variable, VariableKind};

/// Fault of the variable that would turn the check of certificates off.
const NO_SKIPPING: &str = "the broker's certificate is always verified: leave it out, and name the \
                           broker's own CA with mqtt.tls.ca_file";

/// Variables that set keys of the broker, and of its only route.
pub(super) const MQTT: [Variable; 8] = [
    variable("MQTT_BROKER_URL", "mqtt.url", VariableKind::Value),
    variable("MQTT_USERNAME", "mqtt.username", VariableKind::Value),
    variable("MQTT_PASSWORD", "mqtt.password", VariableKind::Value),
    variable("MQTT_CLIENT_ID_PREFIX", "mqtt.name", VariableKind::Value),
    variable("MQTT_TOPIC", "routes.*.source.mqtt_topic", VariableKind::Value),
    variable("MQTT_KEEP_ALIVE_SECONDS", "mqtt.keep_alive", VariableKind::Seconds),
    variable("MQTT_CONNECT_TIMEOUT_SECONDS", "mqtt.connect_timeout", VariableKind::Seconds),
    variable("MQTT_INSECURE_SKIP_VERIFY", "mqtt.tls", VariableKind::Refused(NO_SKIPPING)),
];

const fn variable(name: &'static str, key: &'static str, kind: VariableKind) -> Variable {
    Variable { name, key, kind }
}
