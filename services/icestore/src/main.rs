//! The binary: `icestore --config FILE`.

use std::process::ExitCode;

use icestore::{Icestore, config::Settings};

fn main() -> ExitCode {
    service::run("Archives Pub/Sub messages as compressed objects", |settings: Settings| {
        Icestore::new(settings)
    })
}
