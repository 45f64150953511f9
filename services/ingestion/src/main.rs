//! The binary: `ingestion --config FILE`, `ingestion retire` for a replica that goes for good, and the
//! tools for the person on call.

use std::process::ExitCode;

use clap::{Arg, Command, value_parser};
use ingestion::{Ingestion, config::Settings, explain, letters};
use service::Action;

const RETIRE: Action<Settings> = Action {
    command: || {
        let ordinal = Arg::new("ordinal")
            .long("ordinal")
            .value_name("N")
            .value_parser(value_parser!(u32))
            .help("Which replica goes; by default the one of the settings, or of this host's name");
        Command::new("retire")
            .about("Unsubscribes, carries what the broker still holds, and ends the sessions (for scale-in)")
            .arg(ordinal)
    },
    act: |mut settings, given| {
        settings.mqtt.ordinal = given.get_one("ordinal").copied().or(settings.mqtt.ordinal);
        Box::pin(Ingestion::new(settings).retire())
    },
};
const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const LETTERS: Action<Settings> = Action {
    command: pubsub::letters::command,
    act: |settings, given| Box::pin(letters::act(settings, given)),
};

fn main() -> ExitCode {
    let about = "Carries MQTT messages into Pub/Sub without losing one";
    let actions = [RETIRE, EXPLAIN, LETTERS];
    service::run_with(about, &actions, |settings: Settings| Ingestion::new(settings))
}
