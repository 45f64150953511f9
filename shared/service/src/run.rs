//! The life of a process, from its arguments to its exit code.

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ArgMatches;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::args::{Asked, Command};
use crate::settings::{self, Settings};
use crate::survey::{self, Form, Roles};
use crate::{Hosted, Service, args, logs, probe, schema};

/// Exit code of a service that failed, or could not drain in time.
const FAILED: u8 = 1;
/// Exit code for settings that are wrong.
const WRONG_SETTINGS: u8 = 2;

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

/// Runs a service as this process: reads arguments, settings and variables, makes the service of
/// them, and drains it on SIGTERM or SIGINT.
pub fn run<T: Settings, S: Service>(about: &'static str, make: impl FnOnce(T) -> S) -> ExitCode {
    run_with(about, &[], make)
}

/// Like [`run`], for a binary that can do other things too.
pub fn run_with<T: Settings, S: Service>(
    about: &'static str,
    actions: &[Action<T>],
    make: impl FnOnce(T) -> S,
) -> ExitCode {
    install_crypto();
    logs::install();
    let commands: Vec<_> = actions.iter().map(|action| (action.command)()).collect();
    let (config, command) = match args::parse(S::NAME, about, &commands) {
        Asked::Of(config, command) => (config, command),
        Asked::Schema => {
            println!("{:#}", schema::of::<T>());
            return ExitCode::SUCCESS;
        }
    };
    let settings = match settings::load::<T>(config.as_deref(), std::env::vars()) {
        Ok(settings) => settings,
        Err(faults) => {
            eprint!("{faults}");
            return WRONG_SETTINGS.into();
        }
    };
    logs::name_project(settings.project());
    let is_service = matches!(command, Command::Run);
    match act(command, actions, make, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if is_service => {
            error!(error = format!("{failure:#}"), "{} failed", S::NAME);
            FAILED.into()
        }
        Err(failure) => {
            eprintln!("{}: {failure:#}", S::NAME);
            FAILED.into()
        }
    }
}

fn act<T: Settings, S: Service>(
    command: Command,
    actions: &[Action<T>],
    make: impl FnOnce(T) -> S,
    settings: T,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    match command {
        Command::Run => runtime.block_on(live(make, settings)),
        Command::Check => {
            say_right::<T, S>(&settings);
            Ok(())
        }
        Command::CheckOnline(form) => {
            if form == Form::Text {
                say_right::<T, S>(&settings);
            }
            let needs = runtime.block_on(make(settings).survey())?;
            survey::report(&needs, form, Roles::Hidden)
        }
        Command::Plan(form) => {
            let mut needs = runtime.block_on(make(settings).survey())?;
            // A plan is of what IAM has a role for.
            needs.retain(|need| need.role.is_some());
            survey::report(&needs, form, Roles::Shown)
        }
        Command::Probe => probe::readiness(settings.http()),
        Command::Act(index, given) => runtime.block_on((actions[index].act)(settings, given)),
    }
}

fn say_right<T: Settings, S: Service>(settings: &T) {
    println!("{}: settings are right", S::NAME);
    settings.explain().iter().for_each(|line| println!("{line}"));
}

/// Both ring and aws-lc-rs are linked, so rustls must be told which one to use.
pub fn install_crypto() {
    // An error means that it was installed already, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

async fn live<T: Settings, S: Service>(
    make: impl FnOnce(T) -> S,
    settings: T,
) -> anyhow::Result<()> {
    // Before anything else: a signal during the start must find its listener.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let grace = settings.grace_period();
    let mut hosted = Hosted::start(make(settings.clone()), &settings).await?;
    let signal = tokio::select! {
        failure = hosted.ended() => return Err(failure),
        signal = signalled() => signal,
    };
    info!(signal, ?grace, "draining; a second signal ends at once");
    tokio::select! {
        drained = hosted.shutdown(grace) => drained?,
        signal = signalled() => {
            warn!(signal, "ending at once; what is not settled will be delivered again");
            anyhow::bail!("ended by a second signal");
        }
    }
    info!("drained");
    Ok(())
}
