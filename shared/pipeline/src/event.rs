//! The interface of the pipeline to the events that flow through it.

use std::hash::Hasher;

use message::{Message, Origin, OriginKind, attribute, timestamp, trace};
use time::OffsetDateTime;

use crate::hops::{Ids, RecordKind, RecordText};

/// An event that flows through a pipeline, such as a [`Message`].
///
/// Another type may hold parsed data, so that a graph of pipelines reads the bytes once. The
/// documents call every event a message.
pub trait Event: Send + Sync + 'static {
    /// Returns the bytes that the event holds in memory, without the fixed overhead. They count for
    /// the bound on bytes in flight.
    fn size(&self) -> usize;

    /// Returns the bytes of the payload, for a bound on its size. By default that is [`Event::size`].
    fn payload_bytes(&self) -> usize {
        self.size()
    }

    /// Returns the id from the transport. It is the same at each delivery. Empty if the transport
    /// has no ids.
    fn id(&self) -> &str;

    /// Returns the time when the transport accepted the event.
    fn publish_time(&self) -> OffsetDateTime;

    /// Writes what identifies an event without an id. It is the same at each delivery, in each
    /// process.
    fn hash_content(&self, hasher: &mut impl Hasher);

    /// Returns the ordering key. Events with the same non-empty key keep their order.
    fn ordering_key(&self) -> &str {
        ""
    }

    /// Returns the number of deliveries according to the transport. It is 1 if the transport does
    /// not say.
    fn attempts(&self) -> u32 {
        1
    }

    /// Returns true if the transport counts deliveries and gives up the event after a number of
    /// them.
    fn counts_attempts(&self) -> bool {
        false
    }

    /// Returns the trace id for the log, if the event has one.
    fn trace_id(&self) -> Option<&str> {
        None
    }

    /// Returns the time when the first service of a chain received the event. `None` if it is not
    /// known.
    fn ingest_time(&self) -> Option<OffsetDateTime> {
        None
    }

    /// Returns the ids by which people find the event.
    fn ids(&self) -> Ids<'_> {
        Ids::default()
    }

    /// Returns true if the transform gives the event its ids. Then people see it after the transform.
    fn lacks_ids(&self) -> bool {
        self.ids().ingest_id.is_empty()
    }

    /// Returns the address of the event's origin, such as an MQTT topic. Empty if it is not known.
    fn origin(&self) -> &str {
        ""
    }

    /// Returns the content as text for people, cut to `max_bytes`. Without one, people do not see the
    /// content.
    fn show(&self, _max_bytes: usize) -> Option<RecordText> {
        None
    }
}

impl Event for Message {
    fn size(&self) -> usize {
        Self::size(self)
    }

    fn payload_bytes(&self) -> usize {
        self.data.len()
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn publish_time(&self) -> OffsetDateTime {
        self.publish_time
    }

    fn hash_content(&self, hasher: &mut impl Hasher) {
        hasher.write(Origin::of(&self.attributes).address.as_bytes());
        hasher.write(&self.data);
    }

    fn ordering_key(&self) -> &str {
        &self.ordering_key
    }

    fn attempts(&self) -> u32 {
        self.attempts
    }

    fn counts_attempts(&self) -> bool {
        self.counts_attempts
    }

    fn trace_id(&self) -> Option<&str> {
        trace::id(self)
    }

    fn ingest_time(&self) -> Option<OffsetDateTime> {
        timestamp::of_uuid(self.attributes.get(attribute::INGEST_ID)?)
    }

    fn ids(&self) -> Ids<'_> {
        let attribute = |name| self.attributes.get(name).map(String::as_str).unwrap_or_default();
        Ids {
            ingest_id: attribute(attribute::INGEST_ID).into(),
            device_id: attribute(attribute::DEVICE_ID).into(),
        }
    }

    fn lacks_ids(&self) -> bool {
        // HTTP ingest gives an id before the transform of ingestion, which adds the route and the device.
        let is_routed = self.attributes.contains_key(attribute::ROUTE_NAME);
        let is_http = Origin::of(&self.attributes).kind == OriginKind::Http;
        self.ids().ingest_id.is_empty() || is_http && !is_routed
    }

    fn origin(&self) -> &str {
        Origin::of(&self.attributes).address
    }

    fn show(&self, max_bytes: usize) -> Option<RecordText> {
        // Only ingestion, whose messages have no ids yet, gets what devices send.
        let kind = if self.lacks_ids() { RecordKind::Payload } else { RecordKind::Envelope };
        Some(RecordText::within(kind, &self.data, max_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_over_http_lacks_its_device_until_it_has_a_route() {
        let bare = Message::new("{}");
        let http = bare.clone().with_attribute(attribute::HTTP_SOURCE, "a");
        let http = http.with_attribute(attribute::INGEST_ID, "i");
        let routed = http.clone().with_attribute(attribute::ROUTE_NAME, "");
        let kind = |message: &Message| message.show(9).unwrap().kind;

        assert!(bare.lacks_ids() && http.lacks_ids() && !routed.lacks_ids());
        assert_eq!([&bare, &http].map(kind), [RecordKind::Payload; 2]);
        assert_eq!(kind(&routed), RecordKind::Envelope);
    }
}
