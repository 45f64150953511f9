//! Conversion of a PUBLISH to a message.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use message::attribute;
use message::{Message, Origin};
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use super::published::Published;
use crate::metrics::Metrics;
use crate::ordering::Ordering;

/// Attribute of a message whose properties exceeded the limit and were dropped. Its value says
/// which limit. The name is reserved, so no device can set it.
pub(crate) const PROPERTIES_DROPPED: &str = "mqtt_properties_dropped";

/// Converts a PUBLISH to a message, with its payload, its properties as attributes, and its topic.
pub(super) fn read(
    published: Published,
    ordering: Option<&Ordering>,
    metrics: &Metrics,
) -> Message {
    let mut message = Message::new(published.payload);
    // MQTT has no attempt number. It only marks a message as sent before.
    message.attempts = 1 + u32::from(published.is_repeated);
    if let Some(mut properties) = published.properties {
        let given = std::mem::take(&mut properties.user_properties);
        message.attributes = user_properties(given, metrics).into();
        message.attributes.extend(metadata(properties));
    }
    if let Some(excess) = published.dropped_properties {
        message.attributes.insert(PROPERTIES_DROPPED.into(), excess);
    }
    let topic = String::from_utf8_lossy(&published.topic).into_owned();
    if let Some(ordering) = ordering {
        message.ordering_key = ordering.key(Origin::mqtt(&topic));
    }
    message.attributes.insert(attribute::MQTT_TOPIC.into(), topic);
    if published.is_retained {
        message.attributes.insert(attribute::MQTT_RETAIN.into(), "true".into());
    }
    message
}

/// Converts user properties to attributes. A reserved name gets a prefix.
///
/// If a name appears more than once, its values become a JSON list. [`attribute::MQTT_REPEATED`]
/// lists such names.
#[must_use]
pub fn user_properties(
    given: impl IntoIterator<Item = (String, String)>,
    metrics: &Metrics,
) -> HashMap<String, String> {
    let mut attributes = HashMap::new();
    let mut repeated: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (mut name, value) in given {
        if attribute::is_reserved(&name) {
            metrics.replace("reserved_name");
            name.insert_str(0, attribute::MQTT_PROPERTY);
        }
        if let Some(first) = attributes.get(&name) {
            let first = || vec![String::clone(first)];
            repeated.entry(name).or_insert_with(first).push(value);
        } else {
            attributes.insert(name, value);
        }
    }
    if !repeated.is_empty() {
        let names: Vec<&String> = repeated.keys().collect();
        attributes.insert(attribute::MQTT_REPEATED.into(), json(&names));
    }
    attributes.extend(repeated.into_iter().map(|(name, values)| (name, json(&values))));
    attributes
}

/// Returns a JSON list of texts.
pub(crate) fn json<T: AsRef<str>>(texts: &[T]) -> String {
    texts.iter().map(AsRef::as_ref).collect::<serde_json::Value>().to_string()
}

/// Returns the attributes for the properties that MQTT 5 defines.
fn metadata(properties: PublishProperties) -> impl Iterator<Item = (String, String)> {
    let attributes = [
        (attribute::MQTT_CONTENT_TYPE, properties.content_type),
        (
            attribute::MQTT_PAYLOAD_FORMAT,
            properties.payload_format_indicator.map(|format| format.to_string()),
        ),
        (attribute::MQTT_RESPONSE_TOPIC, properties.response_topic),
        (
            attribute::MQTT_CORRELATION_DATA,
            properties.correlation_data.map(|data| STANDARD.encode(data)),
        ),
        (
            attribute::MQTT_MESSAGE_EXPIRY,
            properties.message_expiry_interval.map(|seconds| seconds.to_string()),
        ),
    ];
    attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(properties: PublishProperties) -> (Message, Metrics) {
        let metrics = Metrics::default();
        let published = Published {
            topic: Bytes::from_static(b"devices/a/up"),
            payload: Bytes::from_static(b"x"),
            is_retained: false,
            is_repeated: false,
            packet_id: Some(1),
            properties: Some(properties),
            dropped_properties: None,
        };
        (read(published, None, &metrics), metrics)
    }

    fn with_properties(given: &[(&str, &str)]) -> (Message, Metrics) {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let user_properties = given.collect();
        message(PublishProperties { user_properties, ..PublishProperties::default() })
    }

    #[test]
    fn all_values_of_a_name_are_kept_and_told_from_a_text() {
        let list = r#"["red","blue \"2\"","red"]"#;
        let (message, _) = with_properties(&[
            ("color", "red"),
            ("size", list),
            ("color", r#"blue "2""#),
            ("device_id", "a"),
            ("color", "red"),
            ("device_id", "b"),
        ]);

        let attributes = &message.attributes;
        assert_eq!(attributes["color"], list);
        assert_eq!(attributes["size"], list);
        assert_eq!(attributes["mqtt_property_device_id"], r#"["a","b"]"#);
        assert_eq!(attributes["mqtt_repeated"], r#"["color","mqtt_property_device_id"]"#);
    }

    #[test]
    fn a_reserved_name_gets_a_prefix_and_is_counted() {
        let names =
            ["device_id", "mqtt_topic", "mqtt_repeated", "dl_reason", "googclient_x", "goog"];
        let given: Vec<_> = names.iter().map(|name| (*name, "mine")).collect();

        let (message, metrics) = with_properties(&given);

        for name in names {
            assert_eq!(message.attributes[&format!("mqtt_property_{name}")], "mine");
            assert!(name == "mqtt_topic" || !message.attributes.contains_key(name), "{name}");
        }
        assert_eq!(message.attributes["mqtt_topic"], "devices/a/up");
        assert_eq!(metrics.replaced("reserved_name"), 6);
    }

    #[test]
    fn the_properties_of_mqtt_5_become_attributes() {
        let (message, _) = message(PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(3600),
            response_topic: Some("answers/a".into()),
            correlation_data: Some(Bytes::from_static(b"\xff\x00")),
            content_type: Some("application/json".into()),
            ..PublishProperties::default()
        });

        let expected = [
            ("mqtt_payload_format", "1"),
            ("mqtt_message_expiry", "3600"),
            ("mqtt_response_topic", "answers/a"),
            ("mqtt_correlation_data", "/wA="),
            ("mqtt_content_type", "application/json"),
            ("mqtt_topic", "devices/a/up"),
        ];
        assert_eq!(message.attributes.len(), expected.len());
        for (name, value) in expected {
            assert_eq!(message.attributes[name], value);
        }
    }
}
