//! A Redis sentinel that fails over on demand.

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::process::Child;

use super::{Redis, command, server, until_said};
use crate::process::free_port;

/// A sentinel, a master and its replica, on free ports of loopback. Dropping it kills all three.
#[derive(Debug)]
pub struct Sentinel {
    port: u16,
    /// The two servers; at the start the first one is the master.
    pub servers: [Redis; 2],
    _folder: TempDir,
    _process: Child,
}

impl Sentinel {
    /// Name of the watched master.
    pub const SERVICE: &str = "mymaster";

    /// Starts all three, and returns when the sentinel knows the replica.
    ///
    /// # Errors
    /// Fails when redis-server is not installed, or one of them does not answer.
    pub async fn start() -> anyhow::Result<Self> {
        let master = Redis::start().await?;
        let of_master = format!("127.0.0.1 {}", master.port());
        let replica = Redis::start_with(&["--replicaof", &of_master]).await?;
        until_said(replica.port(), "INFO replication", "master_link_status:up").await?;
        let folder = tempfile::tempdir().context("make a folder for a sentinel")?;
        let port = free_port()?;
        let config = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {} {of_master} 1\n",
            Self::SERVICE
        );
        std::fs::write(folder.path().join("sentinel.conf"), config)
            .context("write sentinel.conf")?;
        let process = server(&folder)?.args(["sentinel.conf", "--sentinel"]).spawn();
        let process = process.context("start a sentinel")?;
        let question = format!("SENTINEL REPLICAS {}", Self::SERVICE);
        until_said(port, &question, "master-link-status\r\n$2\r\nok").await?;
        Ok(Self { port, servers: [master, replica], _folder: folder, _process: process })
    }

    /// Returns the URL of the sentinel.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Makes the replica the master. Returns when the sentinel reports it and the old master is a
    /// replica.
    ///
    /// # Errors
    /// Fails when the sentinel refuses.
    pub async fn fail_over(&self) -> anyhow::Result<()> {
        command(self.port, &format!("SENTINEL FAILOVER {}", Self::SERVICE)).await?;
        let [old, new] = &self.servers;
        let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {}", Self::SERVICE);
        until_said(self.port, &question, &new.port().to_string()).await?;
        until_said(old.port(), "INFO replication", "role:slave").await
    }
}
