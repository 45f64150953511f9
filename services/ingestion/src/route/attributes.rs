//! Attributes of an outgoing message. Values that cannot be attributes go into the enrichment data.

use std::borrow::Cow;
use std::collections::HashMap;

use message::attribute;
use pubsub::limits::{MAX_ATTRIBUTE_KEY_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES};
use serde_json::{Map, Value};

use super::TRACE_PROPERTY;
use crate::metrics::Metrics;
use crate::mqtt;

/// Names in the enrichment data that only an enricher may set. Other services look devices up by
/// them.
const OWN_ENRICHMENT: [&str; 3] = ["DeviceID", "Topic", "Timestamp"];

/// Collector of attributes. A value that Pub/Sub does not accept as an attribute goes only into the
/// enrichment data, and is counted.
pub(super) struct Attributes<'a> {
    attributes: HashMap<String, String>,
    enrichment: Map<String, Value>,
    metrics: &'a Metrics,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(enrichment: Map<String, Value>, metrics: &'a Metrics) -> Self {
        Self { attributes: HashMap::new(), enrichment, metrics }
    }

    /// Sets one of our own attributes, unless it is set already.
    pub(super) fn put(&mut self, name: &str, value: &str) {
        if self.attributes.contains_key(name) {
            return;
        }
        if self.fits(name, value, MAX_ATTRIBUTES) {
            self.attributes.insert(name.to_owned(), value.to_owned());
        } else {
            self.metrics.replace("attribute_size");
            self.enrichment.entry(name.to_owned()).or_insert_with(|| value.into());
        }
    }

    /// Sets the attributes that came with the message. None of them overrides one that is set
    /// already. Instead, it gets the prefix of user properties.
    pub(super) fn put_given(&mut self, given: &message::Attributes) {
        let list = given.get(attribute::MQTT_REPEATED);
        // This list is our own. A device's property with this name was given a prefix.
        let list = list.and_then(|list| serde_json::from_str(list).ok());
        let mut repeated: Vec<String> = list.unwrap_or_default();
        let listed = repeated.iter().enumerate();
        let listed: HashMap<_, _> = listed.map(|(index, name)| (name.clone(), index)).collect();
        let trace = self.attributes.get(attribute::TRACEPARENT).cloned();
        let is_told = |name: &str, value: &String| {
            // The envelope has this time.
            name == attribute::HTTP_TIMESTAMP
                || name == attribute::MQTT_REPEATED
                || name == TRACE_PROPERTY && trace.as_ref() == Some(value)
        };
        let mut given: Vec<_> =
            given.iter().filter(|(name, value)| !is_told(name, value)).collect();
        // Attributes with a reserved name come first, so none of them is dropped by the limit on
        // their number.
        given.sort_by_key(|(name, _)| (!attribute::is_reserved(name), *name));
        let most = MAX_ATTRIBUTES - usize::from(!repeated.is_empty());
        for (name, value) in given {
            let stored = self.put_one(name, value, most);
            if let Some(index) = listed.get(name) {
                repeated[*index] = stored.into_owned();
            }
        }
        if !repeated.is_empty() {
            self.put(attribute::MQTT_REPEATED, &mqtt::list_of(&repeated));
        }
    }

    /// Sets one attribute. Returns the name that it got.
    fn put_one<'n>(&mut self, name: &'n str, value: &str, most: usize) -> Cow<'n, str> {
        let mut name = Cow::Borrowed(name);
        if let Some(own) = self.attributes.get(&*name) {
            if own == value {
                return name;
            }
            name = self.rename(&name);
        }
        if self.fits(&name, value, most) && !self.attributes.contains_key(&*name) {
            self.attributes.insert(name.clone().into_owned(), value.to_owned());
            return name;
        }
        self.metrics.replace("attribute_size");
        while OWN_ENRICHMENT.contains(&&*name) || self.enrichment.contains_key(&*name) {
            name = self.rename(&name);
        }
        self.enrichment.insert(name.clone().into_owned(), value.into());
        name
    }

    fn rename(&self, name: &str) -> Cow<'static, str> {
        self.metrics.replace("reserved_name");
        format!("{}{name}", attribute::MQTT_PROPERTY).into()
    }

    fn fits(&self, name: &str, value: &str, most: usize) -> bool {
        (1..=MAX_ATTRIBUTE_KEY_BYTES).contains(&name.len())
            && value.len() <= MAX_ATTRIBUTE_VALUE_BYTES
            && self.attributes.len() < most
    }

    pub(super) fn finish(self) -> (HashMap<String, String>, Map<String, Value>) {
        (self.attributes, self.enrichment)
    }
}
