//! Subcommand `view`, which prints the query of the view without duplicates.

use clap::Parser;
use rows::Rows as _;
use service::{Tool, output};

use crate::config::Settings;
use crate::view::{self, Partition};

/// Prints the query of the view without duplicates.
#[derive(Debug, Parser)]
#[command(name = "view")]
pub struct View;

impl Tool<Settings> for View {
    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        let columns = settings.rows().columns();
        let partition = settings.table.partition_by.as_ref();
        let partition = partition.and_then(|by| Partition::of(by, &columns));
        output::line(view::query(&settings.table_name(), &columns, partition.as_ref()));
        Ok(())
    }
}
