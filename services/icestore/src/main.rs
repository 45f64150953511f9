//! The binary of icestore. `icestore --config FILE` runs the service, and `icestore replay` sends
//! archived messages again. Further subcommands are tools for the person on call.

use std::process::ExitCode;

use icestore::tools::ACTIONS;
use icestore::{Icestore, config::Settings};

fn main() -> ExitCode {
    let about = "Archives Pub/Sub messages as compressed objects";
    service::run(about, &ACTIONS, |settings: Settings| Icestore::new(settings))
}
