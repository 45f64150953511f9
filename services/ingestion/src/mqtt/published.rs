//! Messages from the broker.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

/// Approximate memory of a waiting message in addition to its bytes.
pub(super) const MESSAGE_OVERHEAD: usize = 512;
/// Approximate memory of an attribute in addition to its bytes.
pub(super) const PROPERTY_OVERHEAD: usize = 128;

/// Message from the broker.
#[derive(Debug)]
pub(super) struct Published {
    pub topic: Bytes,
    pub payload: Bytes,
    pub is_retained: bool,
    /// True if the broker marks the message as sent before.
    pub is_repeated: bool,
    /// Id of the packet; `None` for QoS 0.
    pub packet_id: Option<u16>,
    /// Properties of the message (MQTT 5).
    pub properties: Option<PublishProperties>,
    /// Limit that the properties exceeded. They are dropped then.
    pub dropped_properties: Option<String>,
}

impl Published {
    /// Returns the approximate memory that the message needs while it waits.
    pub(super) fn size(&self) -> usize {
        let given = self.properties.as_ref();
        let texts =
            given.into_iter().flat_map(|given| [&given.content_type, &given.response_topic]);
        let texts: usize = texts.flatten().map(String::len).sum();
        let data = given.and_then(|given| given.correlation_data.as_ref()).map_or(0, Bytes::len);
        let pairs = given.into_iter().flat_map(|given| &given.user_properties);
        let pairs = pairs.map(|(name, value)| name.len() + value.len() + PROPERTY_OVERHEAD);
        let properties = texts + data + pairs.sum::<usize>();
        MESSAGE_OVERHEAD + self.topic.len() + self.payload.len() + properties
    }
}
