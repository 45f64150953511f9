//! Command line of a service.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{BoolValueParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueHint, value_parser,
};

use crate::cost::Load;
use crate::settings::{Demand, Files, SectionFile};
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
    #[command(flatten)]
    strict: StrictOption,
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
        strict: StrictOption,
        #[command(flatten)]
        output: JsonOption,
    },
    #[command(
        about = "Shows what these settings need, and what of it is missing",
        long_about = "Shows the address and the credentials of each API of Google, and each dependency with the \
            least roles on it: topics, subscriptions, tables, views, buckets, collections, Redis, the \
            broker. Says whether each is there. Changes nothing but a test key in the cache; \
            deploy/gcp.sh creates what is missing. Exits with 1 if something is missing, denied or differs.\n\n\
            With --rate and --bytes it also estimates what a month of such messages costs in this \
            service, and shows the calculation line by line.\n\n\
            With --json it prints an object: `warnings` and `costs`, one line each, `estimate` if \
            there is one, `cloud` and `dependencies`."
    )]
    Plan {
        #[command(flatten)]
        cost: CostOptions,
        /// Reach nothing: leave out the cloud and the dependencies.
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        output: JsonOption,
    },
    /// Prints the JSON Schema of the settings, for editors.
    Schema,
    /// Asks the service that runs here whether it is ready, for health checks.
    Probe,
    /// Runs one of the service's own subcommands, given by its index in the list of actions.
    #[command(skip)]
    Act(usize, ArgMatches),
}

/// Option of a start and of `check` to demand the full guarantee.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct StrictOption {
    /// Refuse settings whose guarantee is weaker than at least once, and name each of them.
    #[arg(
        long = "strict",
        action = ArgAction::SetTrue,
        value_parser = BoolValueParser::new()
            .map(|strict| if strict { Demand::AtLeastOnce } else { Demand::AsSet })
    )]
    pub(crate) demand: Demand,
}

/// Options of `plan` that ask for an estimate of the cost.
#[derive(Debug, Clone, Args)]
pub(crate) struct CostOptions {
    /// Messages a second, as a mean over the month. Asks for an estimate of the monthly cost.
    #[arg(long, value_name = "MESSAGES", requires = "bytes", value_parser = above_zero)]
    rate: Option<f64>,
    /// Bytes of the payload of a message, as a device sends it.
    #[arg(long, value_name = "BYTES", requires = "rate", value_parser = above_zero)]
    bytes: Option<f64>,
    /// Devices that send these messages. Each has a document in Firestore.
    #[arg(long, value_name = "DEVICES", requires = "rate", value_parser = above_zero)]
    devices: Option<f64>,
    /// Share of messages, 0 to 1, whose document a cache has. By default, freshness and devices tell.
    #[arg(long, value_name = "SHARE", requires = "rate", value_parser = share)]
    hit_rate: Option<f64>,
    /// Batch keys that are open at once, such as locations. Each has an object of its own.
    #[arg(long, value_name = "KEYS", requires = "rate", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Plain bytes for each byte of a compressed object.
    #[arg(long, value_name = "RATIO", requires = "rate", value_parser = above_zero)]
    compression: Option<f64>,
    /// Prices in the form of prices.yaml, in place of those that are built in.
    #[arg(long, value_name = "FILE", requires = "rate", value_hint = ValueHint::FilePath)]
    prices: Option<PathBuf>,
}

impl CostOptions {
    /// Returns options that ask for no estimate.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let (rate, bytes, devices, hit_rate) = (None, None, None, None);
        Self { rate, bytes, devices, hit_rate, keys: 1, compression: None, prices: None }
    }

    /// Returns the messages to estimate for, if an estimate is asked for.
    pub(crate) fn load(&self) -> Option<Load> {
        let Self { rate, bytes, devices, hit_rate, keys, compression, prices: _ } = self;
        let load = Load::new((*rate)?, (*bytes)?);
        let (devices, hit_rate, compression) = (*devices, *hit_rate, *compression);
        Some(Load { devices, hit_rate, keys: f64::from(*keys), compression, ..load })
    }

    /// Returns the file of the prices, if there is one.
    pub(crate) fn prices(&self) -> Option<&Path> {
        self.prices.as_deref()
    }
}

fn above_zero(text: &str) -> Result<f64, &'static str> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or("must be a number above 0")
}

fn share(text: &str) -> Result<f64, &'static str> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or("must be a number from 0 to 1, such as 0.99")
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
            Self::Check { output, .. } | Self::Plan { output, .. } => output.form,
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

