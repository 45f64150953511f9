//! The binary: `enrich --config FILE`.

use std::process::ExitCode;

use enrich::{Enrich, config::Settings};

fn main() -> ExitCode {
    service::run(
        "Adds what Firestore knows about a device to its messages",
        |settings: Settings| Enrich::new(settings),
    )
}
