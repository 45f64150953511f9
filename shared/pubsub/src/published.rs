//! Ids that Pub/Sub gives to published messages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use message::trace::Context;
use message::{Origin, attribute};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{Level, debug, enabled};

use crate::names::TopicName;
use crate::outgoing::Outgoing;

/// Confirmation of published messages.
#[derive(Debug)]
pub struct Published<'a> {
    messages: &'a [Outgoing],
    /// Ids of each ordering key, in the order of its messages. The keys have the order in which they
    /// first appear among the messages.
    by_key: Vec<Vec<String>>,
}

impl<'a> Published<'a> {
    pub(crate) fn new(messages: &'a [Outgoing], by_key: Vec<Vec<String>>) -> Self {
        Self { messages, by_key }
    }

    /// Returns the ids in the order of the messages.
    #[must_use]
    pub fn into_ids(mut self) -> Vec<String> {
        if self.by_key.len() <= 1 {
            return self.by_key.pop().unwrap_or_default();
        }
        let mut places = HashMap::new();
        let mut by_key: Vec<_> = self.by_key.into_iter().map(Vec::into_iter).collect();
        let id = |message: &'a Outgoing| {
            let next = places.len();
            let place = *places.entry(message.ordering_key.as_str()).or_insert(next);
            by_key.get_mut(place)?.next()
        };
        self.messages.iter().filter_map(id).collect()
    }

    /// Logs the id of each message at the level DEBUG.
    pub(crate) fn log(&self, topic: &TopicName) {
        if !enabled!(Level::DEBUG) {
            return;
        }
        let copy = Published::new(self.messages, self.by_key.clone());
        for (message, message_id) in self.messages.iter().zip(copy.into_ids()) {
            let attribute = |name: &str| message.attributes.get(name).map(String::as_str);
            let trace = attribute(attribute::TRACEPARENT).and_then(Context::parse);
            debug!(
                topic = Some(Origin::of(&message.attributes).address).filter(|at| !at.is_empty()),
                message_id,
                ingest_id = attribute(attribute::INGEST_ID),
                trace = trace.map(|trace| trace.trace_id),
                span_id = trace.map(|trace| trace.span_id),
                trace_sampled = trace.map(|trace| trace.is_sampled),
                to = %topic,
                "published"
            );
        }
    }
}

/// The last message that Pub/Sub has confirmed. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastPublished(Arc<Mutex<Option<Confirmed>>>);

#[derive(Debug)]
struct Confirmed {
    topic: TopicName,
    id: String,
    at: OffsetDateTime,
}

impl LastPublished {
    /// Notes the messages of a topic. This copies no id.
    pub(crate) fn note(&self, topic: &TopicName, mut published: Published<'_>) {
        let Some(id) = published.by_key.last_mut().and_then(Vec::pop) else { return };
        let confirmed = Confirmed { topic: topic.clone(), id, at: OffsetDateTime::now_utc() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(confirmed);
    }

    /// Returns the topic, the id and the time, or null before the first confirmation.
    pub(crate) fn report(&self) -> Value {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Confirmed { topic, id, at }) => {
                json!({ "topic": topic.as_str(), "message_id": id, "at": at.format(&Rfc3339).ok() })
            }
            None => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracing::field::{Field, Visit};
    use tracing::{Event, Metadata, Subscriber, span};

    use super::*;

    fn outgoing(key: &str, number: usize) -> Outgoing {
        let (topic, data) = (TopicName::new("p", "t"), number.to_string().into());
        Outgoing { topic, data, attributes: <_>::default(), ordering_key: key.into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn ids_have_the_order_of_the_messages(keys in proptest::collection::vec("[abc]?", 0..50)) {
            let numbered = keys.iter().enumerate();
            let messages: Vec<_> = numbered.map(|(index, key)| outgoing(key, index)).collect();
            let mut by_key: Vec<(&str, Vec<String>)> = Vec::new();
            for (index, key) in keys.iter().enumerate() {
                match by_key.iter_mut().find(|(known, _)| known == key) {
                    Some((_, ids)) => ids.push(index.to_string()),
                    None => by_key.push((key, vec![index.to_string()])),
                }
            }

            let by_key = by_key.into_iter().map(|(_, ids)| ids).collect();
            let ids = Published::new(&messages, by_key).into_ids();

            let wanted: Vec<_> = (0..keys.len()).map(|index| index.to_string()).collect();
            prop_assert_eq!(ids, wanted);
        }
    }

    /// Keeps the fields of each event up to a level. Clones share them.
    #[derive(Clone)]
    struct Events(Level, Arc<Mutex<String>>);

    impl Subscriber for Events {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= self.0
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
            self.1.lock().unwrap().push('\n');
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    impl Visit for Events {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let mut text = self.1.lock().unwrap();
            text.push_str(&format!("{}={value:?} ", field.name()));
        }
    }

    #[test]
    fn logs_for_debugging_name_the_id_of_each_message() {
        let topic = TopicName::new("p", "t");
        let mut messages = [outgoing("b", 0), outgoing("a", 1)];
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (name, value) in [
            (attribute::INGEST_ID, "i-1"),
            (attribute::MQTT_TOPIC, "devices/d1/up"),
            (attribute::TRACEPARENT, trace),
        ] {
            messages[1].attributes.insert(name.into(), value.into());
        }
        let logged = |level| {
            let events = Events(level, Arc::default());
            let ids = vec![vec!["10".to_owned()], vec!["11".to_owned()]];
            tracing::subscriber::with_default(events.clone(), || {
                Published::new(&messages, ids).log(&topic);
            });
            std::mem::take(&mut *events.1.lock().unwrap())
        };

        assert_eq!(
            logged(Level::DEBUG),
            "message=published message_id=\"10\" to=projects/p/topics/t \n\
             message=published topic=\"devices/d1/up\" message_id=\"11\" ingest_id=\"i-1\" \
             trace=\"4bf92f3577b34da6a3ce929d0e0e4736\" span_id=\"00f067aa0ba902b7\" trace_sampled=true \
             to=projects/p/topics/t \n"
        );
        assert_eq!(logged(Level::INFO), "");
    }

    #[test]
    fn the_last_confirmed_message_is_reported() {
        let (last, topic) = (LastPublished::default(), TopicName::new("p", "t"));
        let messages = [outgoing("", 0), outgoing("", 1)];
        assert_eq!(last.report(), Value::Null);

        let ids = vec![vec!["10".to_owned(), "11".to_owned()]];
        last.note(&topic, Published::new(&messages, ids));

        let report = last.report();
        assert_eq!(
            (&report["topic"], &report["message_id"]),
            (&json!(topic.as_str()), &json!("11"))
        );
        assert!(report["at"].is_string(), "{report}");
    }
}
