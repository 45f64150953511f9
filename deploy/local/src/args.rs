//! What local mode takes on its command line.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use time::OffsetDateTime;
use tracing_subscriber::EnvFilter;

/// Runs the whole platform in one process, with simulated devices, and accounts for every message.
#[derive(Debug, Clone, Parser)]
#[command(name = "dataflow", version)]
pub(crate) struct Args {
    /// Messages that the devices send, then they stop; without it they send until Ctrl-C.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Simulated devices.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub devices: u32,
    /// Messages a second over all devices; 0 sends as fast as the broker takes them. By default 0
    /// with --messages, else 200.
    #[arg(long)]
    pub rate: Option<u32>,
    /// Size of a message.
    #[arg(long, default_value_t = 200, value_parser = payload_bytes)]
    pub payload_bytes: usize,
    /// End when all messages are accounted for; needs --messages.
    #[arg(long, requires = "messages")]
    pub once: bool,
    /// Write the account as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Folder of everything that is stored; by default a new one below ./data, to which data/latest leads.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the broker.
    #[arg(long, default_value_t = 1883)]
    pub mqtt_port: u16,
    /// Port of ingestion's health server; the other services take those after it.
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,
    /// Port of the embedded cloud.
    #[arg(long, default_value_t = 8085)]
    pub cloud_port: u16,
    /// Which broker to run.
    #[arg(long, value_enum, default_value_t = BrokerChoice::Auto)]
    pub broker: BrokerChoice,
}

/// Which broker to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BrokerChoice {
    /// The mosquitto that is installed, else the built-in one.
    Auto,
    /// mosquitto, in a process of its own.
    Mosquitto,
    /// rumqttd, in this process.
    BuiltIn,
}

/// Lets `data/latest` lead to a folder below `data`.
pub(crate) fn link_latest(folder: &Path) -> std::io::Result<()> {
    let link = folder.with_file_name("latest");
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(folder.file_name().unwrap_or_default(), link)
}

impl Args {
    /// The rate, with its default.
    pub(crate) fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.messages.is_some() { 0 } else { 200 })
    }

    /// The folder of everything that is stored.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let form = time::macros::format_description!(
            "[year][month][day]-[hour][minute][second]-[subsecond digits:3]"
        );
        let fresh = || PathBuf::from("data").join(now.format(form).unwrap_or_default());
        self.data_dir.clone().unwrap_or_else(fresh)
    }

    /// Warnings alone, so that they do not tear the table apart; `RUST_LOG` asks for more.
    pub(crate) fn install_logs(&self) {
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new("error,rumqttd=off"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    const MOST: usize = 5_000_000;
    match text.parse() {
        Ok(bytes) if bytes <= MOST => Ok(bytes),
        _ => Err(format!("must be 0 to {MOST}: larger ones do not fit into Pub/Sub")),
    }
}
