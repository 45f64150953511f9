//! Settings of query.

use std::time::Duration;

use postgresql::{Server, identifier};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::memory::Share;
use service::settings::{ProcessSettings, Variable};
use service::{Faults, WrongSettings};
use web::Listener;
use web::auth::settings::Auth;

/// Section of the listener for users.
pub(crate) const SECTION: &str = "api";
/// Section of the credentials that callers need.
pub(crate) const AUTH: &str = "auth";
/// Section of the live page.
pub(crate) const LIVE: &str = "live";
/// Connections to the server, if the settings do not say.
pub(crate) const CONNECTIONS: usize = 10;
/// Memory of one answer: the rows of the largest page, their text, and a row beyond its end.
const ANSWER_BYTES: u64 = 32 * 1024 * 1024;

/// All settings. The file `example.yaml` of this crate shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Project, health server, and duration of a drain.
    #[schemars(flatten)]
    pub process: ProcessSettings,
    /// Listener for users.
    pub api: Listener,
    /// Credentials that callers need. Without it, only loopback is allowed.
    pub auth: Auth,
    /// Server, and the login. The user needs SELECT only.
    pub postgres: Server,
    /// Table of the rows.
    pub table: TableSettings,
    /// Longest duration of a query; 10ms to 5m.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Live page of all services, at `/`. Without it, there is no page.
    pub live: Option<live::Settings>,
}

/// Table of the rows, as postgres writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct TableSettings {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table. Required.
    pub name: String,
    /// Column that names the source of a row, which `source_id` asks for. Required.
    pub source_column: String,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self { schema: "public".into(), name: String::new(), source_column: String::new() }
    }
}

impl TableSettings {
    /// Returns schema and name, for people.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process: ProcessSettings::default(),
            api: Listener { port: 8089, ..Listener::default() },
            auth: Auth::default(),
            postgres: Server::default(),
            table: TableSettings::default(),
            timeout: Duration::from_secs(5),
            live: None,
        }
    }
}

impl service::Settings for Settings {
    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn check(&self, faults: &mut Faults) {
        self.api.check(SECTION, self.auth.reach(), faults);
        self.auth.check(AUTH, faults);
        self.postgres.check(faults);
        let TableSettings { schema, name, source_column } = &self.table;
        for (key, name) in
            [("table.schema", schema), ("table.name", name), ("table.source_column", source_column)]
        {
            if let Some(wrong) = identifier::fault(name) {
                faults.add(key, wrong);
            }
        }
        let range = Duration::from_millis(10)..=Duration::from_secs(300);
        faults.duration("timeout", self.timeout, range);
        if let Some(live) = &self.live {
            live.check(LIVE, faults);
        }
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        let order = "GET /data answers with rows in the order of their time and ingest_id";
        Ok(vec![order.to_owned()])
    }

    fn warnings(&self) -> Vec<String> {
        self.postgres.warnings()
    }

    fn memory(&self) -> Vec<Share> {
        let connections = self.postgres.max_connections.unwrap_or(CONNECTIONS);
        vec![
            Share::of_process(),
            Share::of_count("postgres.max_connections", connections, ANSWER_BYTES),
        ]
    }

    fn variables() -> &'static [Variable] {
        &[]
    }
}
