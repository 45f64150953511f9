//! Settings of bigqueries.

mod check;
mod cost;

use std::collections::BTreeMap;
use std::time::Duration;

use bigquery::TableName;
use humantime_serde::re::humantime::format_duration;
use message::envelope::Input;
use pipeline::Reasons;
use pipeline::{Limits, batch};
use pubsub::{DeadLetterConfig, Endpoint, Intake, IntakeSettings, Reads};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::cost::{Item, Load, Prices};
use service::memory::{self, Share};
use service::settings::{Parsed, ProcessSettings, Variable};
use service::{Faults, WrongSettings, cloud};

use crate::client;
use crate::limits::MAX_INSERT_ALL_ROWS;
use crate::names::KmsKey;
pub use crate::write_api::Api;
use rows::Mapped;
use rows::column::Column;

/// Name of the column of [`Partitions`] that stands for the time when rows arrive in the table.
pub(crate) const INGESTION_TIME: &str = "_PARTITIONTIME";
/// Least `attempt_timeout` that is longer than BigQuery's own for an append, which is two minutes.
/// A client that gives up earlier gets its rows written anyway, and a second time when it retries.
const APPEND_TIMEOUT: Duration = Duration::from_secs(150);

/// All settings. The file `example.yaml` of this crate shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Project, health server, and duration of a drain.
    #[schemars(flatten)]
    pub process: ProcessSettings,
    /// Form of a message's data.
    pub input: Input,
    /// Table and its columns.
    pub table: TableSettings,
    /// API that writes the rows.
    pub write: Api,
    /// Address of BigQuery, and the credentials for it.
    pub bigquery: client::Endpoint,
    /// Address of Cloud Storage, for dead letters that are too large for Pub/Sub.
    pub storage: storage::Endpoint,
    /// Source of messages, and destination of dead letters.
    #[schemars(flatten)]
    pub intake: IntakeSettings,
    /// Bounds, batches and waits.
    pub pipeline: Limits,
}

