//! Command line of a service.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, ValueHint, value_parser};

use crate::tools::preflight::Form;

/// Task of the process.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Run,
    /// Checks only the settings.
    Check(Form),
    /// Checks the settings and every dependency.
    CheckOnline(Form),
    Plan(Form),
    Probe,
    /// Runs one of the service's own subcommands, given by its index in the list of actions.
    Act(usize, ArgMatches),
}

impl Command {
    /// Returns the output format of the command.
    pub(crate) fn form(&self) -> Form {
        match self {
            Self::Check(form) | Self::CheckOnline(form) | Self::Plan(form) => *form,
            Self::Run | Self::Probe | Self::Act(..) => Form::Text,
        }
    }
}

/// Parsed command line.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Prints the schema of the settings. This needs no settings.
    Schema,
    /// Runs a command with the settings of this file.
    Of(Option<PathBuf>, Command),
}

/// Parses the command line. `actions` are the service's own subcommands.
///
/// Prints a text and exits for `--help`, `--version` and mistakes.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    name: &'static str,
    about: &'static str,
    actions: &[clap::Command],
) -> Asked {
    let matches = command(name, about, actions).get_matches_from(arguments);
    let from_variable = || std::env::var_os("DATAFLOW_CONFIG").map(PathBuf::from);
    let config = matches.get_one("config").cloned().or_else(from_variable);
    let command = match matches.subcommand() {
        None => Command::Run,
        Some(("check", given)) if given.get_flag("online") => Command::CheckOnline(form(given)),
        Some(("check", given)) => Command::Check(form(given)),
        Some(("plan", given)) => Command::Plan(form(given)),
        Some(("schema", _)) => return Asked::Schema,
        Some(("probe", _)) => Command::Probe,
        Some((given, of_it)) => {
            let own = actions.iter().position(|action| action.get_name() == given);
            own.map_or(Command::Run, |index| Command::Act(index, of_it.clone()))
        }
    };
    Asked::Of(config, command)
}

fn command(name: &'static str, about: &'static str, actions: &[clap::Command]) -> clap::Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Settings in YAML; without it, defaults and DATAFLOW__... variables alone")
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(PathBuf))
        .global(true);
    let online =
        flag("online", "Also reach every dependency: is it there, may we use it, does it fit?");
    let check = clap::Command::new("check")
        .about("Checks the settings, names every fault, and exits with 2 if there is one")
        .long_about(
            "Checks the settings, names every fault, and exits with 2 if there is one.\n\n\
             With --online it reaches every dependency too, changes nothing there but a test key in the \
             cache, and exits with 1 if one is missing, denied, differs from the settings, or cannot be reached.\n\n\
             With --json it prints an object: `settings` is `right`, with `guarantees`, `memory` and \
             `warnings`, or `wrong`, with `faults`. With --online, right settings are a list of the dependencies.",
        )
        .args([online, json()]);
    let plan = clap::Command::new("plan")
        .about("Shows what these settings need, and what of it is missing")
        .long_about(
            "Shows the address and the credentials of each API of Google, and each dependency with the \
             least roles on it: topics, subscriptions, tables, views, buckets, collections, Redis, the \
             broker. Says whether each is there. Changes nothing but a test key in the cache; \
             deploy/gcp.sh creates what is missing. Exits with 1 if something is missing, denied or differs.\n\n\
             With --json it prints an object: `warnings` and `costs`, one line each, `cloud` and \
             `dependencies`.",
        )
        .arg(json());
    clap::Command::new(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(
            "Variables override the file: DATAFLOW__HTTP__PORT=9090 sets http.port. \
             DATAFLOW_CONFIG stands for --config, RUST_LOG sets the log level.",
        )
        .arg(config)
        .subcommands([
            check,
            plan,
            clap::Command::new("schema")
                .about("Prints the JSON Schema of the settings, for editors"),
            clap::Command::new("probe")
                .about("Asks the service that runs here whether it is ready, for health checks"),
        ])
        .subcommands(actions)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

/// Returns the `--json` option, for subcommands that also print output for programs.
pub fn json() -> Arg {
    flag("json", "Print JSON, for programs")
}

/// Returns [`Form::Json`] if `--json` was given, else [`Form::Text`].
pub fn form(given: &ArgMatches) -> Form {
    if given.get_flag("json") { Form::Json } else { Form::Text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command("enrich", "about", &[clap::Command::new("view").about("own")]).debug_assert();
    }
}
