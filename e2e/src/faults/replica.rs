//! One process of a service, which is started again whenever it ends.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::process::free_port;
use crate::process::{Process, binary};

/// Grace period of a service.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// Longest wait for an answer of a replica about itself.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a replica to become ready. Under faults that can take long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time until a replica is retired. Each attempt first checks for a living process, and
/// other faults interrupt many attempts.
const RETIRE_PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct Replica {
    pub(super) service: &'static str,
    ordinal: u32,
    config: PathBuf,
    log: PathBuf,
    /// One client for all requests: creating one takes too long to catch short events.
    client: reqwest::Client,
    /// Locked while a fault acts on the process.
    process: tokio::sync::Mutex<Option<Process>>,
    running: Mutex<Option<Running>>,
}

/// URL and id of the process that runs now.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) url: String,
    pub(super) pid: u32,
}

impl Replica {
    /// Writes the settings of a replica without starting it.
    pub(super) fn new(
        service: &'static str,
        ordinal: u32,
        folder: &Path,
        settings: &Value,
    ) -> anyhow::Result<Self> {
        let file = |end: &str| folder.join(format!("{service}-{ordinal}.{end}"));
        let (config, log) = (file("yaml"), file("log"));
        // JSON is also valid YAML.
        std::fs::write(&config, serde_json::to_vec_pretty(settings)?).context("write settings")?;
        let (process, running) = (tokio::sync::Mutex::default(), Mutex::default());
        let client = reqwest::Client::new();
        Ok(Self { service, ordinal, config, log, client, process, running })
    }

    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.service, self.ordinal)
    }

    pub(super) fn running(&self) -> Option<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn start(&self) -> anyhow::Result<()> {
        *self.process.lock().await = Some(self.spawn()?);
        Ok(())
    }

    /// Waits until the replica is ready.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        let ready = async {
            while !self.answers("readyz").await {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let late = || format!("{} did not become ready: {}", self.name(), self.log.display());
        timeout(PATIENCE, ready).await.with_context(late)
    }

    /// Returns true if the path on its health server answers with success.
    pub(super) async fn answers(&self, path: &str) -> bool {
        self.ask(path, Duration::from_secs(1)).await.is_some()
    }

    /// Returns what the path on its health server answers, if it succeeds within the time.
    pub(super) async fn ask(&self, path: &str, patience: Duration) -> Option<String> {
        let running = self.running()?;
        let ask = async {
            let answer = self.client.get(format!("{}/{path}", running.url)).send().await?;
            answer.error_for_status()?.text().await
        };
        // No answer, a late one and an error are the same here.
        timeout(patience, ask).await.ok()?.ok()
    }

    /// Sends SIGKILL and starts another process at once.
    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock().await;
        if let Some(running) = process.as_mut() {
            running.kill().await?;
        }
        *process = Some(self.spawn()?);
        Ok(())
    }

    /// Sends SIGSTOP, and SIGCONT after a while.
    pub(super) async fn freeze(&self, lasts: Duration) -> anyhow::Result<()> {
        let process = self.process.lock().await;
        let Some(running) = process.as_ref() else { return Ok(()) };
        running.freeze()?;
        sleep(lasts).await;
        running.thaw()
    }

    /// Sends SIGTERM and starts another process at once. The old one gets SIGKILL after `grace`.
    pub(super) async fn replace(&self, grace: Duration) -> anyhow::Result<()> {
        let mut process = self.process.lock().await;
        let old = process.replace(self.spawn()?);
        let Some(mut old) = old else { return Ok(()) };
        old.ask_to_end()?;
        match old.wait(grace).await {
            Ok(_) => Ok(()),
            Err(_) => old.kill().await,
        }
    }

    /// Ends the process with SIGTERM and its full grace period, and removes it permanently. For
    /// ingestion it also publishes what the broker still holds for the replica.
    pub(super) async fn retire(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock().await;
        let Some(mut old) = process.take() else { return Ok(()) };
        old.ask_to_end()?;
        // Under faults the drain may take too long. The rest is delivered again to other replicas.
        old.wait(GRACE * 2).await?;
        if self.service != "ingestion" {
            return Ok(());
        }
        let mut said = String::new();
        let retired = async {
            // Other faults end its connections too. Then the command reports that the replica may
            // be alive.
            while !self.try_to_retire(&mut said).await? {
                sleep(Duration::from_millis(200)).await;
            }
            anyhow::Ok(())
        };
        let ended = timeout(RETIRE_PATIENCE, retired).await;
        ended.with_context(|| format!("ingestion retire: {said}"))?
    }

    /// Returns true if the broker holds nothing for the replica any more. Otherwise `said` has the
    /// output.
    async fn try_to_retire(&self, said: &mut String) -> anyhow::Result<bool> {
        let mut command = Command::new(binary(self.service)?);
        command.arg("retire").arg("--config").arg(&self.config).kill_on_drop(true);
        command.env("PORT", "0");
        let output = command.output().await.context("run ingestion retire")?;
        *said = String::from_utf8_lossy(&output.stderr).into_owned();
        // If another fault kept the replica from the broker, it has no session there.
        Ok(output.status.success() || said.contains("has no session"))
    }

    /// Starts the process again if it has ended by itself, and returns how it ended.
    pub(super) fn restart_if_ended(&self) -> anyhow::Result<Option<String>> {
        // A caller that holds the lock is ending or starting the process.
        let Ok(mut process) = self.process.try_lock() else { return Ok(None) };
        let Some(running) = process.as_mut() else { return Ok(None) };
        let Some(status) = running.ended()? else { return Ok(None) };
        *process = Some(self.spawn()?);
        Ok(Some(format!("{} ended by itself: {status}", self.name())))
    }

    fn spawn(&self) -> anyhow::Result<Process> {
        let process = Process::start(self.service, &self.config, free_port()?, &self.log)?;
        let pid = process.pid().context("the process has ended already")?;
        let running = Running { url: process.url(), pid };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(process)
    }
}
