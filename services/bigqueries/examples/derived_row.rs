//! Bigqueries with a row type whose columns come from the fields of a struct.

use std::process::ExitCode;

use bigqueries::tools::actions;
use bigqueries::{Bigqueries, config::Settings};
use rows::{Envelope, Error, FromMessage, Message, Record, Row, Typed};
use time::OffsetDateTime;

/// A row of the table.
#[derive(Row)]
pub(crate) struct Reading {
    device: String,
    at: OffsetDateTime,
    bytes: i64,
    tags: Vec<String>,
    #[row(name = "where")]
    place: Option<Place>,
}

/// Place of a device.
#[derive(Record)]
struct Place {
    location: String,
}

impl FromMessage for Reading {
    fn from_message(message: &Message, envelope: &Envelope) -> Result<Self, Error> {
        let payload = envelope.payload.as_ref().map(message::Payload::bytes).unwrap_or_default();
        let text = |name: &str| Some(envelope.enrichment.get(name)?.as_str()?.to_owned());
        Ok(Self {
            device: text("DeviceID").unwrap_or_default(),
            at: envelope.publish_time.unwrap_or(message.publish_time),
            bytes: i64::try_from(payload.len()).unwrap_or(i64::MAX),
            tags: message.attributes.get("route_name").cloned().into_iter().collect(),
            place: text("location").map(|location| Place { location }),
        })
    }
}

/// Returns bigqueries with these rows.
pub(crate) fn with_derived_row(settings: Settings) -> Bigqueries<Typed<Reading>> {
    Bigqueries::with_row::<Reading>(settings)
}

fn main() -> ExitCode {
    service::run("Sizes of payloads", &actions::<Reading>(), with_derived_row)
}
