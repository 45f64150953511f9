//! Subcommand `view`, which prints the query of the view without duplicates.

use clap::Command;
use rows::Rows as _;
use service::output;

use crate::config::Settings;
use crate::view::{self, Partition};

/// Returns the subcommand.
#[must_use]
pub fn command() -> Command {
    Command::new("view").about("Prints the query of the view without duplicates")
}

/// Prints the query of the view.
pub fn print(settings: &Settings) {
    let columns = settings.rows().columns();
    let partition = settings.table.partition_by.as_ref().and_then(|by| Partition::of(by, &columns));
    output::line(view::query(&settings.table_name(), &columns, partition.as_ref()));
}
