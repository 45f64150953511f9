//! Runs a real mosquitto as a process. It is configured so that the broker itself loses nothing.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::process::{free_port, signal};

/// Longest wait for the broker to answer or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker on a free port of loopback. Dropping it kills it.
#[derive(Debug)]
pub struct Mosquitto {
    port: u16,
    config: PathBuf,
    process: Child,
}

/// Finds the program. Debian installs it in a folder that is not in the `PATH` of users.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("mosquitto")).find(|program| program.is_file())
}

impl Mosquitto {
    /// Starts a broker that stores its data in `folder`. For `port` 0 it takes a free port.
    ///
    /// # Errors
    /// Fails when mosquitto is not installed, or does not answer.
    pub async fn start(folder: &Path, port: u16) -> anyhow::Result<Self> {
        Self::start_with(folder, port, "allow_anonymous true").await
    }

    /// Like [`Mosquitto::start`], with extra lines of settings, such as access rules and
    /// certificates.
    ///
    /// # Errors
    /// Fails when mosquitto is not installed, or does not answer.
    pub async fn start_with(folder: &Path, port: u16, settings: &str) -> anyhow::Result<Self> {
        let port = if port == 0 { free_port()? } else { port };
        std::fs::create_dir_all(folder).context("create the broker's folder")?;
        let config = folder.join("mosquitto.conf");
        let mut file = std::fs::File::create(&config).context("write the broker's settings")?;
        // If root starts mosquitto, it changes to a user that cannot write here.
        let user = if is_root() { "user root" } else { "" };
        write!(
            file,
            "listener {port} 127.0.0.1\n{settings}\n{user}\n\
             persistence true\npersistence_location {}/\n\
             max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 1000\n\
             max_packet_size 16777216\nlog_type error\nlog_type warning\n",
            folder.display()
        )
        .context("write the broker's settings")?;
        let process = spawn(&config)?;
        let mut broker = Self { port, config, process };
        broker.answers().await?;
        Ok(broker)
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the broker with SIGTERM, so that it writes its store to disk.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        signal(&self.process, "TERM")?;
        timeout(PATIENCE, self.process.wait()).await.context("wait for mosquitto to end")??;
        Ok(())
    }

    /// Starts the broker again with its stored data.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.config)?;
        self.answers().await
    }

    /// Removes the stored data of a stopped broker, including its sessions.
    ///
    /// # Errors
    /// Fails when no data is stored.
    pub fn forget(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.config.with_file_name("mosquitto.db")).context("remove the store")
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let answers = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
                if let Some(status) = self.process.try_wait()? {
                    bail!("mosquitto ended at its start: {status}");
                }
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, answers).await.context("wait for mosquitto to answer")?
    }
}

fn spawn(config: &Path) -> anyhow::Result<Child> {
    let program = program().context("mosquitto is not installed: apt-get install mosquitto")?;
    let log = std::fs::File::options().create(true).append(true).open(config.with_extension("log"));
    let mut command = Command::new(program);
    command.stderr(log.context("open the broker's log")?);
    command.arg("-c").arg(config).stdin(Stdio::null()).kill_on_drop(true);
    // A separate process group: Ctrl-C must reach only this program, because its drain needs the
    // broker.
    command.process_group(0);
    command.spawn().context("start mosquitto")
}

fn is_root() -> bool {
    // Reads the user id from `/proc`: the safe function for it in the standard library is not
    // stable yet.
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
