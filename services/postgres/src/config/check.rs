//! Checks of the table's settings.

use postgresql::identifier;
use rows::column::{self, Column, Mode};
use rows::{Mapped, Rows as _};
use service::Faults;

use super::{Settings, TableSettings};
use crate::limits::MAX_COLUMNS;

/// Bytes after the name of a table in the name of a partition, such as `_20250615`.
const SUFFIX: usize = 9;

impl Settings {
    /// Reports the faults of the table's settings.
    pub(super) fn check_table(&self, faults: &mut Faults) {
        let table = &self.table;
        for (key, name) in [("table.schema", &table.schema), ("table.name", &table.name)] {
            if let Some(wrong) = identifier::fault(name) {
                faults.add(key, wrong);
            }
        }
        for (key, right) in column::faults(&table.columns, "table.columns", 0) {
            faults.add(&key, right);
        }
        check_columns(table, faults);
        let columns = self.rows().columns();
        let count = columns.len();
        let right =
            format!("must be at most {MAX_COLUMNS} columns, PostgreSQL's limit, is {count}");
        faults.require(count <= MAX_COLUMNS, "table.columns", right);
        if let Some(name) = &table.source_column {
            let is_column = |column: &Column| column.name == *name && column.mode != Mode::Repeated;
            let is_known = faults.is_unreadable("table.columns") || columns.iter().any(is_column);
            let right = format!("must be a column that is no list, is `{name}`");
            faults.require(is_known, "table.source_column", right);
        }
        if let Some(partitions) = &table.partition_by_day {
            faults.range("table.partition_by_day.days_ahead", partitions.days_ahead, 1..=30);
            let keeps = partitions.keep_days.is_none_or(|days| days > 0);
            faults.require(keeps, "table.partition_by_day.keep_days", "must be at least 1");
            let most = identifier::MAX_BYTES - SUFFIX;
            let length = table.name.len();
            let right = format!(
                "must be at most {most} bytes, because partitions append their day, is {length}"
            );
            faults.require(length <= most, "table.name", right);
        }
    }
}

/// Reports columns that clash with others, or that PostgreSQL cannot have.
fn check_columns(table: &TableSettings, faults: &mut Faults) {
    let rest = table.rest_column.as_str();
    let metadata = Mapped::new(&[], true, None).columns();
    let is_metadata = |name: &str| metadata.iter().any(|column| column.name == name);
    if !rest.is_empty()
        && let Some(wrong) = column::name_fault(rest).or_else(|| identifier::fault(rest))
    {
        faults.add("table.rest_column", wrong);
    } else if is_metadata(rest) {
        faults.add("table.rest_column", format!("`{rest}` is a metadata column too; rename it"));
    }
    for (index, column) in table.columns.iter().enumerate() {
        let (key, name) = (format!("table.columns[{index}].name"), &column.name);
        if is_metadata(name) {
            faults.add(&key, format!("`{name}` is a metadata column too; rename it"));
        } else if !name.is_empty() && name == rest {
            faults.add(&key, format!("`{name}` is the rest column too; rename one of them"));
        } else if let Some(wrong) = identifier::fault(name).filter(|_| !name.is_empty()) {
            faults.add(&key, wrong);
        }
        if column.needs_bigquery() {
            let right = format!(
                "`{}` is no literal of {}: this service fills in literals only",
                column.default.as_deref().unwrap_or_default(),
                column.data_type
            );
            faults.add(&format!("table.columns[{index}].default"), right);
        }
    }
}
