//! A real Redis in a process of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::mosquitto::free_port;

/// Longest wait for it to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis on a free port of loopback that keeps nothing on disk. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    process: Child,
}

/// The program, where it is on the path.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file())
}

impl Redis {
    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    /// When redis-server is not installed, or does not answer.
    pub async fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut redis = Self { port, process: spawn(port)? };
        redis.answers().await?;
        Ok(redis)
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it: all that it knew is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("kill redis-server")
    }

    /// Starts it again, on the same port.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn(self.port)?;
        self.answers().await
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let answers = async {
            while self.ping().await.is_err() {
                if let Some(status) = self.process.try_wait()? {
                    bail!("redis-server ended at its start: {status}");
                }
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, answers).await.context("wait for redis-server to answer")?
    }

    async fn ping(&self) -> std::io::Result<()> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        connection.write_all(b"PING\r\n").await?;
        let mut answer = [0; 7];
        connection.read_exact(&mut answer).await.map(drop)
    }
}

fn spawn(port: u16) -> anyhow::Result<Child> {
    let program =
        program().context("redis-server is not installed: apt-get install redis-server")?;
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--daemonize", "no"]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // Not in our process group: a Ctrl-C is for us, and it is needed until the drain is over.
    command.process_group(0);
    command.spawn().context("start redis-server")
}
