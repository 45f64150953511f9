//! A message on its way through a pipeline.

use std::collections::{HashMap, hash_map};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

/// Names of the attributes with a special meaning. Data from outside must not override them.
pub mod attribute {
    /// MQTT topic of the message.
    pub const MQTT_TOPIC: &str = "mqtt_topic";
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
    pub const RESERVED: [&str; 13] = [
        MQTT_TOPIC,
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
}

/// String pairs that accompany a message over every hop.
///
/// Clones share the pairs until one of them is changed. This saves memory, because the original
/// message is kept beside its record until the record is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Arc<HashMap<String, String>>);

impl Deref for Attributes {
    type Target = HashMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl From<HashMap<String, String>> for Attributes {
    fn from(map: HashMap<String, String>) -> Self {
        Self(Arc::new(map))
    }
}

impl<'a> IntoIterator for &'a Attributes {
    type Item = (&'a String, &'a String);
    type IntoIter = hash_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Bytes with attributes, as a source received them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Id from the transport, such as the Pub/Sub message id. Empty if the transport has no ids.
    pub id: String,
    /// The data, byte for byte as received.
    pub data: Bytes,
    /// String pairs that accompany the data.
    pub attributes: Attributes,
    /// Ordering key. Messages with the same non-empty key keep their order.
    pub ordering_key: String,
    /// Time when the transport accepted the message.
    pub publish_time: OffsetDateTime,
    /// Number of deliveries of this message according to the transport. It is 1 if the transport
    /// does not say.
    pub attempts: u32,
    /// True if the transport counts deliveries and gives up the message after a number of them.
    /// Such a message is never nacked only because other messages should go first.
    pub counts_attempts: bool,
}

impl Message {
    /// Creates a message with this data, published now, without attributes.
    #[must_use]
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            id: String::new(),
            data: data.into(),
            attributes: Attributes::default(),
            ordering_key: String::new(),
            publish_time: OffsetDateTime::now_utc(),
            attempts: 1,
            counts_attempts: false,
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Bytes that this message holds in memory, without the fixed overhead.
    #[must_use]
    pub fn size(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.data.len() + self.id.len() + self.ordering_key.len() + attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_message_holds_counts() {
        let mut message =
            Message::new("12345").with_attribute("abcd", "de").with_attribute("f", "");
        message.id = "1234567".into();
        message.ordering_key = "0123456789-0123456789".into();

        assert_eq!(message.size(), 5 + 7 + 21 + 6 + 1);
        assert_eq!(Message::new("").size(), 0);
    }

    #[test]
    fn names_of_the_services_are_reserved() {
        for name in ["device_id", "mqtt_topic", "dl_reason", "googclient_traceparent", "goog"] {
            assert!(attribute::is_reserved(name), "{name}");
        }
        for name in ["", "device", "d", "dl", "uid", "my_dl_", "a_goog"] {
            assert!(!attribute::is_reserved(name), "{name}");
        }
    }

    #[test]
    fn attributes_are_shared_until_one_is_changed() {
        let map = HashMap::from([("name".to_owned(), "value".to_owned())]);
        let first = Attributes::from(map.clone());
        let mut second = first.clone();

        second.insert("other".into(), "value".into());

        assert_eq!(*first, map);
        assert_eq!((&first).into_iter().collect::<Vec<_>>().len(), 1);
        assert_eq!((&second).into_iter().collect::<Vec<_>>().len(), 2);
    }
}
