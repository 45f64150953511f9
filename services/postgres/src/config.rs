//! Settings of postgres.

mod check;

use std::time::Duration;

use message::envelope::Input;
use pipeline::{Limits, Reasons, batch};
use postgresql::Server;
use postgresql::identifier::quoted;
use pubsub::{DeadLetterConfig, Endpoint, Intake, IntakeSettings, Reads};
use rows::Mapped;
use rows::column::Column;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::cost::{Item, Load, Prices};
use service::memory::{self, Share};
use service::settings::{ProcessSettings, Variable};
use service::{Faults, WrongSettings, cloud};
use time::Date;

use crate::day;
use crate::limits::connections;

/// Memory of a connection with its buffers.
const CONNECTION_BYTES: u64 = 256 * 1024;

/// All settings. The file `example.yaml` of this crate shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Project, health server, and duration of a drain.
    #[schemars(flatten)]
    pub process: ProcessSettings,
    /// Form of a message's data.
    pub input: Input,
    /// Server, and the login.
    pub postgres: Server,
    /// Table and its columns.
    pub table: TableSettings,
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
    /// Schema of the table. It must exist.
    pub schema: String,
    /// Name of the table. Required.
    pub name: String,
    /// If true, the table is created when it does not exist.
    pub create: bool,
    /// If true, columns that the table lacks are added to it.
    pub add_columns: bool,
    /// Columns in addition to `message_id`, `publish_time`, `ingest_id` and the rest column.
    pub columns: Vec<Column>,
    /// Name of the JSON column for the data that no other column takes; empty for no such column.
    pub rest_column: String,
    /// Column that names the source of a row, such as `device_id`. A new table gets an index on it,
    /// with the time, for queries about one source.
    pub source_column: Option<String>,
    /// If true, a new table without partitions gets an index on `publish_time` and `ingest_id`, for
    /// queries about all sources. It makes writes about a tenth slower. The key of a table with
    /// partitions is such an index in any case.
    pub time_index: bool,
    /// Partitions by the day of `publish_time`, in UTC. Left out, the table has none.
    pub partition_by_day: Option<DayPartitions>,
}

/// Partitions by day.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct DayPartitions {
    /// Days for which partitions are made ahead of time; 1 to 30.
    pub days_ahead: u16,
    /// Days that rows are kept; at least 1. Older partitions are dropped with their rows. Left out,
    /// all are kept.
    pub keep_days: Option<u16>,
}

impl Default for DayPartitions {
    fn default() -> Self {
        Self { days_ahead: 3, keep_days: None }
    }
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            schema: "public".into(),
            name: String::new(),
            create: true,
            add_columns: true,
            columns: Vec::new(),
            rest_column: "rest".into(),
            source_column: None,
            time_index: true,
            partition_by_day: None,
        }
    }
}

impl TableSettings {
    /// Returns schema and name, for people.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Returns schema and name as SQL.
    #[must_use]
    pub fn quoted(&self) -> String {
        self.in_schema(&self.name)
    }

    /// Returns the name of the default partition as SQL.
    pub(crate) fn default_partition(&self) -> String {
        self.in_schema(&format!("{}_default", self.name))
    }

    /// Returns the name of the partition of a day as SQL.
    pub(crate) fn partition(&self, day: Date) -> String {
        self.in_schema(&format!("{}_{}", self.name, day::suffix(day)))
    }

    /// Returns the day whose partition has this name.
    pub(crate) fn day_of(&self, partition: &str) -> Option<Date> {
        day::parse(partition.strip_prefix(&self.name)?.strip_prefix('_')?)
    }

    fn in_schema(&self, name: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(name))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process: ProcessSettings { grace_period: Duration::from_secs(60), ..<_>::default() },
            input: Input::Auto,
            postgres: Server::default(),
            table: TableSettings::default(),
            storage: storage::Endpoint::default(),
            intake: IntakeSettings::default(),
            pipeline: Limits {
                // Each write has a connection of its own, and a server has about a hundred.
                max_writes: 2,
                batch: batch::BatchLimits {
                    max_messages: 5_000,
                    max_bytes: 4 * 1024 * 1024,
                    max_age: Duration::from_secs(1),
                    // A batch grows while others are written, so no message waits for a timer.
                    max_idle: Duration::ZERO,
                },
                ..Limits::default()
            },
        }
    }
}

impl Settings {
    /// Creates the rows that these settings describe.
    #[must_use]
    pub fn rows(&self) -> Mapped {
        let rest = Some(self.table.rest_column.as_str()).filter(|name| !name.is_empty());
        Mapped::new(&self.table.columns, true, rest)
    }
}

impl Reads for Settings {
    const REASONS: Reasons = crate::REASONS;

    fn intake(&self) -> Intake<'_> {
        Intake {
            service: "postgres",
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
        self.postgres.check(faults);
        self.check_table(faults);
        DeadLetterConfig::check(self.intake.dead_letters.as_ref(), true, faults);
        self.storage.check(faults);
        self.intake.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
    }

    fn check_guarantee(&self, faults: &mut Faults) {
        DeadLetterConfig::check_guarantee(self.intake.dead_letters.as_ref(), faults);
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        let way = match self.table.partition_by_day {
            None => "each message is one row, however often it is delivered",
            Some(_) => {
                "each message is one row, however often it is delivered; with partitions, two messages are \
                 the same if their ingest_id and their publish_time are"
            }
        };
        let dead_letters = self.intake.dead_letters.iter().map(DeadLetterConfig::guarantee);
        Ok(std::iter::once(way.to_owned()).chain(dead_letters).collect())
    }

    fn warnings(&self) -> Vec<String> {
        self.postgres.warnings().into_iter().chain(self.intake.create_warning()).collect()
    }

    fn estimate(&self, load: &Load, prices: &Prices) -> Vec<Item> {
        vec![pubsub::cost::delivery(load, self.input, prices)]
    }

    fn apis(&self) -> Vec<cloud::Api> {
        self.intake.pubsub.apis(self.intake.dead_letters.as_ref(), &self.storage)
    }

    fn memory(&self) -> Vec<Share> {
        // The rows in binary form, and the statement that holds them.
        let mut shares = memory::of_pipeline(&self.pipeline, 2);
        shares.insert(0, Share::of_process());
        shares.push(Share::of_streams(self.intake.subscription.streams));
        let default = connections(&self.pipeline);
        let connections = self.postgres.max_connections.unwrap_or(default);
        shares.push(Share::of_count("pipeline.max_writes", connections, CONNECTION_BYTES));
        shares
    }

    fn variables() -> Vec<Variable> {
        let google = [Endpoint::VARIABLE, storage::Endpoint::VARIABLE];
        [&google[..], &Server::VARIABLES].concat()
    }
}
