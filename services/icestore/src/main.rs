//! The binary: `icestore --config FILE`, and the tools for the person on call.

use std::process::ExitCode;

use icestore::{Icestore, config::Settings, explain};
use pubsub::letters;
use service::Action;

const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const LETTERS: Action<Settings> = Action {
    command: letters::command,
    act: |settings, given| {
        Box::pin(async move { settings.office().act(&given, letters::as_it_was).await })
    },
};

fn main() -> ExitCode {
    let about = "Archives Pub/Sub messages as compressed objects";
    service::run_with(about, &[EXPLAIN, LETTERS], |settings: Settings| Icestore::new(settings))
}
