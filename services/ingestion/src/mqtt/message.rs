//! From a PUBLISH to a message.

use pipeline::Message;
use pipeline::message::attribute;

use super::client::Published;
use crate::ordering::Ordering;

/// Reads a PUBLISH: its payload, its user properties as attributes, and its topic.
pub(super) fn read(published: Published, ordering: Option<&Ordering>) -> Message {
    let mut message = Message::new(published.payload);
    // MQTT does not count, it only says "again".
    message.attempts = 1 + u32::from(published.is_repeated);
    for (name, value) in published.properties {
        if !attribute::is_reserved(&name) {
            message.attributes.insert(name, value);
        }
    }
    let topic = String::from_utf8_lossy(&published.topic).into_owned();
    if let Some(ordering) = ordering {
        message.ordering_key = ordering.key(&topic);
    }
    message.attributes.insert(attribute::MQTT_TOPIC.into(), topic);
    if published.is_retained {
        message.attributes.insert(attribute::MQTT_RETAIN.into(), "true".into());
    }
    message
}
