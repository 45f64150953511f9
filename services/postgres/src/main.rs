//! The binary of postgres. `postgres --config FILE` runs the service, and `postgres sql` prints the
//! statements that make the table. Further subcommands are tools for the person on call.

use std::process::ExitCode;

use postgres::tools::ACTIONS;
use postgres::{Postgres, config::Settings};

fn main() -> ExitCode {
    let about = "Writes Pub/Sub messages into rows of a PostgreSQL table";
    service::run(about, &ACTIONS, |settings: Settings| Postgres::new(settings))
}
