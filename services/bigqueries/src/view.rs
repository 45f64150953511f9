//! The view without duplicates.

use crate::column::Column;
use crate::table::TableName;

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
