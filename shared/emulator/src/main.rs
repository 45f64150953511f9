//! The emulator as a process of its own.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use emulator::{Emulator, Options};
use tokio::signal::unix::{SignalKind, signal};

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
    /// Folder of objects and tables; a temporary one when left out.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { port, host, data_dir } = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let emulator = Emulator::start(Options { host, port, data_dir }).await?;
    println!("listening on {}", emulator.address());
    for api in ["PUBSUB", "FIRESTORE", "BIGQUERY", "STORAGE"] {
        println!("export {api}_EMULATOR_HOST={}", emulator.address());
    }
    let data = emulator.data_dir().display();
    println!("objects lie in {data}/storage, tables in {data}/bigquery.sqlite");
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for Ctrl-C")?,
    }
    emulator.shutdown().await;
    Ok(())
}
