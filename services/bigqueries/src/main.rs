//! The binary of bigqueries. `bigqueries --config FILE` runs the service, and `bigqueries view`
//! prints the query of the view. Further subcommands are tools for the person on call.

use std::process::ExitCode;

use bigqueries::{Bigqueries, config::Settings, explain, view};
use pubsub::letters;
use service::Action;

const VIEW: Action<Settings> = Action {
    command: view::command,
    act: |settings, _| {
        view::print(&settings);
        Box::pin(std::future::ready(Ok(())))
    },
};
const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const LETTERS: Action<Settings> = letters::action();

fn main() -> ExitCode {
    let about = "Writes Pub/Sub messages into rows of a BigQuery table";
    service::run_with(about, &[VIEW, EXPLAIN, LETTERS], |settings: Settings| {
        Bigqueries::new(settings)
    })
}
