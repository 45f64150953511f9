//! APIs that write rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// API that writes the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Default stream of the Storage Write API: cheaper, but without removal of duplicates.
    #[default]
    StorageWrite,
    /// `tabledata.insertAll`: BigQuery removes duplicates within about a minute, by `ingest_id`.
    InsertAll,
}
