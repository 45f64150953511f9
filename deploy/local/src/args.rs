//! Command line of local mode.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use service::output;
use time::OffsetDateTime;
use tracing_subscriber::EnvFilter;

/// Runs the whole platform in one process, with simulated devices, and accounts for every message.
#[derive(Debug, Clone, Parser)]
#[command(name = "dataflow", version)]
pub(crate) struct Args {
    /// Messages that the devices send before they stop; without it they send until Ctrl-C.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Number of simulated devices.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub devices: u32,
    /// Messages per second of all devices; 0 sends as fast as the broker accepts them. The default
    /// is 0 with --messages, else 200.
    #[arg(long)]
    pub rate: Option<u32>,
    /// Bytes of a message.
    #[arg(long, default_value_t = 200, value_parser = payload_bytes)]
    pub payload_bytes: usize,
    /// End when all messages are accounted for; needs --messages.
    #[arg(long, requires = "messages")]
    pub once: bool,
    /// Also write the account to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Folder for all stored data; by default a new one below ./data, and data/latest links to it.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the broker.
    #[arg(long, default_value_t = 1883, value_parser = clap::value_parser!(u16).range(1..))]
    pub mqtt_port: u16,
    /// Port of ingestion's health server; the other services take the ports after it.
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,
    /// Port of the live page; by default ten above --http-port.
    #[arg(long)]
    pub live_port: Option<u16>,
    /// Port of the embedded cloud.
    #[arg(long, default_value_t = 8085)]
    pub cloud_port: u16,
    /// Make the embedded cloud as slow and as strict as Google's.
    #[arg(long)]
    pub like_google: bool,
    /// Broker to run.
    #[arg(long, value_enum, default_value_t = BrokerChoice::Auto)]
    pub broker: BrokerChoice,
}

/// Broker to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BrokerChoice {
    /// mosquitto if it is installed, else the built-in broker.
    Auto,
    /// mosquitto, in its own process.
    Mosquitto,
    /// rumqttd, in this process.
    BuiltIn,
}

/// Makes `data/latest` a link to a folder below `data`. Returns the link, or the folder if the link
/// cannot be made.
pub(crate) fn link_latest(folder: PathBuf) -> PathBuf {
    let link = folder.with_file_name("latest");
    let removed = match std::fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let name = folder.file_name().unwrap_or_default();
    match removed.and_then(|()| std::os::unix::fs::symlink(name, &link)) {
        Ok(()) => link,
        Err(error) => {
            let shown = folder.display();
            output::note(format_args!("data/latest does not lead to {shown}: {error}"));
            folder
        }
    }
}

/// Removes a folder and the folders in it, if they are empty. The files of a failed start stay,
/// because they help to find its cause.
pub(crate) fn remove_empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // This fails if the folder still has content.
    std::fs::remove_dir(folder).unwrap_or_default();
}

impl Args {
    /// Returns the rate, or its default.
    pub(crate) fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.messages.is_some() { 0 } else { 200 })
    }

    /// Returns the port of the live page. With 0, it takes a free one.
    pub(crate) fn live_port(&self) -> u16 {
        let beside = if self.http_port == 0 { 0 } else { self.http_port.saturating_add(10) };
        self.live_port.unwrap_or(beside)
    }

    /// Returns the folder for all stored data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let form = time::macros::format_description!(
            "[year][month][day]-[hour][minute][second]-[subsecond digits:3]"
        );
        let fresh = || PathBuf::from("data").join(now.format(form).unwrap_or_default());
        self.data_dir.clone().unwrap_or_else(fresh)
    }

    /// Shows only errors in the log, so that other lines do not break up the table. `RUST_LOG` can
    /// ask for more.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_folders_go_and_what_was_written_stays() {
        let root = tempfile::tempdir().unwrap();
        let [empty, written] = ["empty", "written"].map(|name| root.path().join(name));
        for folder in [&empty, &written] {
            std::fs::create_dir_all(folder.join("broker")).unwrap();
            std::fs::create_dir_all(folder.join("storage/archive")).unwrap();
        }
        std::fs::write(written.join("broker/log"), "words").unwrap();

        remove_empty(&empty);
        remove_empty(&written);

        assert!(!empty.exists());
        assert!(written.join("broker/log").exists());
        assert!(!written.join("storage").exists());
    }

    #[test]
    fn the_link_leads_to_the_last_folder() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["first", "second"].map(|name| root.path().join(name));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
            assert_eq!(link_latest(folder.clone()), root.path().join("latest"));
        }

        assert_eq!(
            root.path().join("latest").canonicalize().unwrap(),
            folders[1].canonicalize().unwrap()
        );
    }

    #[test]
    fn where_no_link_can_be_the_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("first");
        std::fs::create_dir_all(root.path().join("latest/in-the-way")).unwrap();

        assert_eq!(link_latest(folder.clone()), folder);
    }
}
