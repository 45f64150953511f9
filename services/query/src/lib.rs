//! Query: `GET /data` answers with rows of a table that postgres or bigqueries writes.
//!
//! [`parameters`] reads a request. A [`store::Store`] asks the table for a page of rows: there are
//! [`postgres_table`] and [`bigquery_table`]. [`answer`] writes the page as JSON, NDJSON or CSV.
//! `/openapi.json` describes all of it to programs. The live page of all services is on the same
//! listener, if the settings ask for it.

pub mod answer;
pub mod bigquery_table;
pub mod config;
pub mod format;
mod memory;
mod openapi;
pub mod parameters;
pub mod postgres_table;
mod routes;
pub mod store;
mod token;

use axum::Router;
use postgresql::{Server, Sessions};
use service::google::Identity;
use service::health::Pauses;
use service::tools::preflight::State;
use service::{Context, Dependency, Running, Service};
use std::time::Duration;
use tokio::task::JoinSet;
use web::{Authenticator, Bound, Metrics};

use bigquery_table::BigQueryTable;
use config::{AUTH, BigQuerySettings, Chosen, SECTION, Settings};
use live::Live;
use memory::AnswerMemory;
use postgres_table::PostgresTable;
use routes::Api;
use store::{Failure, Store};

/// Pauses between two checks of the table. A check reads no rows, and costs nothing in BigQuery.
const PAUSES: Pauses = Pauses { ready: Duration::from_secs(3), not_ready: Duration::from_secs(1) };

/// The service with its settings, before its start.
pub struct Query {
    settings: Settings,
    clients: bigquery::Clients,
}

impl Query {
    /// Creates the service.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, clients: bigquery::Clients::default() }
    }

    /// Uses the client and the credentials that are handed in. What is left out is built from the
    /// settings.
    #[must_use]
    pub fn with_clients(self, clients: bigquery::Clients) -> Self {
        Self { clients, ..self }
    }

    /// Returns the credentials that were handed in, or else those of the settings.
    fn identity(&self) -> Identity {
        self.clients.identity.clone().or(self.settings.process.google.identity())
    }

    fn postgres(&self, server: &Server) -> anyhow::Result<PostgresTable> {
        let sessions = Sessions {
            application: "dataflow-query",
            statement_timeout: self.settings.timeout,
            max_connections: config::CONNECTIONS,
            write: false,
        };
        PostgresTable::new(server, sessions, &self.settings.table)
    }

    async fn bigquery(&self, settings: &BigQuerySettings) -> anyhow::Result<BigQueryTable> {
        let Settings { process, table, timeout, .. } = &self.settings;
        let clients = bigquery::Clients { identity: self.identity(), ..self.clients.clone() };
        let api = bigquery::rest(settings.endpoint.as_ref(), settings.credentials, &clients);
        let api = api.await?;
        Ok(BigQueryTable::new(api, &process.project, settings, table, *timeout))
    }

    async fn serve(&self, store: impl Store, context: &Context) -> anyhow::Result<Running> {
        let settings = &self.settings;
        let metrics = Metrics::default();
        context.registry.register(|registry| metrics.register(registry, &[SECTION]));
        let auth = Authenticator::start(&settings.auth, AUTH).await?;
        let bound = Bound::bind(&settings.api, SECTION, auth).await?;
        context.health.tell(SECTION, bound.address().to_string());
        let condition = context.health.condition("table");
        let api = Api {
            store: store.clone(),
            timeout: settings.timeout,
            memory: AnswerMemory::new(settings.max_answer_bytes),
            condition: condition.clone(),
        };
        let live = settings.live.as_ref();
        let live = live.map(|live| Live::start(live, settings.auth.reach())).transpose()?;
        let live = live.map(|live| live.with_clients(self.identity().into()));
        let (mut routes, mut open) = (routes::routes(api), Router::new());
        if let Some(live) = &live {
            (routes, open) = (routes.merge(live.routes()), live.page());
        }
        let server = bound.with_open(open).serve(routes, &metrics);
        let mut watchers = JoinSet::new();
        watchers.spawn(async move {
            let check = || async {
                match store::check(&store).await {
                    // The server has answered, and other queries may have room.
                    Ok(()) | Err(Failure::Busy(_)) => Ok(()),
                    Err(failure) => Err(store::told(&store, &failure)),
                }
            };
            condition.watch(check, PAUSES).await;
        });
        let running = Running::new(watchers).serve(&context.health);
        Ok(running.with_drain(move |grace| async move {
            // Its streams would never end by themselves.
            if let Some(live) = live {
                live.shutdown().await;
            }
            server.shutdown(grace).await;
        }))
    }
}

/// Returns the state of the table, for `check --online`.
async fn dependency(store: impl Store) -> Dependency {
    let state = match store::check(&store).await {
        Ok(()) => State::Ready,
        Err(Failure::Missing(why)) => State::Missing(why),
        Err(Failure::Denied(why)) => State::Denied(why),
        Err(Failure::Differs(why)) => State::Differs(why),
        Err(failure) => State::Unreachable(failure.why().to_owned()),
    };
    Dependency { kind: "table", name: store.name(), roles: &[], state }
}

impl Service for Query {
    const NAME: &'static str = "query";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        match self.settings.store()? {
            Chosen::Postgres(server) => self.serve(self.postgres(server)?, context).await,
            Chosen::BigQuery(settings) => self.serve(self.bigquery(settings).await?, context).await,
        }
    }

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        Ok(vec![match self.settings.store()? {
            Chosen::Postgres(server) => dependency(self.postgres(server)?).await,
            Chosen::BigQuery(settings) => dependency(self.bigquery(settings).await?).await,
        }])
    }
}
