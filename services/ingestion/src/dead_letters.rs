//! Dead letters of ingestion. Each names its device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use message::attribute;
use message::{Message, Origin};
use pipeline::hops::Ids;
use pipeline::reasons::{CRASHED, PANICKED};
use pipeline::{DeadLetter, DeadLetters, Error};

use crate::config::Identity;
use crate::identity::letter_id;
use crate::routes::Routes;

/// Adds the device and an `ingest_id` to each dead letter, as its message would have had them.
/// Otherwise nobody could search for the dead letter by device or id.
#[derive(Debug)]
pub struct Named<D> {
    inner: D,
    routes: Arc<Routes>,
    identity: Identity,
}

impl<D> Named<D> {
    /// Creates a wrapper of `inner` that finds the device by these routes and the id by these
    /// settings.
    #[must_use]
    pub fn new(inner: D, routes: Arc<Routes>, identity: Identity) -> Self {
        Self { inner, routes, identity }
    }

    fn name(&self, letter: &DeadLetter<'_>) -> Message {
        let mut message = letter.message.clone();
        let origin = Origin::of(&letter.message.attributes);
        let route = self.routes.find(origin);
        if let Some(device) = route.and_then(|entry| entry.device_id(origin.address)) {
            message.attributes.insert(attribute::DEVICE_ID.into(), device.to_owned());
        }
        if !message.attributes.contains_key(attribute::INGEST_ID) {
            // Parsing this payload may be what panicked or ended the process, so it is not parsed
            // again.
            let id = match letter.reason {
                PANICKED | CRASHED => {
                    letter_id(&message, origin, letter.first_seen, &Identity::default())
                }
                _ => letter_id(&message, origin, letter.first_seen, &self.identity),
            };
            message.attributes.insert(attribute::INGEST_ID.into(), id);
        }
        message
    }
}

impl<D: DeadLetters> DeadLetters for Named<D> {
    async fn write(&self, letter: &DeadLetter<'_>, time_limit: Duration) -> Result<(), Error> {
        // A dead letter without these attributes is better than none.
        let named = catch_unwind(AssertUnwindSafe(|| self.name(letter)));
        let message = named.unwrap_or_else(|_| letter.message.clone());
        let DeadLetter { service, reason, ref detail, attempts, first_seen, .. } = *letter;
        let detail = detail.clone();
        let named = DeadLetter { service, reason, detail, attempts, first_seen, message: &message };
        self.inner.write(&named, time_limit).await
    }

    fn ids<'a>(&self, letter: &DeadLetter<'a>) -> Ids<'a> {
        let message = self.name(letter);
        let attribute = |name| message.attributes.get(name).cloned().unwrap_or_default().into();
        Ids {
            ingest_id: attribute(attribute::INGEST_ID),
            device_id: attribute(attribute::DEVICE_ID),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use message::Attributes;
    use pipeline::Reason;
    use pubsub::reasons::MESSAGE_TOO_LARGE;
    use time::macros::datetime;

    use super::*;
    use crate::config::{Producer, RouteSettings, Settings};
    use crate::enricher::FromTopic;
    use crate::metrics::Metrics;
    use crate::route::Route;
    use crate::tools::dead_letters::wrap;

    fn named(mqtt_topic: &str) -> Named<()> {
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = mqtt_topic.into();
        let routes = Routes::new(&BTreeMap::from([("up".to_owned(), route)])).unwrap();
        let identity = Identity { id_pointer: Some("/id".into()), ..Identity::default() };
        Named::new((), Arc::new(routes), identity)
    }

    fn name(named: &Named<()>, topic: &str) -> Message {
        name_for(named, topic, MESSAGE_TOO_LARGE)
    }

    fn name_for(named: &Named<()>, topic: &str, reason: Reason) -> Message {
        let message = Message::new(r#"{"id":"7"}"#).with_attribute(attribute::MQTT_TOPIC, topic);
        named.name(&DeadLetter {
            service: "ingestion",
            reason,
            detail: String::new(),
            attempts: 1,
            first_seen: datetime!(2025-06-15 10:00 UTC),
            message: &message,
        })
    }

    #[test]
    fn a_letter_bears_the_device_and_the_id_of_its_message() {
        let captured = name(&named("devices/{device_id}/up"), "devices/d1/up");
        let first_plus = name(&named("devices/+/up"), "devices/d1/up");
        let unknown = name(&named("devices/+/up"), "nobody/listens");

        assert_eq!(captured.attributes[attribute::DEVICE_ID], "d1");
        assert_eq!(captured.attributes[attribute::INGEST_ID].len(), 32);
        assert_eq!(first_plus.attributes[attribute::DEVICE_ID], "d1");
        assert!(!unknown.attributes.contains_key(attribute::DEVICE_ID));
        assert!(unknown.attributes.contains_key(attribute::INGEST_ID));
    }

    #[test]
    fn the_id_of_a_letter_from_mqtt_is_as_others_know_it() {
        let [with_pointer, mut without] = [(); 2].map(|()| named("devices/{device_id}/up"));
        without.identity.id_pointer = None;

        let id = |named| name(named, "devices/d1/up").attributes[attribute::INGEST_ID].clone();

        assert_eq!(id(&with_pointer), "205d51101e410e1695c632ac9837a96b");
        assert_eq!(id(&without), "3c13dc470032c0914fcc47a2e34d20dc");
    }

    #[test]
    fn a_payload_that_may_have_ended_the_process_is_not_parsed_again() {
        let [with_pointer, mut without] = [(); 2].map(|()| named("devices/{device_id}/up"));
        without.identity.id_pointer = None;

        for reason in [PANICKED, CRASHED] {
            let unparsed = name_for(&without, "devices/d1/up", reason);
            let letter = name_for(&with_pointer, "devices/d1/up", reason);

            let id = |letter: &Message| letter.attributes[attribute::INGEST_ID].clone();
            assert_eq!(id(&letter), id(&unparsed));
            assert_ne!(id(&letter), id(&name(&with_pointer, "devices/d1/up")));
        }
    }

    #[tokio::test]
    async fn a_letter_that_is_replayed_keeps_its_id() {
        let letter = name(&named("devices/{device_id}/up"), "devices/d1/up");
        let mut settings = Settings::default();
        settings.process.project = "p".into();
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = "devices/{device_id}/up".into();
        route.destination.route_name = "uplinks".into();
        settings.routes.insert("up".into(), route);
        settings.producers.insert("uplinks".into(), Producer { topic_id: "raw".into() });
        let routes = Arc::new(Routes::new(&settings.routes).unwrap());
        let route = Route::new(&settings, routes, FromTopic, Metrics::default());

        let outgoing = wrap(&route, &letter, None).await.unwrap();

        let id = |attributes: &Attributes| attributes[attribute::INGEST_ID].clone();
        assert_eq!(id(&outgoing.attributes), id(&letter.attributes));
    }
}
