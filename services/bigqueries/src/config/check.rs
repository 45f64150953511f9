//! Checks of the settings of a table.

use std::time::Duration;

use service::Faults;

use super::{Api, INGESTION_TIME, Partitions, Settings};
use rows::column::{self, Column, Kind, Mode};
use rows::{Mapped, Rows as _};

/// Maximum columns of a table in BigQuery.
const MAX_COLUMNS: usize = 10_000;
/// Maximum columns that a table can be clustered by.
const MAX_CLUSTERS: usize = 4;

/// Maximum labels of a table, and maximum characters of a key or a value.
const MAX_LABELS: (usize, usize) = (64, 63);

impl Settings {
    /// Reports the faults of the table's settings.
    pub(super) fn check_table(&self, faults: &mut Faults) {
        let table = &self.table;
        faults.require(!table.dataset.is_empty(), "table.dataset", "required, and must exist");
        faults.require(!table.id.is_empty(), "table.id", "required");
        for (key, right) in column::faults(&table.columns, "table.columns", 0) {
            faults.add(&key, right);
        }
        self.check_added_columns(faults);
        self.check_layout(faults);
        self.check_properties(faults);
        self.check_defaults(faults);
        let years = Duration::from_secs(3600)..=Duration::from_secs(100 * 31_557_600);
        let partitions = table.partition_by.as_ref().and_then(|partitions| partitions.expires_in);
        let expirations =
            [("table.expires_in", table.expires_in), ("table.partition_by.expires_in", partitions)];
        for (key, expires_in) in expirations {
            if let Some(expires_in) = expires_in {
                faults.duration(key, expires_in, years.clone());
            }
        }
        let columns = table.columns.len();
        let right =
            format!("must be at most {MAX_COLUMNS} columns, BigQuery's limit, is {columns}");
        faults.require(columns <= MAX_COLUMNS, "table.columns", right);
        let right = "needs the metadata columns: without them nothing tells duplicates";
        let needs = table.view.is_none() || table.metadata_columns;
        faults.require(needs, "table.view", right);
    }

    /// Reports columns whose name is already the name of a metadata column or of the rest column.
    fn check_added_columns(&self, faults: &mut Faults) {
        let (table, rest) = (&self.table, self.table.rest_column.as_str());
        let metadata = Mapped::new(&[], table.metadata_columns, None).columns();
        let is_metadata =
            |name: &str| metadata.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if let Some(wrong) = column::name_fault(rest).filter(|_| !rest.is_empty()) {
            faults.add("table.rest_column", wrong);
        } else if is_metadata(rest) {
            let why = "is a metadata column too; rename it, or set metadata_columns: false";
            faults.add("table.rest_column", format!("`{rest}` {why}"));
        }
        for (index, Column { name, .. }) in table.columns.iter().enumerate() {
            let clash = if is_metadata(name) {
                "is a metadata column too; rename it, or set metadata_columns: false"
            } else if !name.is_empty() && name.eq_ignore_ascii_case(rest) {
                "is the rest column too; rename one of them"
            } else {
                continue;
            };
            faults.add(&format!("table.columns[{index}].name"), format!("`{name}` {clash}"));
        }
    }

    /// Reports columns that a table cannot be partitioned or clustered by.
    fn check_layout(&self, faults: &mut Faults) {
        let table = &self.table;
        let columns = self.rows().columns();
        // A column that could not be read has no known name, so no name counts as missing then.
        let is_unknown = faults.is_unreadable("table.columns");
        let find = |name: &str| columns.iter().find(|column| column.name == name);
        if let Some(Partitions { column: name, .. }) = &table.partition_by
            && name != INGESTION_TIME
        {
            let key = "table.partition_by.column";
            match find(name) {
                None => {
                    faults.require(is_unknown, key, format!("must be a column, is `{name}`"));
                }
                Some(column) => {
                    let right = "must be a TIMESTAMP, DATE or DATETIME, and no list";
                    let (kind, is_one) = (column.kind(), column.mode != Mode::Repeated);
                    let partitions = matches!(kind, Kind::Timestamp | Kind::Date | Kind::Datetime);
                    let right = format!("{right}; `{name}` is {}", column.data_type);
                    faults.require(partitions && is_one, key, right);
                }
            }
        }
        for name in &table.cluster_by {
            let right = match find(name) {
                None if is_unknown => continue,
                None => format!("must name columns, `{name}` is none"),
                Some(column) if clusters(column) => continue,
                Some(column) => {
                    format!(
                        "BigQuery clusters by no list and no {}, as `{name}` is",
                        column.data_type
                    )
                }
            };
            faults.add("table.cluster_by", right);
        }
        let right = format!("must be at most {MAX_CLUSTERS} columns");
        faults.require(table.cluster_by.len() <= MAX_CLUSTERS, "table.cluster_by", right);
    }

    /// Reports required columns whose default only BigQuery can fill in, if the API does not let
    /// it.
    fn check_defaults(&self, faults: &mut Faults) {
        if self.write == Api::InsertAll {
            return;
        }
        for (index, column) in self.table.columns.iter().enumerate() {
            let is_missing = column.mode == Mode::Required && column.default_cell().is_none();
            if let Some(default) = column.default.as_ref().filter(|_| is_missing) {
                let right = format!(
                    "`{default}` is no literal of {}, and storage_write leaves no required column to \
                     BigQuery; write a literal, or use write: insert_all",
                    column.data_type
                );
                faults.add(&format!("table.columns[{index}].default"), right);
            }
        }
    }

    /// Reports labels and keys that BigQuery does not accept.
    fn check_properties(&self, faults: &mut Faults) {
        let (most, longest) = MAX_LABELS;
        let labels = &self.table.labels;
        let count = labels.len();
        faults.require(
            count <= most,
            "table.labels",
            format!("must be at most {most}, are {count}"),
        );
        let is_right = |text: &str| {
            let is_known =
                |char: char| char.is_lowercase() || char.is_numeric() || "_-".contains(char);
            text.chars().count() <= longest && text.chars().all(is_known)
        };
        for (key, value) in labels {
            let starts_right = key.starts_with(char::is_lowercase);
            let right = format!(
                "must be at most {longest} lowercase letters, digits, `_` and `-`, a key begins with a \
                 letter; is `{key}: {value}`"
            );
            faults.require(starts_right && is_right(key) && is_right(value), "table.labels", right);
        }
        self.table.kms_key.as_ref().map(|key| key.check("table.kms_key", faults));
    }
}

/// Returns true if BigQuery can cluster by a column:
/// <https://cloud.google.com/bigquery/docs/clustered-tables#cluster_column_types>.
fn clusters(column: &Column) -> bool {
    let is_known = match column.kind() {
        Kind::String
        | Kind::Int64
        | Kind::Bool
        | Kind::Timestamp
        | Kind::Date
        | Kind::Datetime
        | Kind::Numeric
        | Kind::Bignumeric
        | Kind::Geography
        | Kind::Range(_) => true,
        Kind::Bytes | Kind::Float64 | Kind::Time | Kind::Json | Kind::Interval | Kind::Record => {
            false
        }
    };
    is_known && column.mode != Mode::Repeated
}
