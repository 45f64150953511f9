//! Command line of a service.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{BoolValueParser, TypedValueParser as _};
use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueHint,
};

use crate::tools::preflight::Form;

/// Variable that stands for `--config`.
pub(crate) const CONFIG: &str = "DATAFLOW_CONFIG";

/// Arguments of every service.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Variables override the file: DATAFLOW__HTTP__PORT=9090 sets http.port. \
                  DATAFLOW_CONFIG stands for --config, RUST_LOG sets the log level. The file .env of the \
                  working folder is read, too, except for RUST_LOG."
)]
struct Arguments {
    /// Settings in YAML; without it, defaults and DATAFLOW__... variables alone.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Task of the process.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    #[command(skip)]
    Run,
    /// Checks the settings, names every fault, and exits with 2 if there is one.
    ///
    /// With --online it reaches every dependency too, changes nothing there but a test key in the
    /// cache, and exits with 1 if one is missing, denied, differs from the settings, or cannot be
    /// reached.
    ///
    /// With --json it prints an object: `settings` is `right`, with `guarantees`, `credentials`,
    /// `memory` and `warnings`, or `wrong`, with `faults`. With --online, right settings are a list of the
    /// dependencies.
    Check {
        /// Also reach every dependency: is it there, may we use it, does it fit?
        #[arg(long)]
        online: bool,
        #[command(flatten)]
        output: JsonOption,
    },
    #[command(
        about = "Shows what these settings need, and what of it is missing",
        long_about = "Shows the address and the credentials of each API of Google, and each dependency with the \
            least roles on it: topics, subscriptions, tables, views, buckets, collections, Redis, the \
            broker. Says whether each is there. Changes nothing but a test key in the cache; \
            deploy/gcp.sh creates what is missing. Exits with 1 if something is missing, denied or differs.\n\n\
            With --json it prints an object: `warnings` and `costs`, one line each, `cloud` and \
            `dependencies`."
    )]
    Plan(JsonOption),
    /// Prints the JSON Schema of the settings, for editors.
    Schema,
    /// Asks the service that runs here whether it is ready, for health checks.
    Probe,
    /// Runs one of the service's own subcommands, given by its index in the list of actions.
    #[command(skip)]
    Act(usize, ArgMatches),
}

/// Option of subcommands that also print output for programs.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonOption {
    /// Print JSON, for programs.
    #[arg(
        long = "json",
        action = ArgAction::SetTrue,
        value_parser = BoolValueParser::new().map(|json| if json { Form::Json } else { Form::Text })
    )]
    pub form: Form,
}

impl Command {
    /// Returns the output format of the command.
    pub(crate) fn form(&self) -> Form {
        match self {
            Self::Check { output, .. } | Self::Plan(output) => output.form,
            Self::Run | Self::Schema | Self::Probe | Self::Act(..) => Form::Text,
        }
    }
}

/// Parses the command line: the file of the settings, and the task. `actions` are the service's own
/// subcommands.
///
/// Prints a text and exits for `--help`, `--version` and mistakes.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    name: &'static str,
    about: &'static str,
    actions: &[clap::Command],
) -> (Option<PathBuf>, Command) {
    let matches = command(name, about, actions).get_matches_from(arguments);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let config = arguments.config;
    let config = config.or_else(|| std::env::var_os(CONFIG).map(PathBuf::from));
    let own = matches.subcommand().and_then(|(given, of_it)| {
        let index = actions.iter().position(|action| action.get_name() == given)?;
        Some(Command::Act(index, of_it.clone()))
    });
    (config, own.or(arguments.command).unwrap_or(Command::Run))
}

fn command(name: &'static str, about: &'static str, actions: &[clap::Command]) -> clap::Command {
    Arguments::command().name(name).about(about).subcommands(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command("enrich", "about", &[clap::Command::new("view").about("own")]).debug_assert();
    }
}
