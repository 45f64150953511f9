//! Bigqueries: messages flow from a Pub/Sub subscription into rows of a BigQuery table.
//!
//! `pubsub::Source` reads messages. [`transform::ToRow`] makes a row of each, as the settings or a
//! custom row type describe it. [`sink::Sink`] writes batches of rows, and [`response`] classifies
//! the answers of BigQuery. A message is acknowledged when its row is in the table.

mod batch;
pub mod client;
pub mod config;
mod limits;
mod names;
pub mod reasons;
pub mod response;
pub mod sink;
pub mod table;
pub mod tools;
pub mod transform;
pub mod view;
mod write_api;

use std::sync::Arc;

use pipeline::{Pipeline, Reasons};
use pubsub::Reads as _;
use rows::column::Column;
use rows::{Mapped, Row, Rows, Typed};
use service::{Context, Dependency, Running, Service};
use tokio::task::JoinSet;

use client::Clients;
use config::{Api, Settings};
use sink::Sink;
use table::Table;
use transform::ToRow;

/// Reasons for which a message can end here without being sent.
pub const REASONS: Reasons = Reasons {
    refused: &[
        pipeline::reasons::ENVELOPE,
        rows::reasons::REFUSED,
        reasons::REFUSED,
        pipeline::reasons::EVERY_SERVICE,
    ],
    skipped: &[],
};

/// The service with its settings, before its start.
pub struct Bigqueries<R = Mapped> {
    settings: Settings,
    rows: R,
    clients: Clients,
}

impl Bigqueries {
    /// Creates the service with the columns of its settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rows = settings.rows();
        Self { settings, rows, clients: Clients::default() }
    }

    /// Creates the service with a custom row type. The settings `table.columns` and
    /// `table.rest_column` have no effect then.
    #[must_use]
    pub fn with_row<R: Row>(settings: Settings) -> Bigqueries<Typed<R>> {
        Bigqueries { settings, rows: Typed::default(), clients: Clients::default() }
    }
}

impl<R> Bigqueries<R> {
    /// Uses clients and credentials that are handed in. Those that are left out are built from the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        Self { clients, ..self }
    }
}

impl<R: Rows> Bigqueries<R> {
    /// Creates the service with these rows, such as those of [`rows::from_fn`]. The settings
    /// `table.columns` and `table.rest_column` have no effect then.
    #[must_use]
    pub fn with_rows(settings: Settings, rows: R) -> Self {
        Self { settings, rows, clients: Clients::default() }
    }
}

impl<R: Rows> Service for Bigqueries<R> {
    const NAME: &'static str = "bigqueries";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, rows, clients } = self;
        let health = &context.health;
        let counts = context.registry.pipeline(Self::NAME, &REASONS).with_refused(rows.reasons());
        let table_condition = health.condition("table");
        health.tell("guarantees", service::Settings::explain(&settings)?);

        let columns: Arc<[Column]> = rows.columns().into();
        let intake = settings.intake().with_clients(clients.intake.clone());
        let clients = Clients { intake: intake.clients.clone(), ..clients };
        let (sink, table) = open(&settings, Arc::clone(&columns), clients).await?;
        if settings.intake.create {
            table.create_dataset(&table_condition).await?;
        }
        table.wait(&table_condition).await?;
        let mut watchers = JoinSet::new();
        let opened = intake.open([], context, &mut watchers).await?;
        watchers.spawn(table.watch(table_condition));
        let pipeline = Pipeline {
            service: Self::NAME,
            source: opened.source,
            transform: ToRow::new(rows, columns, settings.table_name(), settings.input)
                .written_with(settings.write),
            sink,
            dead_letters: opened.dead_letters,
            limits: settings.pipeline,
            metrics: counts,
        };
        Ok(Running::new(watchers).start(pipeline, health))
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let settings = &self.settings;
        let intake = settings.intake().with_clients(self.clients.intake.clone());
        let clients = Clients { intake: intake.clients.clone(), ..self.clients.clone() };
        let (_, table) = open(settings, self.rows.columns().into(), clients).await?;
        let mut dependencies = intake.preflight([]).await?;
        // Without its dataset, the table counts as missing.
        let is_created = settings.intake.create && settings.table.create;
        dependencies.push(table.dependency().await.created(is_created));
        let view = table.view_dependency().await;
        dependencies.extend(view.map(|view| view.created(is_created)));
        Ok(dependencies)
    }
}

/// Creates the table, and a sink for the API that the settings choose.
async fn open(
    settings: &Settings,
    columns: Arc<[Column]>,
    clients: Clients,
) -> anyhow::Result<(Sink, Table)> {
    let rest = client::rest_with(&settings.bigquery, &clients).await?;
    let name = settings.table_name();
    let table =
        Table::new(rest, name, columns, settings.table.clone()).written_with(settings.write);
    let sink = match settings.write {
        Api::InsertAll => Sink::insert_all(table.clone()),
        Api::StorageWrite => {
            Sink::storage_write_with(&settings.bigquery, table.clone(), clients).await?
        }
    };
    Ok((sink, table))
}
