//! The emulator as a program.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use emulator::{Emulator, Options, Profile, Resources};
use tokio::signal::unix::{SignalKind, signal};

/// Note about a difference from Google that `--like-google` leaves.
const ALL_PROJECTS: &str = "every project and every Firestore database exists; --resources limits \
                            them to those of its project\n";

/// An embedded Google Cloud: Pub/Sub, Firestore, BigQuery and Cloud Storage on one port.
#[derive(Debug, Parser)]
#[command(name = "emulator", version)]
struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8085)]
    port: u16,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Folder of objects and tables; by default a temporary one.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// YAML file of topics, subscriptions, datasets, buckets and documents to create at the start.
    #[arg(long)]
    resources: Option<PathBuf>,
    /// Be as slow and as strict as Google's own cloud.
    ///
    /// This includes latencies, quotas, limited age of streams and connections, and a delay before
    /// new tables and columns are visible. With --resources, only the project of these resources
    /// exists. Without it, every project exists.
    #[arg(long)]
    like_google: bool,
    /// Check that an emulator on this machine answers at --port, for health checks.
    #[arg(long)]
    probe: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("emulator: {error:#}\n");
            // No other place to report remains.
            let _ = std::io::stderr().write_all(line.as_bytes());
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args { port, host, data_dir, resources, like_google, probe } = args;
    if probe {
        return answers(port);
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let resources = resources.as_deref().map(Resources::read).transpose()?;
    let profile = match (like_google, &resources) {
        (false, _) => Profile::default(),
        (true, None) => Profile::like_google(),
        (true, Some(resources)) => Profile::like_google().with_project(&resources.project),
    };
    let started = Emulator::start(Options { host, port, data_dir, resources, profile }).await;
    let emulator = started.map_err(|error| explain(error, port))?;
    // `emulator | head -1` closes the output, and goes on.
    let _ = std::io::stdout().write_all(describe(&emulator).as_bytes());
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for Ctrl-C")?,
    }
    emulator.shutdown().await;
    Ok(())
}

/// Adds what to do about a port that is taken.
fn explain(error: anyhow::Error, port: u16) -> anyhow::Error {
    let is_taken = error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == ErrorKind::AddrInUse)
    });
    if !is_taken {
        return error;
    }
    error.context(format!(
        "port {port} is taken: choose another one with --port, or 0 for a free one"
    ))
}

/// Describes all addresses and folders, with environment variables in a form that a shell can read.
fn describe(emulator: &Emulator) -> String {
    let (address, data) = (emulator.address(), emulator.data_dir().display());
    // Google's clients expect a URL for the REST APIs, and an address for gRPC.
    let exports =
        [("PUBSUB", ""), ("FIRESTORE", ""), ("BIGQUERY", "http://"), ("STORAGE", "http://")]
            .map(|(api, scheme)| format!("export {api}_EMULATOR_HOST={scheme}{address}\n"))
            .concat();
    let profile = emulator.profile();
    let is_strict = profile != Profile::default() && profile.projects.is_none();
    let note = if is_strict { ALL_PROJECTS } else { "" };
    format!(
        "listening on {address}\n{exports}objects lie in {data}/storage, tables in \
         {data}/bigquery.sqlite\n{note}"
    )
}

/// Checks that an emulator answers at a port of this machine.
fn answers(port: u16) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("nobody answers at port {port}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a time-out")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").context("ask the emulator")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    if !answer.contains("dataflow emulator") {
        bail!("what answers at port {port} is no emulator");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cloud_like_googles_says_if_it_knows_every_project() {
        for (profile, expected) in [
            (Profile::default(), false),
            (Profile::like_google(), true),
            (Profile::like_google().with_project("p"), false),
        ] {
            let emulator = Emulator::start(Options { profile, ..Options::default() });

            let printed = describe(&emulator.await.unwrap());

            assert_eq!(printed.contains("every project"), expected, "{printed}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_the_option() {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let port = emulator.address().port();

        let second = Emulator::start(Options { port, ..Options::default() }).await;

        let error = format!("{:#}", explain(second.err().unwrap(), port));
        assert!(
            error.starts_with(&format!("port {port} is taken: choose another one with --port"))
        );
        assert!(error.contains(&format!("listen on 127.0.0.1:{port}")), "{error}");
    }

    #[tokio::test]
    async fn the_printed_variables_have_a_scheme_where_clients_need_one() {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let address = emulator.address();

        let printed = describe(&emulator);

        assert!(printed.contains(&format!("export PUBSUB_EMULATOR_HOST={address}\n")), "{printed}");
        for api in ["STORAGE", "BIGQUERY"] {
            let export = format!("export {api}_EMULATOR_HOST=http://{address}\n");
            assert!(printed.contains(&export), "{printed}");
        }
    }
}
