//! Names of tables and keys.

use std::fmt;
use std::str::FromStr;

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
    pub(crate) fn resource(&self) -> String {
        let Self { project, dataset, table } = self;
        format!("projects/{project}/datasets/{dataset}/tables/{table}")
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}

/// Name of a Cloud KMS key, which is in the text of its setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KmsKey;

impl FromStr for KmsKey {
    type Err = String;

    /// Checks a name. The error says what would be right.
    fn from_str(key: &str) -> Result<Self, String> {
        let parts: Vec<_> = key.split('/').collect();
        match parts[..] {
            ["projects", _, "locations", _, "keyRings", _, "cryptoKeys", _]
                if !parts.contains(&"") =>
            {
                Ok(Self)
            }
            _ => Err(format!(
                "must be projects/P/locations/L/keyRings/R/cryptoKeys/K without a version, is `{key}`"
            )),
        }
    }
}
