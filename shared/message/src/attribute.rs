//! Names of the attributes with a special meaning. Data from outside must not override them.

/// MQTT topic of the message.
pub const MQTT_TOPIC: &str = "mqtt_topic";
/// Id of the source of a message that came over HTTP.
pub const HTTP_SOURCE: &str = "http_source";
/// Time that a client gave to its message over HTTP, in RFC 3339. Only ingestion and its dead letters
/// have it; the envelope has it as publish time.
pub const HTTP_TIMESTAMP: &str = "http_timestamp";
/// `true` for a retained message of the broker.
pub const MQTT_RETAIN: &str = "mqtt_retain";
/// Name of the route, which is a key of `producers` in the settings of ingestion.
pub const ROUTE_NAME: &str = "route_name";
/// Device, as captured from the topic.
pub const DEVICE_ID: &str = "device_id";
/// Equal to the envelope's `id`. It identifies duplicates.
pub const INGEST_ID: &str = "ingest_id";
/// W3C trace context, under the name that Google's clients use.
pub const TRACEPARENT: &str = "googclient_traceparent";
/// Event time from a device that was out of bounds, as the device sent it.
pub const EVENT_TIME_RAW: &str = "event_time_raw";
/// Content type of the payload (MQTT 5), as the device sent it.
pub const MQTT_CONTENT_TYPE: &str = "mqtt_content_type";
/// Payload format indicator (MQTT 5): `0` for bytes, `1` for UTF-8.
pub const MQTT_PAYLOAD_FORMAT: &str = "mqtt_payload_format";
/// Topic on which the device expects a response (MQTT 5).
pub const MQTT_RESPONSE_TOPIC: &str = "mqtt_response_topic";
/// Correlation data (MQTT 5) in padded base64.
pub const MQTT_CORRELATION_DATA: &str = "mqtt_correlation_data";
/// Message expiry interval (MQTT 5) in seconds, as the broker sent it.
pub const MQTT_MESSAGE_EXPIRY: &str = "mqtt_message_expiry";
/// Names of the user properties that occurred more than once, as a JSON list. The value of each
/// is a JSON list of texts.
pub const MQTT_REPEATED: &str = "mqtt_repeated";
/// Prefix for a device's user property whose own name is reserved.
pub const MQTT_PROPERTY: &str = "mqtt_property_";
/// Names with a special meaning.
pub const RESERVED: [&str; 15] = [
    MQTT_TOPIC,
    HTTP_SOURCE,
    HTTP_TIMESTAMP,
    MQTT_RETAIN,
    ROUTE_NAME,
    DEVICE_ID,
    INGEST_ID,
    TRACEPARENT,
    EVENT_TIME_RAW,
    MQTT_CONTENT_TYPE,
    MQTT_PAYLOAD_FORMAT,
    MQTT_RESPONSE_TOPIC,
    MQTT_CORRELATION_DATA,
    MQTT_MESSAGE_EXPIRY,
    MQTT_REPEATED,
];
/// Prefixes of more reserved names: for MQTT, for dead letters, and for Google.
const RESERVED_PREFIXES: [&str; 3] = ["mqtt_", "dl_", "goog"];

/// Returns true if a name is reserved for the services.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_services_are_reserved() {
        for name in ["device_id", "mqtt_topic", "dl_reason", "googclient_traceparent", "goog"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["", "device", "d", "dl", "uid", "my_dl_", "a_goog"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
