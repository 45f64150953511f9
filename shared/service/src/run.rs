//! The life of a process, from its arguments to its exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, Parser};
use serde_json::json;
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

use crate::args::{Command, CostOptions, Invocation, JsonOption, Own};
use crate::cost::{Estimate, Prices};
use crate::memory::Account;
use crate::settings::{
    self, Demand, Environment, Faults, Files, SectionFile, Settings, WrongSettings,
};
use crate::signals::{FAILED, LOG_PATIENCE, Signals};
use crate::tools::preflight::{self, Form, Plan};
use crate::tools::{probe, schema};
use crate::{Hosted, Service, args, cloud, logs, output, proxies};

/// Exit code for settings that are wrong.
const WRONG_SETTINGS: u8 = 2;
/// Advice for wrong settings when there is no file.
const NO_FILE: &str = "no settings file was given: name one with --config FILE or DATAFLOW_CONFIG";

/// An [`Action`] under way.
pub type Acting = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// Something that a binary can do instead of running its service, as a subcommand.
#[derive(Debug, Clone, Copy)]
pub struct Action<T> {
    /// The subcommand, with its arguments and its help.
    pub command: fn() -> clap::Command,
    /// Does it. A failure is exit code 1.
    pub act: fn(T, ArgMatches) -> Acting,
}

/// Subcommand with its parsed arguments. `T` are the settings of the service.
pub trait Tool<T>: Parser {
    /// Runs the tool.
    ///
    /// # Errors
    /// A failure is exit code 1.
    fn run(self, settings: T) -> impl Future<Output = anyhow::Result<()>>;
}

impl<T: 'static> Action<T> {
    /// Returns the action that parses the arguments of a tool and runs it.
    #[must_use]
    pub const fn of<A: Tool<T> + 'static>() -> Self {
        Self {
            command: A::command,
            act: |settings, given| {
                Box::pin(async move { A::from_arg_matches(&given)?.run(settings).await })
            },
        }
    }
}

/// Runs a service as this process: reads arguments, settings and variables, makes the service of
/// them, and drains it on SIGTERM or SIGINT. The actions are what the binary can do instead.
pub fn run<S: Service>(
    about: &'static str,
    actions: &[Action<S::Settings>],
    make: impl FnOnce(S::Settings) -> S,
) -> ExitCode {
    run_as(std::env::args_os(), about, actions, make).into()
}

/// Runs a service as this process, with these arguments, and returns the exit code.
fn run_as<S: Service>(
    arguments: impl IntoIterator<Item = OsString>,
    about: &'static str,
    actions: &[Action<S::Settings>],
    make: impl FnOnce(S::Settings) -> S,
) -> u8 {
    install_crypto();
    logs::install(S::NAME);
    let code = run_from(arguments, about, actions, make);
    let written = output::finish();
    logs::flush(LOG_PATIENCE);
    match written {
        Ok(()) => code,
        Err(error) => {
            output::note(format_args!("{}: {error:#}", S::NAME));
            code.max(FAILED)
        }
    }
}

