//! Runs real Redis servers as processes: one node, a [`Cluster`], or a [`Sentinel`].

mod cluster;
mod sentinel;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::process::free_port;
pub use cluster::Cluster;
pub use sentinel::Sentinel;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis server on a free port of loopback, without data on disk. Dropping it kills the server.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    options: Vec<String>,
    folder: TempDir,
    process: Child,
}

/// Finds the program in the `PATH`.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file())
}

/// Returns the options of a server that also listens with TLS, on this port. It uses the
/// certificates of [`make`](crate::certificates::make), and asks clients for theirs.
#[must_use]
pub fn tls_options(certificates: &Path, port: u16) -> Vec<String> {
    let file = |name: &str| certificates.join(name).display().to_string();
    let options = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", file("server.pem")),
        ("--tls-key-file", file("server.key")),
        ("--tls-ca-cert-file", file("ca.pem")),
        ("--tls-auth-clients", "yes".into()),
    ];
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

impl Redis {
    /// Starts a server, and returns when it answers.
    ///
    /// # Errors
    /// Fails when redis-server is not installed, or does not answer.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server with further options, such as `--requirepass` and its value.
    ///
    /// # Errors
    /// Fails when redis-server is not installed, or does not answer.
    pub async fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let folder = tempfile::tempdir().context("make a folder for redis-server")?;
        let process = spawn(port, &options, &folder)?;
        let mut redis = Self { port, options, folder, process };
        redis.answers().await?;
        Ok(redis)
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server, which loses its data.
    ///
    /// # Errors
    /// Fails when it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("kill redis-server")
    }

    /// Starts the server again, on the same port.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn(self.port, &self.options, &self.folder)?;
        self.answers().await
    }

    /// Sends a command to the server, and returns the first 16 KiB of the raw answer. No word of
    /// the command may contain a space.
    ///
    /// # Errors
    /// Fails when the server does not answer, or answers with an error.
    pub async fn command(&self, line: &str) -> anyhow::Result<String> {
        command(self.port, line).await
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let answers = async {
            // A server with a password answers that it requires one.
            let is_up = |answer: anyhow::Result<String>| match answer {
                Ok(_) => true,
                Err(error) => error.to_string().contains("NOAUTH"),
            };
            while !is_up(self.command("PING").await) {
                if let Some(status) = self.process.try_wait()? {
                    bail!("redis-server ended at its start: {status}");
                }
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, answers).await.context("wait for redis-server to answer")?
    }
}

/// Sends a command to a server on this machine, and returns the first 16 KiB of the raw answer.
async fn command(port: u16, line: &str) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    connection.write_all(format!("{line}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 16 * 1024];
    let length = timeout(PATIENCE, connection.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    if length == 0 || answer.starts_with('-') {
        bail!("{line}: {answer}");
    }
    Ok(answer)
}

/// Sends a command repeatedly until the answer contains these words.
async fn until_said(port: u16, line: &str, words: &str) -> anyhow::Result<()> {
    let asked = async {
        while !command(port, line).await.is_ok_and(|answer| answer.contains(words)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asked).await.with_context(|| format!("wait for `{line}` to say {words}"))
}

fn spawn(port: u16, options: &[String], folder: &TempDir) -> anyhow::Result<Child> {
    let mut command = server(folder)?;
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--daemonize", "no"]).args(options);
    command.spawn().context("start redis-server")
}

/// Builds a command for a server that works in this folder.
fn server(folder: &TempDir) -> anyhow::Result<Command> {
    let program =
        program().context("redis-server is not installed: apt-get install redis-server")?;
    let mut command = Command::new(program);
    command.current_dir(folder.path()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // A separate process group: Ctrl-C must reach only this program, because its drain needs the
    // server.
    command.process_group(0);
    Ok(command)
}
