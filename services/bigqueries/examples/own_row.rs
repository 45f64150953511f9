//! Bigqueries with a custom row type. The table has exactly these columns, whatever the settings
//! say.

use std::process::ExitCode;

use bigqueries::tools::actions;
use bigqueries::{Bigqueries, config::Settings};
use message::{Envelope, Message};
use pipeline::{Error, Reason, Recovery};
use rows::cell::Cell;
use rows::column::{Column, Kind, Mode};
use rows::{Row, Typed};
use serde::Deserialize;
use time::OffsetDateTime;

pipeline::reasons! {
    /// Reasons of dead letters of this row type.
    REFUSED {
        /// The payload is not JSON with the number `celsius`.
        NOT_A_READING = "not_a_reading";
    }
}

/// Payload that devices send.
#[derive(Debug, Deserialize)]
struct Payload {
    celsius: f64,
    #[serde(default)]
    tags: Vec<String>,
}

/// A row of the table.
pub(crate) struct Reading {
    device: String,
    at: OffsetDateTime,
    fahrenheit: f64,
    tags: Vec<String>,
}

impl Row for Reading {
    const REASONS: &[Reason] = REFUSED;

    fn columns() -> Vec<Column> {
        vec![
            Column::new("device", Kind::String).with_mode(Mode::Required),
            Column::new("at", Kind::Timestamp),
            Column::new("fahrenheit", Kind::Float64),
            Column::new("tags", Kind::String).with_mode(Mode::Repeated),
        ]
    }

    fn read(message: &Message, envelope: &Envelope) -> Result<Self, Error> {
        let payload = envelope.payload.as_ref().map(message::Payload::bytes).unwrap_or_default();
        let payload: Payload = serde_json::from_slice(&payload)
            .map_err(|error| Recovery::Reject(NOT_A_READING).because("read", error))?;
        Ok(Self {
            device: message.attributes.get("device_id").cloned().unwrap_or_default(),
            at: envelope.publish_time.unwrap_or(message.publish_time),
            fahrenheit: payload.celsius * 1.8 + 32.0,
            tags: payload.tags,
        })
    }

    fn cells(self) -> Vec<Cell> {
        vec![self.device.into(), self.at.into(), self.fahrenheit.into(), self.tags.into()]
    }
}

/// Returns bigqueries with these rows.
pub(crate) fn with_own_row(settings: Settings) -> Bigqueries<Typed<Reading>> {
    Bigqueries::with_row::<Reading>(settings)
}

fn main() -> ExitCode {
    service::run("Readings in Fahrenheit", &actions::<Reading>(), with_own_row)
}