/// Does what `arguments` ask for, and returns the exit code.
fn run_from<S: Service>(
    arguments: impl IntoIterator<Item = OsString>,
    about: &'static str,
    actions: &[Action<S::Settings>],
    make: impl FnOnce(S::Settings) -> S,
) -> u8 {
    let commands: Vec<_> = actions.iter().map(|action| (action.command)()).collect();
    let sections = S::Settings::SECTION_FILES;
    let own = Own { name: S::NAME, about, actions: &commands, sections };
    let Invocation { mut files, demand, command } = args::parse(arguments, &own);
    let environment = Environment::of_process();
    if let Ok(environment) = &environment {
        add_files(&mut files, sections, environment);
    }
    let settings = match (&command, &environment) {
        // The schema is the same for all settings.
        (Command::Schema, _) => Ok(S::Settings::default()),
        (_, Ok(environment)) => settings::load_files::<S::Settings>(&files, environment, demand),
        (_, Err(wrong)) => Err(Faults::of_line(wrong.clone())),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(faults) => {
            report_faults::<S>(&faults, command.form());
            if files.settings.is_none() && environment.is_ok() && command.form() == Form::Text {
                output::note(NO_FILE);
            }
            return WRONG_SETTINGS;
        }
    };
    logs::name_project(&settings.process().project);
    let is_service = matches!(command, Command::Run);
    if is_service {
        let warnings = environment.iter().flat_map(Environment::warnings);
        warnings.for_each(|warning| warn!("{warning}"));
    }
    match act(command, actions, make, settings) {
        Ok(()) => 0,
        Err(failure) if is_service => {
            error!(error = format!("{failure:#}"), "{} failed", S::NAME);
            if failure.is::<WrongSettings>() { WRONG_SETTINGS } else { FAILED }
        }
        Err(failure) => {
            output::note(format_args!("{}: {failure:#}", S::NAME));
            FAILED
        }
    }
}

/// Adds the files that variables name, unless an option names another one.
fn add_files(files: &mut Files, sections: &[SectionFile], environment: &Environment) {
    let named = |variable: &str| environment.text(variable).filter(|text| !text.is_empty());
    if files.settings.is_none() {
        files.settings = named(args::CONFIG).map(PathBuf::from);
    }
    for SectionFile { section, variable, .. } in sections {
        if let (None, Some(file)) = (files.sections.get(section), named(variable)) {
            files.sections.insert(*section, file.into());
        }
    }
}

fn act<S: Service>(
    command: Command,
    actions: &[Action<S::Settings>],
    make: impl FnOnce(S::Settings) -> S,
    settings: S::Settings,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let ended = act_on(&runtime, command, actions, make, settings);
    // Dropping it would wait for what blocks a thread, such as a name server that does not answer.
    runtime.shutdown_background();
    ended
}

fn act_on<S: Service>(
    runtime: &Runtime,
    command: Command,
    actions: &[Action<S::Settings>],
    make: impl FnOnce(S::Settings) -> S,
    settings: S::Settings,
) -> anyhow::Result<()> {
    // A program may build clients where it makes its service.
    let _entered = runtime.enter();
    match command {
        Command::Run => {
            // Before anything else: a signal during the start must find its listener.
            let signals = Signals::listen(settings.process().grace_period)?;
            runtime.block_on(live(signals, make, settings))
        }
        Command::Check { online: false, strict, output } => {
            report_right::<S>(&settings, strict.demand, output.form)
        }
        Command::Check { online: true, strict, output: JsonOption { form } } => {
            if form == Form::Text {
                report_right::<S>(&settings, strict.demand, form)?;
            }
            let dependencies = runtime.block_on(make(settings).preflight())?;
            preflight::report(dependencies, form)
        }
        Command::Plan { cost, offline, output: JsonOption { form } } => {
            let estimate = estimate(&settings, &cost)?;
            let (warnings, costs) = (warnings(&settings), settings.costs());
            let google = settings.process().google.clone();
            let (cloud, dependencies) = if offline {
                (Vec::new(), Vec::new())
            } else {
                let addresses = cloud::addresses(settings.apis(), &google);
                let service = make(settings);
                let both = async { tokio::join!(addresses, service.preflight()) };
                let (cloud, dependencies) = runtime.block_on(both);
                (cloud?, dependencies?)
            };
            Plan { warnings, costs, estimate, cloud, dependencies }.report(form)
        }
        Command::Schema => {
            output::line(format_args!("{:#}", schema::of::<S::Settings>()));
            Ok(())
        }
        Command::Probe => probe::readiness(&settings.process().http),
        Command::Act(index, given) => runtime.block_on((actions[index].act)(settings, given)),
    }
}

