//! MQTT properties of a message, restored from the attributes that ingestion made of them.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use message::attribute;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

/// Returns the MQTT 5 properties for these attributes. Attributes that ingestion itself set are
/// left out, because ingestion sets them again.
#[must_use]
pub fn of(attributes: &HashMap<String, String>) -> PublishProperties {
    let text = |name| attributes.get(name).cloned();
    let decoded = |data: &String| STANDARD.decode(data).ok();
    PublishProperties {
        content_type: text(attribute::MQTT_CONTENT_TYPE),
        payload_format_indicator: number(attributes, attribute::MQTT_PAYLOAD_FORMAT)
            .filter(|format| *format <= 1),
        response_topic: text(attribute::MQTT_RESPONSE_TOPIC),
        correlation_data: attributes
            .get(attribute::MQTT_CORRELATION_DATA)
            .and_then(decoded)
            .map(Into::into),
        message_expiry_interval: number(attributes, attribute::MQTT_MESSAGE_EXPIRY),
        user_properties: user_properties(attributes),
        ..PublishProperties::default()
    }
}

fn number<T: std::str::FromStr>(attributes: &HashMap<String, String>, name: &str) -> Option<T> {
    attributes.get(name)?.parse().ok()
}

/// Returns the user properties, ordered by name. Properties with the same name keep their order.
fn user_properties(attributes: &HashMap<String, String>) -> Vec<(String, String)> {
    let repeated = attributes.get(attribute::MQTT_REPEATED);
    let repeated: Vec<String> =
        repeated.and_then(|names| serde_json::from_str(names).ok()).unwrap_or_default();
    let mut properties = Vec::new();
    for (stored, value) in attributes {
        let name = match stored.strip_prefix(attribute::MQTT_PROPERTY) {
            Some(name) => name,
            None if attribute::is_reserved(stored) => continue,
            None => stored,
        };
        let list = repeated.contains(stored).then(|| serde_json::from_str(value).ok());
        let values: Vec<String> = list.flatten().unwrap_or_else(|| vec![value.clone()]);
        properties.extend(values.into_iter().map(|value| (name.to_owned(), value)));
    }
    // The sort is stable, so the values of a name keep their order.
    properties.sort_by(|one, other| one.0.cmp(&other.0));
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_gave_is_given_again() {
        let attributes = [
            ("mqtt_topic", "devices/a/up"),
            ("mqtt_content_type", "text/plain"),
            ("mqtt_payload_format", "1"),
            ("mqtt_response_topic", "answers"),
            ("mqtt_correlation_data", "/wA="),
            ("mqtt_message_expiry", "60"),
            ("mqtt_repeated", r#"["color","mqtt_property_device_id"]"#),
            ("color", r#"["red","blue"]"#),
            ("size", r#"["a text"]"#),
            ("mqtt_property_device_id", r#"["y","x"]"#),
            ("mqtt_property_mqtt_topic", "mine"),
            ("ingest_id", "1"),
            ("device_id", "a"),
            ("googclient_traceparent", "t"),
        ];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));

        let properties = of(&HashMap::from(attributes));

        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.payload_format_indicator, Some(1));
        assert_eq!(properties.response_topic.as_deref(), Some("answers"));
        assert_eq!(properties.correlation_data.as_deref(), Some(b"\xff\x00".as_slice()));
        assert_eq!(properties.message_expiry_interval, Some(60));
        let given: Vec<_> = properties.user_properties.iter().map(|(n, v)| (&**n, &**v)).collect();
        let expected = [
            ("color", "red"),
            ("color", "blue"),
            ("device_id", "y"),
            ("device_id", "x"),
            ("mqtt_topic", "mine"),
            ("size", r#"["a text"]"#),
        ];
        assert_eq!(given, expected);
    }
}
