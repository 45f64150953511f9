//! Runs the embedded cloud as a separate process, and plans faults in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::process::binary;
use crate::process::free_port;

/// The embedded cloud as a process on a free port of loopback. Dropping it kills the process.
#[derive(Debug)]
pub struct Embedded {
    port: u16,
    client: reqwest::Client,
    process: Child,
}

impl Embedded {
    /// Starts the process with its data in `folder`, and returns when it answers.
    ///
    /// # Errors
    /// Fails when its binary is missing, or it ends.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(binary("emulator")?);
        command.args(["--port", &port.to_string(), "--data-dir"]).arg(folder);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // A separate process group: Ctrl-C must reach only this program, because its drain needs
        // the cloud.
        command.process_group(0);
        let mut process = command.spawn().context("start the embedded cloud")?;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if let Some(status) = process.try_wait()? {
                bail!("the embedded cloud ended at its start: {status}");
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { port, client: reqwest::Client::new(), process })
    }

    /// Returns the port of the process.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the process id while the process runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Returns the URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills the process, and returns when it has ended.
    ///
    /// # Errors
    /// Fails when it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("kill the embedded cloud")
    }

    /// Plans a fault, such as `{"method": "Publish", "count": 3, "kind": "lose_reply"}`.
    ///
    /// # Errors
    /// Fails when there is no such fault.
    pub async fn plan(&self, fault: &Value) -> anyhow::Result<()> {
        let answer = self.client.post(self.path("faults")).json(fault).send().await;
        answer.and_then(reqwest::Response::error_for_status).context("plan a fault").map(drop)
    }

    /// Removes all planned faults.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn clear_faults(&self) -> anyhow::Result<()> {
        let answer = self.client.delete(self.path("faults")).send().await;
        answer.and_then(reqwest::Response::error_for_status).context("forget faults").map(drop)
    }

    /// Ends all streams of all clients.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn cut_streams(&self) -> anyhow::Result<()> {
        let answer = self.client.post(self.path("cut")).send().await;
        answer.and_then(reqwest::Response::error_for_status).context("cut streams").map(drop)
    }

    /// Returns the number of calls that were carried out, by method.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn calls(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let answer = self.client.get(self.path("calls")).send().await.context("count calls")?;
        answer.json().await.context("count calls")
    }

    /// Returns the number of calls of a method that planned faults refused.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn refused(&self, method: &str) -> anyhow::Result<u64> {
        let answer =
            self.client.get(self.path("refused")).send().await.context("count refusals")?;
        let refused: BTreeMap<String, u64> = answer.json().await.context("count refusals")?;
        Ok(refused.get(method).copied().unwrap_or(0))
    }

    fn path(&self, name: &str) -> String {
        format!("{}/emulator/v1/{name}", self.url())
    }
}
