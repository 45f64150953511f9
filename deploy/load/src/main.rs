//! Load generator. Simulated devices send messages over MQTT or HTTP, from a template, a file or an
//! archive, and the report says what became of them.
//!
//! [`run`] goes from the arguments to the report. A `plan` says which messages are due when, and
//! `content` makes their payloads. Each device is a task: `mqtt` has its connection to a broker,
//! `http` its requests. They note in the `tally` what was sent and answered.

mod args;
mod content;
mod device;
mod gate;
mod histogram;
mod http;
mod mqtt;
mod plan;
mod report;
mod run;
mod tally;
mod target;
mod template;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    service::install_crypto();
    run::run(args::Args::parse()).await
}
