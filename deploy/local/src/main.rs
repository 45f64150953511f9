//! Local mode: messages flow from simulated devices through the whole platform, and each one is
//! accounted for. `cargo run` in the root folder starts it.

mod args;
mod broker;
mod description;
mod env;
mod live_page;
mod progress;
mod run;
mod settings;
mod table;

use std::process::ExitCode;

use clap::Parser as _;
use service::output;

#[tokio::main]
async fn main() -> ExitCode {
    service::install_crypto();
    let args = args::Args::parse();
    args.install_logs();
    match run::run(args).await {
        Ok(totals) if totals.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            output::note(format_args!("local mode failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
