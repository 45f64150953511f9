//! The life of a process, from its arguments to its exit code.

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::args::Command;
use crate::settings::{self, Settings};
use crate::{Hosted, Service, args, logs};

/// Exit code of a service that failed, or could not drain in time.
const FAILED: u8 = 1;
/// Exit code for settings that are wrong.
const WRONG_SETTINGS: u8 = 2;

/// An [`Action`] under way.
pub type Acting = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// Something that a binary can do instead of running its service, as a subcommand.
#[derive(Debug, Clone, Copy)]
pub struct Action<T> {
    /// The subcommand.
    pub name: &'static str,
    /// What it does, for `--help`.
    pub about: &'static str,
    /// Does it. A failure is exit code 1.
    pub act: fn(T) -> Acting,
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
    let names: Vec<_> = actions.iter().map(|action| (action.name, action.about)).collect();
    let args = args::parse(S::NAME, about, &names);
    let settings = match settings::load::<T>(args.config.as_deref(), std::env::vars()) {
        Ok(settings) => settings,
        Err(faults) => {
            eprint!("{faults}");
            return WRONG_SETTINGS.into();
        }
    };
    if args.command == Command::Check {
        println!("{}: settings are right", S::NAME);
        settings.explain().iter().for_each(|line| println!("{line}"));
        return ExitCode::SUCCESS;
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| match args.command {
            Command::Act(index) => runtime.block_on((actions[index].act)(settings)),
            Command::Run | Command::Check => runtime.block_on(live(make, settings)),
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = format!("{failure:#}"), "{} failed", S::NAME);
            FAILED.into()
        }
    }
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
