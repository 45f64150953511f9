//! Binary of ingestion. `ingestion --config FILE` runs the service. `ingestion retire` cleans up
//! after a replica that was removed permanently. The other subcommands are tools for operators.

use std::process::ExitCode;

use ingestion::tools::ACTIONS;
use ingestion::{Ingestion, config::Settings};

fn main() -> ExitCode {
    let about = "Carries MQTT messages into Pub/Sub without losing one";
    service::run(about, &ACTIONS, |settings: Settings| Ingestion::new(settings))
}