/// Estimates what these settings cost in a month, if the options ask for it.
fn estimate(settings: &impl Settings, options: &CostOptions) -> anyhow::Result<Option<Estimate>> {
    let Some(load) = options.load() else { return Ok(None) };
    let prices = options.prices().map_or_else(|| Ok(Prices::built_in()), Prices::read)?;
    let items = settings.estimate(&load, &prices);
    Ok(Some(Estimate::of(load, &prices, items)))
}

/// Returns what works, but may surprise.
fn warnings(settings: &impl Settings) -> Vec<String> {
    settings.warnings().into_iter().chain(proxies::note()).collect()
}

/// Prints what right settings promise, the credentials that they use, and the memory that they allow.
/// `demand` is the guarantee that they were checked for.
fn report_right<S: Service>(
    settings: &S::Settings,
    demand: Demand,
    form: Form,
) -> anyhow::Result<()> {
    let is_strict = demand == Demand::AtLeastOnce;
    let guarantees = settings.explain()?;
    let account = Account::of(settings.memory(), settings.memory_bytes());
    let credentials = cloud::credentials(&settings.apis(), &settings.process().google);
    match form {
        Form::Json => output::line(format_args!(
            "{:#}",
            json!({
                "service": S::NAME,
                "settings": "right",
                "strict": is_strict,
                "guarantees": guarantees,
                "credentials": credentials,
                "memory": account.report(),
                "warnings": warnings(settings),
            })
        )),
        Form::Text => {
            output::line(format_args!("{}: settings are right", S::NAME));
            if is_strict {
                output::line("strict: no setting may lose messages");
            }
            let lines = account.lines().into_iter().chain(warnings(settings));
            let credentials = credentials.iter().map(ToString::to_string);
            guarantees.into_iter().chain(credentials).chain(lines).for_each(output::line);
        }
    }
    Ok(())
}

/// Prints what is wrong with settings.
fn report_faults<S: Service>(faults: &Faults, form: Form) {
    match form {
        Form::Json => output::line(format_args!(
            "{:#}",
            json!({ "service": S::NAME, "settings": "wrong", "faults": faults.lines() })
        )),
        Form::Text => faults.lines().iter().for_each(output::note),
    }
}

/// Both ring and aws-lc-rs are linked, so rustls must be told which one to use.
pub fn install_crypto() {
    // An error means that it was installed already, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

async fn live<S: Service>(
    mut signals: Signals,
    make: impl FnOnce(S::Settings) -> S,
    settings: S::Settings,
) -> anyhow::Result<()> {
    Account::of(settings.memory(), settings.memory_bytes()).warn();
    warnings(&settings).iter().for_each(|warning| warn!("{warning}"));
    let grace = settings.process().grace_period;
    let hosted = Hosted::start(make(settings)).await?;
    let deadline = signals.deadline();
    deadline.excuse_later(hosted.health());
    let ended = until_drained(&mut signals, hosted, grace).await;
    if ended.is_err() {
        // What is still at work was not to blame for this end.
        deadline.excuse();
    }
    ended
}

async fn until_drained(
    signals: &mut Signals,
    mut hosted: Hosted,
    grace: Duration,
) -> anyhow::Result<()> {
    let (failing, deadline) = (hosted.failing(), signals.deadline());
    let never = async {
        failing.await;
        deadline.end_within(grace);
        std::future::pending::<&str>().await
    };
    let signal = tokio::select! {
        failure = hosted.ended() => return Err(failure),
        signal = signals.next() => signal,
        signal = never => signal,
    };
    info!(signal, ?grace, "draining; a second signal ends at once");
    tokio::select! {
        drained = hosted.shutdown(grace) => drained?,
        signal = signals.next() => {
            warn!(signal, "ending at once; what is not settled will be delivered again");
            anyhow::bail!("ended by a second signal");
        }
    }
    info!("drained");
    Ok(())
}

#[cfg(test)]
mod tests;
