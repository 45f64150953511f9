//! The binary of icestore. `icestore --config FILE` runs the service, and `icestore replay` sends
//! archived messages again. Further subcommands are tools for the person on call.

use std::process::ExitCode;

use icestore::{Icestore, config::Settings, explain, replay};
use pubsub::letters;
use service::Action;

const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const REPLAY: Action<Settings> = Action {
    command: replay::command,
    act: |settings, given| Box::pin(replay::act(settings, given)),
};
const LETTERS: Action<Settings> = letters::action();

fn main() -> ExitCode {
    let about = "Archives Pub/Sub messages as compressed objects";
    service::run_with(about, &[EXPLAIN, LETTERS, REPLAY], |settings: Settings| {
        Icestore::new(settings)
    })
}
