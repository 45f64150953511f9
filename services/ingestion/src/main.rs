//! Binary of ingestion. `ingestion --config FILE` runs the service. `ingestion retire` cleans up
//! after a replica that was removed permanently. The other subcommands are tools for operators.

use std::process::ExitCode;

use ingestion::{Ingestion, config::Settings, explain, letters, retire};
use service::Action;

const RETIRE: Action<Settings> = Action {
    command: retire::command,
    act: |settings, given| Box::pin(retire::act(settings, given)),
};
const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const LETTERS: Action<Settings> = Action {
    command: letters::command,
    act: |settings, given| Box::pin(letters::act(settings, given)),
};

fn main() -> ExitCode {
    let about = "Carries MQTT messages into Pub/Sub without losing one";
    let actions = [RETIRE, EXPLAIN, LETTERS];
    service::run_with(about, &actions, |settings: Settings| Ingestion::new(settings))
}
