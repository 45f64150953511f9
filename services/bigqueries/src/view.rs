//! The view without duplicates, and `bigqueries view`, which prints its query.

use clap::Command;
use service::output;

use crate::column::Column;
use crate::config::Settings;
use crate::rows::Rows as _;
use crate::table::TableName;

/// The subcommand.
#[must_use]
pub fn command() -> Command {
    Command::new("view").about("Prints the query of the view without duplicates")
}

/// Prints it.
pub fn print(settings: &Settings) {
    output::line(query(&settings.table_name(), &settings.rows().columns()));
}

/// The query of the view: each `ingest_id` once, the row of the earliest message. A row without one
/// stands for itself.
#[must_use]
pub fn query(table: &TableName, columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| format!("`{}`", column.name)).collect();
    let names = names.join(", ");
    format!(
        "SELECT {names} FROM (SELECT {names}, ROW_NUMBER() OVER (PARTITION BY COALESCE(ingest_id, \
         message_id) ORDER BY publish_time, message_id) AS copy FROM `{}.{}.{}`) WHERE copy = 1",
        table.project, table.dataset, table.table
    )
}
