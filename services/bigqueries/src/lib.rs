//! Bigqueries: messages flow from a Pub/Sub subscription into rows of a BigQuery table.
//!
//! `pubsub::Source` reads them; [`transform::ToRow`] makes each a row, by the settings or by a row
//! type of one's own; [`sink::Sink`] writes batches of rows, and [`meaning`] says what BigQuery's
//! answers mean. A message is acknowledged when its row is in the table.

mod batch;
pub mod cell;
pub mod client;
pub mod column;
pub mod config;
pub mod convert;
pub mod meaning;
mod rest;
pub mod rows;
pub mod sink;
pub mod table;
pub mod transform;
pub mod view;

use std::sync::Arc;

use pipeline::Pipeline;
use pubsub::{
    Admin, Connection, DeadLetters, Graves, Keyword, Publishers, Source, SourceMetrics, TopicGuard,
};
use service::{Context, Running, Service};
use tokio::task::JoinSet;

use column::Column;
use config::{Api, Settings};
use rows::{Mapped, Row, Rows, Typed};
use sink::Sink;
use table::Table;
use transform::ToRow;

/// Bigqueries with its settings, not started yet.
pub struct Bigqueries<R = Mapped> {
    settings: Settings,
    rows: R,
}

impl Bigqueries {
    /// Bigqueries with the columns of its settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rows = settings.rows();
        Self { settings, rows }
    }

    /// Bigqueries with a row type of one's own; `table.columns` and `table.rest_column` of the
    /// settings do not count then.
    #[must_use]
    pub fn with_row<R: Row>(settings: Settings) -> Bigqueries<Typed<R>> {
        Bigqueries { settings, rows: Typed::default() }
    }
}

impl<R: Rows> Service for Bigqueries<R> {
    const NAME: &'static str = "bigqueries";

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { settings, rows } = self;
        let health = &context.health;
        let source_metrics = SourceMetrics::default();
        let counts = pipeline::Metrics::default();
        context.registry.register(|registry| {
            counts.register(registry);
            source_metrics.register(registry);
        });
        let table_condition = health.condition("table");
        let subscription_condition = health.condition("subscription");
        let graves = settings.dead_letters.clone();
        let graves = graves.ok_or_else(|| anyhow::anyhow!("dead_letters is required"))?;
        health.tell("guarantees", service::Settings::explain(&settings));

        let columns: Arc<[Column]> = rows.columns().into();
        let rest = client::rest(&settings.bigquery).await?;
        let name = settings.table_name();
        let table =
            Table::new(rest.clone(), name.clone(), Arc::clone(&columns), settings.table.clone());
        table.wait(&table_condition).await?;
        let sink = match settings.write {
            Api::InsertAll => Sink::insert_all(rest, name, Arc::clone(&columns)),
            Api::StorageWrite => {
                let client = client::storage_write(&settings.bigquery).await?;
                Sink::storage_write(client, name, Arc::clone(&columns))?
            }
        };
        let connection = Connection::new(settings.pubsub.clone());
        let admin = Admin::new(&connection).await?;
        let mut watchers = JoinSet::new();
        let guard = TopicGuard::new(graves.topic(&settings.project));
        if matches!(graves, Graves::Topic { .. }) {
            let condition = health.condition("dead_letters");
            guard.wait(&admin, &condition).await;
            watchers.spawn(guard.clone().watch(admin.clone(), condition));
        }
        let publishers = Publishers::new(&connection).await?;
        let source =
            Source::open(&connection, &settings.project, &settings.subscription, source_metrics);
        let running = Pipeline {
            service: Self::NAME,
            source: source.await?,
            transform: ToRow::new(rows, columns, settings.input),
            sink,
            dead_letters: DeadLetters::policy(&graves, &settings.project, &publishers, &guard),
            limits: settings.pipeline.clone(),
            metrics: counts.clone(),
        }
        .start();
        health.watch(running.status(), counts);
        watchers.spawn(table.watch(table_condition));
        watchers.spawn(pubsub::subscription_watcher(
            admin,
            (settings.project, settings.subscription.id),
            graves == Graves::Keyword(Keyword::Subscription),
            subscription_condition,
        ));
        Ok(Running::new(running, watchers))
    }
}
