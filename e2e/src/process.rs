//! Runs services as processes, from the binaries of this workspace.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;

/// Longest wait for a process to become ready or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service as a process. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    port: u16,
}

/// Finds the binary of this name beside the running one.
///
/// # Errors
/// Fails when it is missing.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the running binary")?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: cargo build --workspace"))
}

impl Process {
    /// Starts a service on a free port, with its settings and its log in a folder.
    ///
    /// # Errors
    /// Fails when the settings cannot be written, or the binary is missing.
    pub fn start_in(folder: &Path, name: &str, settings: &Value) -> anyhow::Result<Self> {
        let config = folder.join(format!("{name}.yaml"));
        // JSON is also valid YAML.
        std::fs::write(&config, serde_json::to_vec_pretty(settings)?).context("write settings")?;
        Self::start(name, &config, free_port()?, &folder.join(format!("{name}.log")))
    }

    /// Starts a service with its settings. Its health server listens on `port`.
    ///
    /// # Errors
    /// Fails when the binary is missing or does not start.
    pub fn start(name: &str, config: &Path, port: u16, log: &Path) -> anyhow::Result<Self> {
        Self::start_with(name, config, port, log, &[])
    }

    /// Like [`Process::start`], with environment variables.
    ///
    /// # Errors
    /// Fails when the binary is missing or does not start.
    pub fn start_with(
        name: &str,
        config: &Path,
        port: u16,
        log: &Path,
        variables: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(log);
        let log = log.context("open the log")?;
        let mut command = Command::new(binary(name)?);
        command.arg("--config").arg(config).env("PORT", port.to_string());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, port })
    }

    /// Returns the URL of its health server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the port of its health server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Reads the current metrics of the service.
    ///
    /// # Errors
    /// Fails when the process does not answer.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let answer = reqwest::get(format!("{}/metrics", self.url())).await;
        Ok(Metrics::parse(&answer.context("read metrics")?.text().await.context("read metrics")?))
    }

    /// Returns the process id while the process runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the service is ready.
    ///
    /// # Errors
    /// Fails when the process ends before, or takes longer than a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let ready = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    bail!("the process ended before it was ready: {status}");
                }
                let answer = reqwest::get(format!("{}/readyz", self.url())).await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.context("wait for the process to be ready")?
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Errors
    /// Fails when it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the process")
    }

    /// Pauses the process with SIGSTOP.
    ///
    /// # Errors
    /// Fails when it has ended already.
    pub fn freeze(&self) -> anyhow::Result<()> {
        signal(&self.child, "STOP")
    }

    /// Continues a paused process with SIGCONT.
    ///
    /// # Errors
    /// Fails when it has ended already.
    pub fn thaw(&self) -> anyhow::Result<()> {
        signal(&self.child, "CONT")
    }

    /// Returns the exit status if the process has ended.
    ///
    /// # Errors
    /// Fails when the system does not tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("look at the process")
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// Fails when it has ended already.
    pub fn ask_to_end(&self) -> anyhow::Result<()> {
        signal(&self.child, "TERM")
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.ask_to_end()?;
        self.wait(PATIENCE).await
    }

    /// Waits for the end of a process that was asked to end.
    ///
    /// # Errors
    /// Fails when it takes longer.
    pub async fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let ended = timeout(patience, self.child.wait()).await;
        ended.context("wait for the process to end")?.context("wait for the process to end")
    }
}

/// Finds a free port of loopback.
///
/// # Errors
/// Fails when there is none.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("read a free port")?.port())
}

/// Sends a signal to a process that this one started.
pub(crate) fn signal(child: &Child, signal: &str) -> anyhow::Result<()> {
    let pid = child.id().context("the process has ended already")?;
    let sent = std::process::Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    let status = sent.context("run kill")?;
    if status.success() { Ok(()) } else { bail!("kill -s {signal} {pid}: {status}") }
}
