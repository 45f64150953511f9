//! What ingestion writes into the enrichment data.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What is known about a message before it is wrapped.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The MQTT topic.
    pub topic: &'a str,
    /// The name of its route in the settings.
    pub route: &'a str,
    /// The capture `device_id`, else what the first `+` matched.
    pub device_id: Option<&'a str>,
    /// The payload, byte for byte.
    pub payload: &'a [u8],
    /// When it was received.
    pub received: OffsetDateTime,
}

/// Writes enrichment data. Runs once for each attempt to transform a message, so it must be
/// idempotent.
pub trait Enricher: Send + Sync + 'static {
    /// Adds what is known to `data`.
    fn enrich(&self, arrival: Arrival<'_>, data: &mut Map<String, Value>);
}

/// Writes `DeviceID`, `Topic` and `Timestamp`, as the services downstream expect them.
#[derive(Debug, Clone, Copy, Default)]
pub struct FromTopic;

impl Enricher for FromTopic {
    fn enrich(&self, arrival: Arrival<'_>, data: &mut Map<String, Value>) {
        if let Some(device_id) = arrival.device_id {
            data.insert("DeviceID".into(), device_id.into());
        }
        // Seconds, as the Go services write it.
        let seconds = arrival.received.replace_nanosecond(0).unwrap_or(arrival.received);
        if let Ok(time) = seconds.format(&Rfc3339) {
            data.insert("Timestamp".into(), time.into());
        }
        data.insert("Topic".into(), arrival.topic.into());
    }
}