/// Table and its columns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct TableSettings {
    /// Dataset of the table. Required, and it must exist, except with `create: true` at the top level.
    pub dataset: String,
    /// Id of the table. Required.
    pub id: String,
    /// If true, the table is created when it does not exist.
    pub create: bool,
    /// If true, columns and defaults that the table lacks are added to it.
    pub add_columns: bool,
    /// Columns in addition to those below; at most 10,000.
    pub columns: Vec<Column>,
    /// If true, the table has the columns `message_id`, `publish_time` and `ingest_id`.
    pub metadata_columns: bool,
    /// Name of the JSON column for the data that no other column takes; empty for no such column.
    pub rest_column: String,
    /// Partitions of the table. Left out, a new table has no partitions, and an existing table may
    /// have any.
    pub partition_by: Option<Partitions>,
    /// Columns that the table is clustered by, at most four. Left out, an existing table may have
    /// any clustering.
    pub cluster_by: Vec<String>,
    /// Time after its creation when a new table expires; 1h to 100 years. Left out, it never
    /// expires.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expires_in: Option<Duration>,
    /// Description of the table, for people.
    pub description: Option<String>,
    /// Labels that a new table and a new view get: at most 64, of lowercase letters, digits, `_`
    /// and `-`.
    pub labels: BTreeMap<String, String>,
    /// Cloud KMS key that encrypts a new table, such as
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K`. Left out, the default of the dataset is
    /// used.
    pub kms_key: Option<Parsed<KmsKey>>,
    /// Name of a view without duplicates. It is created when it does not exist, and updated when
    /// the columns change. `bigqueries view` prints its query. With partitions, the view removes
    /// duplicates within each partition. It then has a column such as `publish_time_day`: filter by
    /// that column. A view that somebody else wrote or edited is left alone.
    pub view: Option<String>,
}

/// Partitions of a table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Partitions {
    /// Column that decides on the partition: a TIMESTAMP, DATE or DATETIME, or `_PARTITIONTIME` for
    /// the time of ingestion.
    pub column: String,
    /// Time that one partition covers.
    pub unit: Unit,
    /// Time after which a partition expires; 1h to 100 years. Left out, a new table has the default
    /// of its dataset, and an existing table may have any.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expires_in: Option<Duration>,
    /// If true, each query must name the partitions that it reads. Left out, a new table does not
    /// require that, and an existing table may.
    pub require_filter: Option<bool>,
}

/// Time that one partition covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// An hour.
    Hour,
    /// A day.
    #[default]
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Unit {
    /// Returns the name of the unit in the REST API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hour => "HOUR",
            Self::Day => "DAY",
            Self::Month => "MONTH",
            Self::Year => "YEAR",
        }
    }
}

impl Default for Partitions {
    fn default() -> Self {
        Self {
            column: "publish_time".into(),
            unit: Unit::Day,
            expires_in: None,
            require_filter: None,
        }
    }
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            dataset: String::new(),
            id: String::new(),
            create: true,
            add_columns: true,
            columns: Vec::new(),
            metadata_columns: true,
            rest_column: "rest".into(),
            partition_by: None,
            cluster_by: Vec::new(),
            expires_in: None,
            description: None,
            labels: BTreeMap::new(),
            kms_key: None,
            view: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process: ProcessSettings { grace_period: Duration::from_secs(60), ..<_>::default() },
            input: Input::Auto,
            table: TableSettings::default(),
            write: Api::StorageWrite,
            bigquery: client::Endpoint::default(),
            storage: storage::Endpoint::default(),
            intake: IntakeSettings::default(),
            pipeline: Limits {
                batch: batch::BatchLimits {
                    // Google recommends this size for `insertAll`.
                    max_messages: 500,
                    max_bytes: 4 * 1024 * 1024,
                    max_age: Duration::from_secs(1),
                    // A batch grows while others are written, so no message waits for a timer.
                    max_idle: Duration::ZERO,
                },
                // For `insertAll` the sink takes less of this time.
                attempt_timeout: APPEND_TIMEOUT,
                ..Limits::default()
            },
        }
    }
}

impl Settings {
    /// Creates the rows that these settings describe.
    #[must_use]
    pub fn rows(&self) -> Mapped {
        let table = &self.table;
        let rest = Some(table.rest_column.as_str()).filter(|name| !name.is_empty());
        Mapped::new(&table.columns, table.metadata_columns, rest)
    }

    /// Returns the full name of the table.
    #[must_use]
    pub fn table_name(&self) -> TableName {
        TableName {
            project: self.process.project.clone(),
            dataset: self.table.dataset.clone(),
            table: self.table.id.clone(),
        }
    }
}

impl Reads for Settings {
    const REASONS: Reasons = crate::REASONS;

    fn intake(&self) -> Intake<'_> {
        Intake {
            service: "bigqueries",
            project: &self.process.project,
            settings: &self.intake,
            storage: self.storage.clone(),
            audience: None,
            clients: self.process.google.identity().into(),
        }
    }
}

impl service::Settings for Settings {
    const PARTS: &'static [&'static str] = &["process", "intake"];

    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn check(&self, faults: &mut Faults) {
        self.intake.subscription.check(&self.pipeline, faults);
        self.intake.check_create(faults);
        self.check_table(faults);
        self.bigquery.check(faults);
        DeadLetterConfig::check(self.intake.dead_letters.as_ref(), true, faults);
        self.storage.check(faults);
        self.intake.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
        let rows = self.pipeline.batch.max_messages;
        let right = format!("must be at most {MAX_INSERT_ALL_ROWS} rows, is {rows}");
        faults.require(rows <= MAX_INSERT_ALL_ROWS, "pipeline.batch.max_messages", right);
    }

    fn check_guarantee(&self, faults: &mut Faults) {
        DeadLetterConfig::check_guarantee(self.intake.dead_letters.as_ref(), faults);
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        let way = match self.write {
            Api::StorageWrite => "each message is a row at least once",
            Api::InsertAll => {
                "each message is a row at least once; repeats within about a minute are removed"
            }
        };
        let dead_letters = self.intake.dead_letters.iter().map(DeadLetterConfig::guarantee);
        let left_out = self
            .table
            .columns
            .iter()
            .filter(|column| self.write == Api::StorageWrite && column.needs_bigquery());
        let left_out = left_out.map(|Column { name, default, .. }| {
            let default = default.as_deref().unwrap_or_default();
            format!(
                "a missing value of {name} is NULL: storage_write does not give it the default {default}, \
                 insert_all would"
            )
        });
        Ok(std::iter::once(way.to_owned()).chain(left_out).chain(dead_letters).collect())
    }

    fn warnings(&self) -> Vec<String> {
        let timeout = self.pipeline.attempt_timeout;
        let is_short = self.write == Api::StorageWrite && timeout < APPEND_TIMEOUT;
        let warning = || {
            format!(
                "pipeline.attempt_timeout is {}, and BigQuery gives up an append of storage_write after two \
                 minutes: rows of an append that is given up earlier may be in the table twice; set at least {}",
                format_duration(timeout),
                format_duration(APPEND_TIMEOUT)
            )
        };
        is_short.then(warning).into_iter().chain(self.intake.create_warning()).collect()
    }

    fn estimate(&self, load: &Load, prices: &Prices) -> Vec<Item> {
        cost::of(self, load, prices)
    }

    fn apis(&self) -> Vec<cloud::Api> {
        let mut apis = self.intake.pubsub.apis(self.intake.dead_letters.as_ref(), &self.storage);
        apis.extend(self.bigquery.apis(self.write));
        apis
    }

    fn memory(&self) -> Vec<Share> {
        // The rows in Arrow's form, and the request that holds them.
        let mut shares = memory::of_pipeline(&self.pipeline, 2);
        shares.insert(0, Share::of_process());
        shares.push(Share::of_streams(self.intake.subscription.streams));
        shares
    }

    fn variables() -> Vec<Variable> {
        vec![Endpoint::VARIABLE, storage::Endpoint::VARIABLE, bigquery::EMULATOR]
    }
}
