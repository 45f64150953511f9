//! Subcommand `sql`, which prints the statements that create the table.

use clap::Parser;
use rows::Rows as _;
use service::{Tool, output};

use crate::config::Settings;
use crate::statements::Statements;

/// Prints the statements that create the table, for those who create it.
#[derive(Debug, Parser)]
#[command(name = "sql")]
pub struct Sql;

impl Tool<Settings> for Sql {
    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        let statements = Statements::new(&settings.table, &settings.rows().columns())?;
        for statement in statements.create() {
            output::line(format_args!("{statement};"));
        }
        Ok(())
    }
}
