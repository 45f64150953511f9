//! The binary: `ingestion --config FILE`.

use std::process::ExitCode;

use ingestion::{Ingestion, config::Settings};

fn main() -> ExitCode {
    service::run("Carries MQTT messages into Pub/Sub without losing one", |settings: Settings| {
        Ingestion::new(settings)
    })
}
