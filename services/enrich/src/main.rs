//! Binary of enrich. `enrich --config FILE` runs the service. The subcommands are tools for
//! operators.

use std::process::ExitCode;

use enrich::{Enrich, config::Settings, explain};
use pubsub::letters;
use service::Action;

const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const LETTERS: Action<Settings> = letters::action();

fn main() -> ExitCode {
    let about = "Adds what Firestore knows about a device to its messages";
    service::run_with(about, &[EXPLAIN, LETTERS], |settings: Settings| Enrich::new(settings))
}
