//! Binary of enrich. `enrich --config FILE` runs the service. The subcommands are tools for
//! operators.

use std::process::ExitCode;

use enrich::tools::ACTIONS;
use enrich::{Enrich, config::Settings};

fn main() -> ExitCode {
    let about = "Adds what Firestore knows about a device to its messages";
    service::run(about, &ACTIONS, |settings: Settings| Enrich::new(settings))
}
