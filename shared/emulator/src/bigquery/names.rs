//! Names of datasets and tables.

use serde_json::{Value, json};
use tonic::Code;

use super::sqlite::quote;
use crate::status::Status;

/// Project and id of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DatasetName(pub String, pub String);

/// Project, dataset and id of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TableName(pub String, pub String, pub String);

impl DatasetName {
    /// Returns the name for messages and ids.
    pub(super) fn display(&self) -> String {
        format!("{}:{}", self.0, self.1)
    }
}

impl TableName {
    pub(super) fn dataset(&self) -> DatasetName {
        DatasetName(self.0.clone(), self.1.clone())
    }

    /// Returns the name for messages and ids.
    pub(super) fn display(&self) -> String {
        format!("{}:{}.{}", self.0, self.1, self.2)
    }

    /// Returns the quoted name in SQLite.
    pub(super) fn quoted(&self) -> String {
        quote(&format!("{}.{}.{}", self.0, self.1, self.2))
    }

    /// Parses `projects/P/datasets/D/tables/T`, with any suffix.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.split('/').collect();
        let ["projects", project, "datasets", dataset, "tables", table, ..] = parts.as_slice()
        else {
            return None;
        };
        Some(Self((*project).into(), (*dataset).into(), (*table).into()))
    }
}

/// Returns the name in the form of the REST API.
pub(super) fn reference(name: &TableName) -> Value {
    json!({ "projectId": name.0, "datasetId": name.1, "tableId": name.2 })
}

/// Builds the error of a missing resource.
pub(super) fn missing(what: &str, name: &str) -> Status {
    Status::new(Code::NotFound, format!("Not found: {what} {name}"))
}

/// Builds the error of a resource that exists already.
pub(super) fn exists(what: &str, name: &str) -> Status {
    Status::new(Code::AlreadyExists, format!("Already Exists: {what} {name}"))
}
