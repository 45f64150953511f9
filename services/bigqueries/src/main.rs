//! The binary of bigqueries. `bigqueries --config FILE` runs the service, and `bigqueries view`
//! prints the query of the view. Further subcommands are tools for the person on call.

use std::process::ExitCode;

use bigqueries::tools::ACTIONS;
use bigqueries::{Bigqueries, config::Settings};

fn main() -> ExitCode {
    let about = "Writes Pub/Sub messages into rows of a BigQuery table";
    service::run(about, &ACTIONS, |settings: Settings| Bigqueries::new(settings))
}
