//! Query: `GET /data` answers with rows of the table that postgres writes.
//!
//! [`parameters`] reads a request, [`store`] asks the table for a page of rows, and [`answer`] writes
//! them as JSON, NDJSON or CSV. `/openapi.json` describes all of it to programs. The live page of all
//! services is on the same listener, if the settings ask for it.

pub mod answer;
pub mod config;
pub mod format;
mod openapi;
pub mod parameters;
mod routes;
pub mod store;
mod token;

use axum::Router;
use postgresql::{Database, Sessions};
use service::health::Pauses;
use service::tools::preflight::State;
use service::{Context, Dependency, Running, Service};
use std::time::Duration;
use tokio::task::JoinSet;
use web::{Authenticator, Bound, Metrics};

use config::{AUTH, SECTION, Settings};
use live::Live;
use store::Store;

/// Pauses between two checks of the table.
const PAUSES: Pauses = Pauses { ready: Duration::from_secs(30), not_ready: Duration::from_secs(1) };

/// The service with its settings, before its start.
pub struct Query {
    settings: Settings,
}

impl Query {
    /// Creates the service.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    fn store(&self) -> anyhow::Result<Store> {
        let sessions = Sessions {
            application: "dataflow-query",
            statement_timeout: self.settings.timeout,
            max_connections: config::CONNECTIONS,
            write: false,
        };
        let database = Database::new(&self.settings.postgres, sessions)?;
        Ok(Store::new(database, &self.settings.table))
    }
}

impl Service for Query {
    const NAME: &'static str = "query";

    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let store = self.store()?;
        let metrics = Metrics::default();
        context.registry.register(|registry| metrics.register(registry, &[SECTION]));
        let auth = Authenticator::start(&self.settings.auth, AUTH).await?;
        let bound = Bound::bind(&self.settings.api, SECTION, auth).await?;
        context.health.tell(SECTION, bound.address().to_string());
        let condition = context.health.condition("table");
        let live = self.settings.live.as_ref();
        let live = live.map(|live| Live::start(live, self.settings.auth.reach())).transpose()?;
        let mut routes = routes::routes(store.clone(), self.settings.timeout);
        let mut open = Router::new();
        if let Some(live) = &live {
            (routes, open) = (routes.merge(live.routes()), live.page());
        }
        let server = bound.with_open(open).serve(routes, &metrics);
        let mut watchers = JoinSet::new();
        watchers.spawn(async move {
            condition.watch(|| store.check(), PAUSES).await;
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

    async fn preflight(&self) -> anyhow::Result<Vec<Dependency>> {
        let name = self.settings.table.full_name();
        let state = match self.store()?.check().await {
            Ok(()) => State::Ready,
            Err(why) => State::Unreachable(why),
        };
        Ok(vec![Dependency { kind: "table", name, roles: &[], state }])
    }
}