/// Parsed command line.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Files of the settings.
    pub(crate) files: Files,
    /// Guarantee that the settings must give.
    pub(crate) demand: Demand,
    /// Task of the process.
    pub(crate) command: Command,
}

/// Parses the command line.
///
/// Prints a text and exits for `--help`, `--version` and mistakes.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>, own: &Own<'_>) -> Invocation {
    let mut known = command(own);
    let matches = known.try_get_matches_from_mut(arguments);
    let matches = matches.unwrap_or_else(|error| error.exit());
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
    let mut command = own.or(arguments.command).unwrap_or(Command::Run);
    let Some(demand) = demand(arguments.strict, &command) else {
        let why = "--strict is for a start of the service, and for `check`";
        known.error(ErrorKind::ArgumentConflict, why).exit();
    };
    if let Command::Check { strict, .. } = &mut command {
        strict.demand = demand;
    }
    Invocation { files, demand, command }
}

/// Returns the guarantee that the settings must give. Returns nothing if the command would ignore
/// what the user demands.
fn demand(given: StrictOption, command: &Command) -> Option<Demand> {
    match (command, given.demand) {
        (Command::Check { strict, .. }, Demand::AsSet) => Some(strict.demand),
        (Command::Run | Command::Check { .. }, demand) => Some(demand),
        (Command::Plan { .. } | Command::Schema | Command::Probe | Command::Act(..), demand) => {
            (demand == Demand::AsSet).then_some(demand)
        }
    }
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

    fn enrich(actions: &[clap::Command]) -> Own<'_> {
        const SECTIONS: &[SectionFile] =
            &[SectionFile { section: "routes", variable: "ROUTES", help: "Routes." }];
        Own { name: "enrich", about: "about", actions, sections: SECTIONS }
    }

    #[test]
    fn the_command_line_holds_together() {
        command(&enrich(&[clap::Command::new("view").about("own")])).debug_assert();
    }

    /// Returns the demand of a command line, or nothing if its command would ignore it.
    fn demanded(arguments: &[&str]) -> Option<Demand> {
        let matches = command(&enrich(&[])).get_matches_from([&["enrich"], arguments].concat());
        let arguments = Arguments::from_arg_matches(&matches).unwrap();
        demand(arguments.strict, &arguments.command.unwrap_or(Command::Run))
    }

    /// Returns the messages that a plan estimates for.
    fn planned(arguments: &[&str]) -> Result<Option<Load>, clap::Error> {
        let arguments = [&["enrich", "plan"], arguments].concat();
        let matches = command(&enrich(&[])).try_get_matches_from(arguments)?;
        let Some(Command::Plan { cost, .. }) = Arguments::from_arg_matches(&matches)?.command
        else {
            panic!("another command")
        };
        Ok(cost.load())
    }

    #[test]
    fn a_plan_estimates_for_the_messages_that_it_is_given() {
        assert_eq!(planned(&["--json"]).unwrap(), None);
        let given = ["--rate", "1000", "--bytes", "300", "--devices", "5e3", "--hit-rate", "0.99"];
        let more = ["--keys", "20", "--compression", "4", "--prices", "p.yaml", "--offline"];

        let load = planned(&[&given[..], &more].concat()).unwrap().unwrap();

        let (devices, hit_rate, compression) = (Some(5_000.0), Some(0.99), Some(4.0));
        let expected =
            Load { devices, hit_rate, keys: 20.0, compression, ..Load::new(1_000.0, 300.0) };
        assert_eq!(load, expected);
        for wrong in [
            &["--rate", "0", "--bytes", "1"][..],
            &["--rate", "inf", "--bytes", "1"],
            &["--rate", "1"],
            &["--bytes", "1"],
            &["--devices", "9"],
            &["--rate", "1", "--bytes", "1", "--hit-rate", "1.1"],
            &["--rate", "1", "--bytes", "1", "--keys", "0"],
        ] {
            assert!(planned(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_start_and_a_check_can_demand_the_full_guarantee() {
        for strict in [&["--strict"][..], &["--strict", "check"], &["check", "--strict", "--json"]]
        {
            assert_eq!(demanded(strict), Some(Demand::AtLeastOnce), "{strict:?}");
        }
        for any in [&[][..], &["check"], &["plan"], &["schema"]] {
            assert_eq!(demanded(any), Some(Demand::AsSet), "{any:?}");
        }
        for ignored in ["plan", "schema", "probe"] {
            assert_eq!(demanded(&["--strict", ignored]), None, "{ignored}");
        }
    }
}
