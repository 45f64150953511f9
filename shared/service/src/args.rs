//! Command line of a service.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{BoolValueParser, TypedValueParser as _};
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueHint, value_parser,
};

use crate::settings::{Files, SectionFile};
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
    /// With --json it prints an object: `settings` is `right`, with `guarantees`, `memory` and
    /// `warnings`, or `wrong`, with `faults`. With --online, right settings are a list of the
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

/// Parts of the command line that belong to one service.
pub(crate) struct Own<'a> {
    pub name: &'static str,
    pub about: &'static str,
    /// Subcommands of the service.
    pub actions: &'a [clap::Command],
    /// Sections that options give a file of their own.
    pub sections: &'static [SectionFile],
}

/// Parses the command line: the files that options name, and the task.
///
/// Prints a text and exits for `--help`, `--version` and mistakes.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    own: &Own<'_>,
) -> (Files, Command) {
    let matches = command(own).get_matches_from(arguments);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let file = |known: &SectionFile| {
        Some((known.section, matches.get_one::<PathBuf>(known.section)?.clone()))
    };
    let sections = own.sections.iter().filter_map(file).collect();
    let files = Files { settings: arguments.config, sections };
    let actions = own.actions;
    let own = matches.subcommand().and_then(|(given, of_it)| {
        let index = actions.iter().position(|action| action.get_name() == given)?;
        Some(Command::Act(index, of_it.clone()))
    });
    (files, own.or(arguments.command).unwrap_or(Command::Run))
}

fn command(own: &Own<'_>) -> clap::Command {
    let option = |known: &SectionFile| {
        let option = Arg::new(known.section).long(known.section).value_name("FILE");
        let option = option.value_parser(value_parser!(PathBuf)).value_hint(ValueHint::FilePath);
        option.help(known.help).global(true)
    };
    let command = Arguments::command().name(own.name).about(own.about);
    command.args(own.sections.iter().map(option)).subcommands(own.actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        const SECTIONS: &[SectionFile] =
            &[SectionFile { section: "routes", variable: "ROUTES", help: "Routes." }];
        let actions = [clap::Command::new("view").about("own")];
        let own = Own { name: "enrich", about: "about", actions: &actions, sections: SECTIONS };

        command(&own).debug_assert();
    }
}
