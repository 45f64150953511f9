//! What a service takes on its command line.

use std::path::PathBuf;

use clap::{Arg, ValueHint, value_parser};

/// What the process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Run,
    Check,
    /// One of the service's own actions, by its place among them.
    Act(usize),
}

#[derive(Debug)]
pub(crate) struct Args {
    pub config: Option<PathBuf>,
    pub command: Command,
}

/// Reads the command line; prints and exits for `--help`, `--version` and mistakes.
///
/// `actions` are the names of the service's own actions, with what they do.
pub(crate) fn parse(
    name: &'static str,
    about: &'static str,
    actions: &[(&'static str, &'static str)],
) -> Args {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Settings in YAML; without it, defaults and DATAFLOW__... variables alone")
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(PathBuf))
        .global(true);
    let check = clap::Command::new("check")
        .about("Checks the settings, names every fault, and exits with 2 if there is one");
    let matches = clap::Command::new(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(
            "Variables override the file: DATAFLOW__HTTP__PORT=9090 sets http.port. \
             DATAFLOW_CONFIG stands for --config, RUST_LOG sets the log level.",
        )
        .arg(config)
        .subcommand(check)
        .subcommands(actions.iter().map(|(name, about)| clap::Command::new(name).about(*about)))
        .get_matches();
    let from_variable = || std::env::var_os("DATAFLOW_CONFIG").map(PathBuf::from);
    let command = match matches.subcommand_name() {
        None => Command::Run,
        Some(given) => {
            let own = actions.iter().position(|(name, _)| *name == given);
            own.map_or(Command::Check, Command::Act)
        }
    };
    Args { config: matches.get_one("config").cloned().or_else(from_variable), command }
}
