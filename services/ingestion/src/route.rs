//! Transform from a message of a source to a Pub/Sub message.

mod attributes;

use std::collections::HashMap;
use std::sync::Arc;

use message::attribute;
use message::{Envelope, Message, Origin, trace};
use pipeline::hops::{Ids, RecordKind, RecordText};
use pipeline::reasons::{PAYLOAD_TOO_LARGE, PAYLOAD_TOO_SMALL};
use pipeline::{Error, Event as _, Reason, Recovery, Step, Transform};
use pubsub::limits::MAX_MESSAGE_BYTES;
use pubsub::reasons::MESSAGE_TOO_LARGE;
use pubsub::{Outgoing, TopicName};
use serde_json::Map;
use service::WrongSettings;

use crate::config::{Identity, Producer, Retained, Settings};
use crate::enricher::{Arrival, Enricher};
use crate::identity::identify;
use crate::metrics::Metrics;
use crate::mqtt::PROPERTIES_DROPPED;
use crate::reasons;
use crate::routes::{Entry, Routes};
use attributes::Attributes;

/// User property in which a device sends its trace context. The name comes from the W3C's draft for
/// MQTT.
pub(crate) const TRACE_PROPERTY: &str = "traceparent";

/// Transform that finds a message's route, gives it an id, and wraps it into an envelope.
pub struct Route<E> {
    routes: Arc<Routes>,
    topics: HashMap<String, TopicName>,
    identity: Identity,
    retained: Retained,
    enricher: E,
    metrics: Metrics,
}

impl<E: Enricher> Route<E> {
    /// Creates the transform from these settings.
    ///
    /// # Errors
    /// The topic of a producer is wrong, and nobody has checked these settings.
    pub fn new(
        settings: &Settings,
        routes: Arc<Routes>,
        enricher: E,
        metrics: Metrics,
    ) -> Result<Self, WrongSettings> {
        let project = &settings.process.project;
        let topic = |(name, to): (&String, &Producer)| Ok((name.clone(), to.topic(name, project)?));
        Ok(Self {
            routes,
            topics: settings.producers.iter().map(topic).collect::<Result<_, WrongSettings>>()?,
            identity: settings.identity.clone(),
            retained: settings.mqtt.retained,
            enricher,
            metrics,
        })
    }

    fn route(&self, message: &Message) -> Result<Step<Outgoing>, Error> {
        let origin = Origin::of(&message.attributes);
        let no_route = || {
            let why = format!("no route matches the {origin}");
            Recovery::Reject(reasons::NO_ROUTE).because("route", why)
        };
        let entry = self.routes.find(origin).ok_or_else(no_route)?;
        if let Some(reason) = self.skip(entry, message) {
            return Ok(Step::Skip(reason));
        }
        if let Some(excess) = message.attributes.get(PROPERTIES_DROPPED) {
            let error = Recovery::Reject(reasons::PROPERTIES_TOO_LARGE);
            return Err(error.because("read the properties", excess.clone()));
        }
        check_size(message)?;
        let destination = &entry.route.destination.route_name;
        let to = self.topics.get(destination).ok_or_else(no_route)?;
        Ok(Step::Pass(self.wrap(message, origin, entry, to)))
    }

    /// Returns the reason why a message is acknowledged without being sent, if any.
    fn skip(&self, entry: &Entry, message: &Message) -> Option<Reason> {
        let is_retained = message.attributes.contains_key(attribute::MQTT_RETAIN);
        let size = message.data.len();
        if is_retained && self.retained == Retained::Drop {
            Some(reasons::RETAINED)
        } else if entry.route.min_payload_bytes.is_some_and(|min| size < min) {
            Some(PAYLOAD_TOO_SMALL)
        } else if entry.route.max_payload_bytes.is_some_and(|max| size > max) {
            Some(PAYLOAD_TOO_LARGE)
        } else {
            None
        }
    }

    fn wrap(
        &self,
        message: &Message,
        origin: Origin<'_>,
        entry: &Entry,
        to: &TopicName,
    ) -> Outgoing {
        let identified = identify(message, origin, &self.identity, &self.metrics);
        let device_id = entry.device_id(origin.address);
        let mut enrichment = Map::new();
        let arrival = Arrival {
            origin,
            route: &entry.name,
            device_id,
            payload: &message.data,
            received: message.publish_time,
        };
        self.enricher.enrich(arrival, &mut enrichment);

        let trace = self.trace(message);
        let mut attributes = Attributes::new(enrichment, &self.metrics);
        // Our own attributes come first, so none of them is dropped by the limit on their number.
        let own = [
            (attribute::INGEST_ID, Some(identified.id.as_str())),
            (attribute::ROUTE_NAME, Some(entry.route.destination.route_name.as_str())),
            (origin.kind.attribute(), Some(origin.address)),
            (attribute::DEVICE_ID, device_id),
            (attribute::EVENT_TIME_RAW, identified.raw_time.as_deref()),
            (attribute::TRACEPARENT, Some(&trace)),
        ];
        for (name, value) in own {
            if let Some(value) = value {
                attributes.put(name, value);
            }
        }
        for (name, template) in &entry.attributes {
            attributes.put(name, &template.fill(origin.address));
        }
        attributes.put_given(&message.attributes);
        let (attributes, enrichment) = attributes.finish();
        let envelope = Envelope {
            id: identified.id,
            payload: Some(message.data.clone().into()),
            publish_time: Some(identified.time),
            enrichment,
        };
        Outgoing {
            topic: to.clone(),
            data: envelope.to_bytes(),
            attributes: attributes.into(),
            ordering_key: message.ordering_key.clone(),
        }
    }

    /// Returns the trace of the device's message, else a new one.
    fn trace(&self, message: &Message) -> String {
        match message.attributes.get(TRACE_PROPERTY) {
            Some(given) if trace::is_valid(given) => return given.clone(),
            Some(_) => self.metrics.replace("traceparent"),
            None => {}
        }
        trace::new_parent()
    }
}

/// Refuses a message that is too large even without an envelope, before its content is parsed.
fn check_size(message: &Message) -> Result<(), Error> {
    let in_base64 = message.data.len().div_ceil(3) * 4;
    let given = message.attributes.iter();
    // Our own attributes replace these.
    let given = given.filter(|(name, _)| !attribute::is_reserved(name) && *name != TRACE_PROPERTY);
    let given: usize = given.map(|(name, value)| name.len() + value.len()).sum();
    if in_base64 + given <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    let why = format!(
        "{in_base64} bytes in base64 and {given} of attributes, Pub/Sub takes at most \
         {MAX_MESSAGE_BYTES}"
    );
    Err(Recovery::Reject(MESSAGE_TOO_LARGE).because("wrap", why))
}

impl<E: Enricher> Transform for Route<E> {
    type Record = Outgoing;

    async fn apply(&self, message: &Message) -> Result<Step<Outgoing>, Error> {
        self.route(message)
    }

    /// Without a record, only the device is known.
    fn ids<'a>(&'a self, message: &'a Message, record: Option<&'a Outgoing>) -> Ids<'a> {
        if let Some(record) = record {
            return record.ids();
        }
        let origin = Origin::of(&message.attributes);
        let device = self.routes.find(origin).and_then(|entry| entry.device_id(origin.address));
        Ids { device_id: device.unwrap_or_default().into(), ..message.ids() }
    }

    fn show(&self, _message: &Message, record: &Outgoing) -> Option<RecordText> {
        Some(RecordText::new(RecordKind::Envelope, &record.data))
    }
}

#[cfg(test)]
mod tests;
