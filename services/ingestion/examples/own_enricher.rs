//! Ingestion with a custom enricher, which adds the firmware version from the payload.
//!
//! `cargo run -p ingestion --example own_enricher -- --config services/ingestion/example.yaml`

use std::process::ExitCode;

use ingestion::Ingestion;
use ingestion::config::Settings;
use ingestion::enricher::{Arrival, Enricher, FromTopic};
use ingestion::tools::ACTIONS;
use serde_json::{Map, Value};

pub(crate) struct Firmware;

impl Enricher for Firmware {
    fn enrich(&self, arrival: Arrival<'_>, data: &mut Map<String, Value>) {
        FromTopic.enrich(arrival, data);
        // A payload that is no JSON has no version, which is no fault of the message.
        let Ok(payload) = message::json::parse(arrival.payload) else { return };
        if let Some(version) = payload.get("fw") {
            data.insert("Firmware".into(), version.clone());
        }
    }
}

/// Returns ingestion with this enricher.
pub(crate) fn with_own_enricher(settings: Settings) -> Ingestion<Firmware> {
    Ingestion::with_enricher(settings, Firmware)
}

fn main() -> ExitCode {
    service::run("Ingestion that knows firmware versions", &ACTIONS, with_own_enricher)
}
