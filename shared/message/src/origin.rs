//! Origin of a message: the place outside of the chain that it comes from.

use std::fmt;

use crate::{Attributes, attribute};

/// Place outside of the chain that a message comes from. An attribute carries it with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Kind of the source.
    pub kind: OriginKind,
    /// Address at the source, such as an MQTT topic. It may be empty.
    pub address: &'a str,
}

/// Kind of a source outside of the chain.
///
/// A further kind is a variant here. The compiler then names every place that must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginKind {
    /// MQTT broker. The address is a topic.
    Mqtt,
    /// Client over HTTP. The address is the id of its source.
    Http,
}

impl OriginKind {
    /// All kinds. A message has the first one whose attribute it has.
    const ALL: [Self; 2] = [Self::Mqtt, Self::Http];

    /// Returns the name of the attribute that holds the address.
    #[must_use]
    pub fn attribute(self) -> &'static str {
        match self {
            Self::Mqtt => attribute::MQTT_TOPIC,
            Self::Http => attribute::HTTP_SOURCE,
        }
    }

    /// Returns the word for an address of this kind.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Mqtt => "topic",
            Self::Http => "source",
        }
    }
}

impl<'a> Origin<'a> {
    /// Creates the origin of a message from an MQTT broker.
    #[must_use]
    pub fn mqtt(topic: &'a str) -> Self {
        Self { kind: OriginKind::Mqtt, address: topic }
    }

    /// Creates the origin of a message that came over HTTP.
    #[must_use]
    pub fn http(source_id: &'a str) -> Self {
        Self { kind: OriginKind::Http, address: source_id }
    }

    /// Returns the origin of a message with these attributes. Without one, it is an empty MQTT
    /// topic: Pub/Sub has no room for a long topic in an attribute, and there may be a route for all.
    #[must_use]
    pub fn of(attributes: &'a Attributes) -> Self {
        let mut told = OriginKind::ALL.into_iter().filter_map(|kind| {
            let address = attributes.get(kind.attribute())?;
            Some(Self { kind, address })
        });
        told.next().unwrap_or(Self::mqtt(""))
    }
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.noun(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn the_attributes_tell_the_origin() {
        let message = Message::new("x").with_attribute("mqtt_topic", "devices/a/up");

        let origin = Origin::of(&message.attributes);

        assert_eq!(origin, Origin::mqtt("devices/a/up"));
        assert_eq!(origin.to_string(), "topic devices/a/up");
        let message = Message::new("x").with_attribute("http_source", "sensor-1");
        assert_eq!(Origin::of(&message.attributes), Origin::http("sensor-1"));
        assert_eq!(Origin::of(&Message::new("x").attributes), Origin::mqtt(""));
    }

    #[test]
    fn no_device_can_set_the_origin() {
        for kind in OriginKind::ALL {
            assert!(attribute::is_reserved(kind.attribute()), "{kind:?}");
        }
    }
}
