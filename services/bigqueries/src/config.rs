//! The settings of bigqueries.

mod check;

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline::envelope::Input;
use pipeline::metrics::Reasons;
use pipeline::{Limits, batch};
use pubsub::{Endpoint, Graves, Intake, Reads, Subscription};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::memory::{self, Share};
use service::settings::{PORT, PROJECT, Variable, VariableKind};
use service::{Faults, Http};

use crate::client;
use crate::column::Column;
use crate::rows::Mapped;
use crate::sink::MAX_INSERT_ALL_ROWS;
use crate::table::TableName;

/// The column of [`Partitions`] that stands for the time at which rows come into the table.
pub(crate) const INGESTION_TIME: &str = "_PARTITIONTIME";
/// All settings. `example.yaml` beside the crate shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// The Google Cloud project. Required; `GOOGLE_CLOUD_PROJECT` is its default.
    pub project: String,
    /// The subscription to read from.
    pub subscription: Subscription,
    /// How a message's data is read.
    pub input: Input,
    /// The table, and its columns.
    pub table: Table,
    /// Which API rows are written with.
    pub write: Api,
    /// How BigQuery is reached.
    pub bigquery: client::Endpoint,
    /// Where messages go that can never succeed. Required.
    pub dead_letters: Option<Graves>,
    /// How Cloud Storage is reached, for dead letters that are too big for Pub/Sub.
    pub storage: storage::Endpoint,
    /// How Pub/Sub is reached.
    pub pubsub: Endpoint,
    /// Bounds, batches and waits.
    pub pipeline: Limits,
    /// Where the health server listens.
    pub http: Http,
    /// How long a drain may take; 1ms to 1d.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub grace_period: Duration,
}

/// Which API rows are written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// The Storage Write API, default stream: cheaper, and without removal of duplicates.
    #[default]
    StorageWrite,
    /// `tabledata.insertAll`: BigQuery removes duplicates of about a minute, by `ingest_id`.
    InsertAll,
}

/// The table, and its columns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Table {
    /// Its dataset. Required, and it must exist.
    pub dataset: String,
    /// Its id. Required.
    pub id: String,
    /// Whether it is created where it does not exist.
    pub create: bool,
    /// Whether columns that it lacks are added.
    pub add_columns: bool,
    /// The columns beside those below; at most 10,000.
    pub columns: Vec<Column>,
    /// Whether there are the columns `message_id`, `publish_time` and `ingest_id`.
    pub metadata_columns: bool,
    /// The JSON column for what no other column takes; empty for none.
    pub rest_column: String,
    /// How it is partitioned. Left out, a table that is created is not, and any layout of another will do.
    pub partition_by: Option<Partitions>,
    /// Columns that it is clustered by, at most four. Left out, any clustering of a table that is there will
    /// do.
    pub cluster_by: Vec<String>,
    /// When a table that is created expires, from its creation on; 1h to 100 years, never when left
    /// out.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expires_in: Option<Duration>,
    /// What it holds, for people.
    pub description: Option<String>,
    /// Labels of the table and the view when they are created: at most 64, of lowercase letters, digits, `_`
    /// and `-`.
    pub labels: BTreeMap<String, String>,
    /// Key of Cloud KMS that encrypts a table that is created, such as
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K`; the dataset's default when left out.
    pub kms_key: Option<String>,
    /// A view without duplicates, created where it does not exist and updated when the columns change;
    /// `bigqueries view` prints its query. With partitions it removes duplicates within each of them. It has a
    /// column for them, such as `publish_time_day`: filter by that one. One that somebody else wrote or edited is
    /// left alone.
    pub view: Option<String>,
}

/// How a table is partitioned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Partitions {
    /// A TIMESTAMP, DATE or DATETIME column; `_PARTITIONTIME` for the time of ingestion.
    pub column: String,
    /// What a partition covers.
    pub unit: Unit,
    /// When a partition expires; 1h to 100 years, never when left out.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expires_in: Option<Duration>,
    /// Whether queries must say which partitions they read.
    pub require_filter: bool,
}

/// What a partition covers.
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
    /// Its name in the REST API.
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
            require_filter: false,
        }
    }
}

impl Default for Table {
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
            project: String::new(),
            subscription: Subscription::default(),
            input: Input::Auto,
            table: Table::default(),
            write: Api::StorageWrite,
            bigquery: client::Endpoint::default(),
            dead_letters: None,
            storage: storage::Endpoint::default(),
            pubsub: Endpoint::default(),
            pipeline: Limits {
                batch: batch::Limits {
                    // What Google advises for insertAll.
                    max_messages: 500,
                    max_bytes: 4 * 1024 * 1024,
                    max_age: Duration::from_secs(1),
                    // A batch grows while others are written; no message waits for a timer.
                    max_idle: Duration::ZERO,
                },
                // BigQuery gives up an append after two minutes. Whoever gives it up before has it written
                // all the same, and once more. The sink takes less of it for insertAll.
                attempt_timeout: Duration::from_secs(150),
                ..Limits::default()
            },
            http: Http::default(),
            grace_period: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Rows as these settings describe them.
    #[must_use]
    pub fn rows(&self) -> Mapped {
        let table = &self.table;
        let rest = Some(table.rest_column.as_str()).filter(|name| !name.is_empty());
        Mapped::new(&table.columns, table.metadata_columns, rest)
    }

    /// The table's full name.
    #[must_use]
    pub fn table_name(&self) -> TableName {
        TableName {
            project: self.project.clone(),
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
            project: &self.project,
            subscription: &self.subscription,
            dead_letters: self.dead_letters.as_ref(),
            pubsub: &self.pubsub,
            storage: self.storage.clone(),
        }
    }
}

impl service::Settings for Settings {
    fn check(&self, faults: &mut Faults) {
        faults.project(&self.project);
        self.subscription.check(&self.pipeline, faults);
        self.check_table(faults);
        self.bigquery.check(faults);
        Graves::check(self.dead_letters.as_ref(), true, faults);
        self.storage.check(faults);
        self.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
        let rows = self.pipeline.batch.max_messages;
        let right = format!("must be at most {MAX_INSERT_ALL_ROWS} rows, is {rows}");
        faults.require(rows <= MAX_INSERT_ALL_ROWS, "pipeline.batch.max_messages", right);
        faults.http(&self.http);
        faults.grace_period(self.grace_period);
    }

    fn project(&self) -> &str {
        &self.project
    }

    fn http(&self) -> &Http {
        &self.http
    }

    fn grace_period(&self) -> Duration {
        self.grace_period
    }

    fn explain(&self) -> Vec<String> {
        let way = match self.write {
            Api::StorageWrite => "each message is a row at least once",
            Api::InsertAll => {
                "each message is a row at least once; repeats within about a minute are removed"
            }
        };
        let graves = self.dead_letters.iter().map(Graves::guarantee);
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
        std::iter::once(way.to_owned()).chain(left_out).chain(graves).collect()
    }

    fn memory(&self) -> Vec<Share> {
        // Rows in Arrow's form, and the request that holds them.
        let mut shares = memory::of_pipeline(&self.pipeline, 2);
        shares.insert(0, Share::of_process());
        shares.push(Share::of_streams(self.subscription.streams));
        shares
    }

    fn variables() -> &'static [Variable] {
        const EMULATOR: Variable = Variable {
            name: "BIGQUERY_EMULATOR_HOST",
            key: "bigquery.endpoint",
            kind: VariableKind::EmulatorHost,
        };
        &[PORT, PROJECT, Endpoint::VARIABLE, storage::Endpoint::VARIABLE, EMULATOR]
    }
}
