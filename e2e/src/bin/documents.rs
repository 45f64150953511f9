//! Removes the Firestore documents that a trial on Google's cloud has left behind.

use std::io::Write as _;

use clap::Parser;
use e2e::cloud::Cloud;

/// Removes the documents of one trial on Google's own cloud.
///
/// `deploy/try-on-gcp.sh` calls it. It needs Application Default Credentials. It touches only
/// collections with the identifier of the trial in their names.
#[derive(Debug, Parser)]
#[command(name = "documents")]
struct Args {
    /// Print the names of the collections, and remove nothing.
    #[arg(long)]
    list: bool,
    /// Project with the documents.
    project: String,
    /// Identifier of the trial, the variable `DATAFLOW_E2E_RUN` of its tests.
    trial: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    service::install_crypto();
    let cloud = Cloud::google(&args.project)?;
    for collection in cloud.collections_of(&args.trial).await? {
        if args.list {
            // A reader that is gone is not an error.
            writeln!(std::io::stdout(), "{collection}").unwrap_or_default();
        } else {
            cloud.delete_documents(&collection).await?;
        }
    }
    Ok(())
}
