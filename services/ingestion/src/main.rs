//! The binary: `ingestion --config FILE`, and `ingestion retire` for a replica that goes for good.

use std::process::ExitCode;

use ingestion::{Ingestion, config::Settings};
use service::Action;

const RETIRE: Action<Settings> = Action {
    name: "retire",
    about: "Unsubscribes, carries what the broker still holds, and ends its sessions (for scale-in)",
    act: |settings| Box::pin(Ingestion::new(settings).retire()),
};

fn main() -> ExitCode {
    let about = "Carries MQTT messages into Pub/Sub without losing one";
    service::run_with(about, &[RETIRE], |settings: Settings| Ingestion::new(settings))
}
