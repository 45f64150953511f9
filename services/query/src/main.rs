//! The binary of query. `query --config FILE` runs the service.

use std::process::ExitCode;

use query::{Query, config::Settings};

fn main() -> ExitCode {
    let about = "Answers queries for the rows of a PostgreSQL table over HTTP";
    service::run(about, &[], |settings: Settings| Query::new(settings))
}
