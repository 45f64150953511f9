//! The settings of bigqueries.

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
use crate::column::{self, Column};
use crate::rows::{Mapped, Rows as _};
use crate::sink::MAX_INSERT_ALL_ROWS;
use crate::table::TableName;

/// Most columns of a table in BigQuery.
const MAX_COLUMNS: usize = 10_000;
/// Most columns that a table may be clustered by.
const MAX_CLUSTERS: usize = 4;

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
    /// How it is partitioned; not at all when left out.
    pub partition_by: Option<Partitions>,
    /// Columns that it is clustered by, at most four.
    pub cluster_by: Vec<String>,
    /// When a table that is created expires, from its creation on; 1h to 100 years, never when left
    /// out.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expires_in: Option<Duration>,
    /// What it holds, for people.
    pub description: Option<String>,
    /// A view without duplicates that is created where it does not exist; `bigqueries view` prints
    /// its query.
    pub view: Option<String>,
}

/// How a table is partitioned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Partitions {
    /// A TIMESTAMP, DATE or DATETIME column.
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

    /// Reports columns whose names clash with those that are added to them.
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

    fn check_table(&self, faults: &mut Faults) {
        let table = &self.table;
        faults.require(!table.dataset.is_empty(), "table.dataset", "required, and must exist");
        faults.require(!table.id.is_empty(), "table.id", "required");
        for (key, right) in column::faults(&table.columns, "table.columns", 0) {
            faults.add(&key, right);
        }
        self.check_added_columns(faults);
        let columns = self.rows().columns();
        // Nobody knows what a column would be called that cannot be read.
        let is_unknown = faults.is_unreadable("table.columns");
        let is_there = |name: &str| is_unknown || columns.iter().any(|column| column.name == name);
        if let Some(partitions) = &table.partition_by {
            let right = format!("must be a column, is `{}`", partitions.column);
            faults.require(is_there(&partitions.column), "table.partition_by.column", right);
        }
        for name in &table.cluster_by {
            faults.require(
                is_there(name),
                "table.cluster_by",
                format!("must name columns, `{name}` is none"),
            );
        }
        let right = format!("must be at most {MAX_CLUSTERS} columns");
        faults.require(table.cluster_by.len() <= MAX_CLUSTERS, "table.cluster_by", right);
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
        std::iter::once(way.to_owned()).chain(graves).collect()
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
