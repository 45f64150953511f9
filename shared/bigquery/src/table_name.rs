//! Name of a table.

use std::fmt;

/// Project, dataset and id of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// Project.
    pub project: String,
    /// Dataset.
    pub dataset: String,
    /// Id in the dataset.
    pub table: String,
}

impl TableName {
    /// Returns `projects/P/datasets/D/tables/T`.
    #[must_use]
    pub fn resource(&self) -> String {
        let Self { project, dataset, table } = self;
        format!("projects/{project}/datasets/{dataset}/tables/{table}")
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}
