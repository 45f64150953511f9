//! Prints the timings of the end-to-end tests that ran last, and writes all of them to one file.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use e2e::timings::{self, Table};

/// Prints the durations of all phases of the end-to-end tests, from the files that they left.
#[derive(Debug, Parser)]
#[command(name = "timings")]
struct Args {
    /// Folder of the timings; `target/timings` by default.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// File for all timings as JSON; `summary.json` in that folder by default.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = args.folder.unwrap_or_else(timings::folder);
    let records = timings::read(&folder)?;
    if records.is_empty() {
        anyhow::bail!("{} has no timings: run cargo test --test e2e", folder.display());
    }
    let file = args.json.unwrap_or_else(|| folder.join("summary.json"));
    let json = serde_json::to_vec_pretty(&records).context("write the timings as JSON")?;
    std::fs::write(&file, json).with_context(|| format!("write {}", file.display()))?;
    // A reader that is gone, as with `| head`, is not an error.
    writeln!(std::io::stdout(), "{}", Table(&records)).unwrap_or_default();
    Ok(())
}
