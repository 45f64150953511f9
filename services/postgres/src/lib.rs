//! Postgres: messages flow from a Pub/Sub subscription into rows of a PostgreSQL table.
//!
//! `pubsub::Source` reads messages. [`transform::ToRow`] makes a row of each, as the settings or a
//! custom row type describe it. [`sink::Sink`] writes batches of rows, and [`response`] classifies
//! the answers of PostgreSQL. The id of a message is the key of its row, so each message is one
//! row, however often it is delivered. A message is acknowledged when its row is in the table.

mod batch;
pub mod config;
mod day;
mod limits;
pub mod metrics;
mod partitions;
pub mod response;
mod rights;
pub mod sink;
pub mod sql_type;
pub mod statements;
pub mod table;
pub mod tools;
pub mod transform;

use std::sync::Arc;
use std::time::Duration;

use pipeline::{Pipeline, Reasons};
use postgresql::{Database, Sessions};
use pubsub::{Clients, Reads as _};
use rows::column::Column;
use rows::{Mapped, Row, Rows, Typed};
use service::{Context, Dependency, Running, Service};
use tokio::task::JoinSet;

use config::Settings;
use partitions::Partitions;
use sink::Sink;
use statements::Statements;
use table::Table;
use transform::ToRow;

/// Reasons for which a message can end here without being sent.
pub const REASONS: Reasons = Reasons {
    refused: &[
        pipeline::reasons::ENVELOPE,
        rows::reasons::REFUSED,
        pipeline::reasons::EVERY_SERVICE,
    ],
    skipped: &[],
};

/// The service with its settings, before its start.
pub struct Postgres<R = Mapped> {
    settings: Settings,
    rows: R,
    clients: Clients,
}

impl Postgres {
    /// Creates the service with the columns of its settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rows = settings.rows();
        Self { settings, rows, clients: Clients::default() }
    }

    /// Creates the service with a custom row type, which has the columns `ingest_id` and
    /// `publish_time`. The settings `table.columns` and `table.rest_column` have no effect then.
    #[must_use]
    pub fn with_row<R: Row>(settings: Settings) -> Postgres<Typed<R>> {
        Postgres { settings, rows: Typed::default(), clients: Clients::default() }
    }
}

impl<R> Postgres<R> {
    /// Uses clients and credentials that are handed in. Those that are left out are built from the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        Self { clients, ..self }
    }
}

impl<R: Rows> Postgres<R> {
    /// Creates the service with these rows, such as those of [`rows::from_fn`]. They have the columns
    /// `ingest_id` and `publish_time`. The settings `table.columns` and `table.rest_column` have no
    /// effect then.
    #[must_use]
    pub fn with_rows(settings: Settings, rows: R) -> Self {
        Self { settings, rows, clients: Clients::default() }
    }
}

impl<R: Rows> Service for Postgres<R> {
    const NAME: &'static str = "postgres";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, rows, clients } = self;
        let health = &context.health;
        let counts = context.registry.pipeline(Self::NAME, &REASONS).with_refused(rows.reasons());
        let metrics = metrics::Metrics::default();
        context.registry.register(|registry| metrics.register(registry));
        let table_condition = health.condition("table");
        health.tell("guarantees", service::Settings::explain(&settings)?);

        let columns: Arc<[Column]> = rows.columns().into();
        let (database, statements) = open(&settings, &columns)?;
        let table = Table::new(database.clone(), Arc::clone(&statements));
        table.wait(&table_condition).await?;
        let mut watchers = JoinSet::new();
        let intake = settings.intake().with_clients(clients);
        let opened = intake.open([], context, &mut watchers).await?;
        watchers.spawn(table.watch(table_condition));
        let pipeline = Pipeline {
            service: Self::NAME,
            source: opened.source,
            transform: ToRow::new(rows, columns, settings.table.full_name(), settings.input),
            sink: Sink::new(database.clone(), Arc::clone(&statements), metrics.clone()),
            dead_letters: opened.dead_letters,
            limits: settings.pipeline,
            metrics: counts,
        };
        if let Some(partitions) = Partitions::new(database, statements, metrics) {
            watchers.spawn(partitions.maintain());
        }
        Ok(Running::new(watchers).start(pipeline, health))
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let (database, statements) = open(&self.settings, &self.rows.columns())?;
        let intake = self.settings.intake().with_clients(self.clients.clone());
        let mut dependencies = intake.preflight([]).await?;
        dependencies.push(Table::new(database, statements).dependency().await);
        Ok(dependencies)
    }
}

/// Creates the pool of connections, and the statements for these columns.
fn open(settings: &Settings, columns: &[Column]) -> anyhow::Result<(Database, Arc<Statements>)> {
    let statements = Statements::new(&settings.table, columns)?;
    let sessions = Sessions {
        application: "dataflow-postgres",
        // The pipeline gives up first. It halves a batch that takes too long, and not one that the
        // server refuses.
        statement_timeout: settings.pipeline.attempt_timeout * 2 + Duration::from_secs(64),
        max_connections: limits::connections(&settings.pipeline),
        write: true,
    };
    let database = Database::new(&settings.postgres, sessions)?;
    Ok((database, Arc::new(statements)))
}
