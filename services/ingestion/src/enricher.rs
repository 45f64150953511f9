//! Enrichment data that ingestion writes.

use message::{Origin, OriginKind};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Facts about a message before it is wrapped.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Place that the message comes from. For MQTT, `origin.address` is the topic.
    pub origin: Origin<'a>,
    /// Name of the message's route in the settings.
    pub route: &'a str,
    /// Value of the capture `device_id`, else of the first `+`.
    pub device_id: Option<&'a str>,
    /// Payload, byte for byte.
    pub payload: &'a [u8],
    /// Time of receipt.
    pub received: OffsetDateTime,
}

/// Writer of enrichment data. It runs once for each attempt to transform a message, so it must be
/// idempotent.
///
/// A function of an arrival and its data is such a writer, too.
pub trait Enricher: Send + Sync + 'static {
    /// Adds facts about the message to `data`.
    fn enrich(&self, arrival: Arrival<'_>, data: &mut Map<String, Value>);
}

impl<F> Enricher for F
where
    F: Fn(Arrival<'_>, &mut Map<String, Value>) + Send + Sync + 'static,
{
    fn enrich(&self, arrival: Arrival<'_>, data: &mut Map<String, Value>) {
        self(arrival, data);
    }
}

/// Standard enricher. It writes `DeviceID`, `Timestamp` and the `Topic` of a message from MQTT, as the
/// services downstream expect them.
#[derive(Debug, Clone, Copy, Default)]
pub struct FromTopic;

impl Enricher for FromTopic {
    fn enrich(&self, arrival: Arrival<'_>, data: &mut Map<String, Value>) {
        if let Some(device_id) = arrival.device_id {
            data.insert("DeviceID".into(), device_id.into());
        }
        // The time has whole seconds, like the format that the services downstream expect.
        let seconds = arrival.received.replace_nanosecond(0).unwrap_or(arrival.received);
        if let Ok(time) = seconds.format(&Rfc3339) {
            data.insert("Timestamp".into(), time.into());
        }
        if arrival.origin.kind == OriginKind::Mqtt {
            data.insert("Topic".into(), arrival.origin.address.into());
        }
    }
}
