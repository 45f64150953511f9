//! Names of everything that local mode creates in the embedded cloud.

pub(crate) const PROJECT: &str = "local";
pub(crate) const RAW: &str = "raw";
pub(crate) const ENRICHED: &str = "enriched";
pub(crate) const DEAD_LETTERS: &str = "dead-letters";
/// Subscriptions of enrich, icestore and bigqueries.
pub(crate) const ENRICH: &str = "enrich";
pub(crate) const ARCHIVE: &str = "archive";
pub(crate) const ROWS: &str = "rows";
/// Subscriptions to dead letters: one for the tools, and one for the report.
pub(crate) const LETTERS: &str = "dead-letters";
pub(crate) const BURIED: &str = "dead-letters-report";
/// Collection with a document for each device.
pub(crate) const DEVICES: &str = "devices";
/// Dataset and table of the rows.
pub(crate) const DATASET: &str = "dataflow";
pub(crate) const TABLE: &str = "readings";
/// View of the table, without duplicates.
pub(crate) const VIEW: &str = "readings_once";
/// Bucket of the archive.
pub(crate) const BUCKET: &str = "archive";
/// First part of the name of each object.
pub(crate) const PREFIX: &str = "messages";
