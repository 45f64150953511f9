//! Settings of query.

use std::time::Duration;

use postgresql::{Server, identifier};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::google::{EndpointUrl, Login};
use service::memory::Share;
use service::settings::{Parsed, ProcessSettings, Variable, VariableKind};
use service::{Faults, WrongSettings, cloud};
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
/// Memory of one query of BigQuery: beside the answer, a page of the REST API, which has 10 MB at most,
/// as bytes and as rows.
const BIGQUERY_BYTES: u64 = ANSWER_BYTES + 2 * 10 * 1000 * 1000;
/// Fault of settings with two stores.
const BOTH: &str = "must not be there together with bigquery: one table is asked";
/// Fault of settings without a store.
const NONE: &str = "required, or the section bigquery instead of it";

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
    /// Server of PostgreSQL, and the login, which needs SELECT only. Exactly one of this section and
    /// `bigquery` is required.
    pub postgres: Option<Server>,
    /// BigQuery instead of PostgreSQL. It needs `project`.
    pub bigquery: Option<BigQuerySettings>,
    /// Table of the rows.
    pub table: TableSettings,
    /// Longest duration of a query; 10ms to 5m.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Most bytes of all answers that clients have not read yet; 16 MiB to 1 TiB. Requests beyond it
    /// get 503.
    pub max_answer_bytes: usize,
    /// Live page of all services, at `/`. Without it, there is no page.
    pub live: Option<live::Settings>,
}

/// Dataset of BigQuery with the table, and the limits of a query.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct BigQuerySettings {
    /// Dataset of the table. Required.
    pub dataset: String,
    /// Location of the dataset, such as `EU`. Left out, BigQuery finds it.
    pub location: Option<String>,
    /// Most queries at a time; 1 to 1000.
    pub max_queries: usize,
    /// Most bytes that one query may be billed for; 10 MiB, the least that Google bills, or more. A
    /// query that needs more fails without a cost.
    pub max_bytes_billed: u64,
    /// URL of an emulator, such as `http://localhost:8085`, or of a regional or private endpoint of
    /// Google. Left out, Google's usual endpoint is used. The variable `BIGQUERY_EMULATOR_HOST`
    /// overrides it.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Credentials for `endpoint`: `anonymous` for an emulator, which is the default, or
    /// `application_default` for an endpoint of Google.
    pub credentials: Option<Login>,
}

impl Default for BigQuerySettings {
    fn default() -> Self {
        Self {
            dataset: String::new(),
            location: None,
            max_queries: 10,
            max_bytes_billed: 10 << 30,
            endpoint: None,
            credentials: None,
        }
    }
}

/// Store that the settings choose.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Chosen<'a> {
    /// A table of PostgreSQL.
    Postgres(&'a Server),
    /// A table of BigQuery.
    BigQuery(&'a BigQuerySettings),
}

/// Table of the rows, as postgres or bigqueries writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct TableSettings {
    /// Schema of the table in PostgreSQL. It has no meaning in BigQuery.
    pub schema: String,
    /// Name of the table. Required. In BigQuery, name the table and not its view without duplicates.
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
            postgres: None,
            bigquery: None,
            table: TableSettings::default(),
            timeout: Duration::from_secs(5),
            max_answer_bytes: 128 * 1024 * 1024,
            live: None,
        }
    }
}

impl Settings {
    /// Returns the store that the settings choose.
    pub(crate) fn store(&self) -> Result<Chosen<'_>, WrongSettings> {
        match (&self.postgres, &self.bigquery) {
            (Some(server), None) => Ok(Chosen::Postgres(server)),
            // The variable of an emulator sets the address, even if nothing else is set.
            (Some(server), Some(bigquery)) if bigquery.dataset.is_empty() => {
                Ok(Chosen::Postgres(server))
            }
            (None, Some(bigquery)) => Ok(Chosen::BigQuery(bigquery)),
            (Some(_), Some(_)) => Err(WrongSettings(BOTH.into())),
            (None, None) => Err(WrongSettings(NONE.into())),
        }
    }

    fn check_store(&self, faults: &mut Faults) {
        let TableSettings { schema, name, source_column } = &self.table;
        match self.store() {
            Err(WrongSettings(why)) => {
                if !faults.is_unreadable("postgres") && !faults.is_unreadable("bigquery") {
                    faults.add("postgres", why);
                }
            }
            Ok(Chosen::Postgres(server)) => {
                server.check(faults);
                for (key, name) in [("table.schema", schema), ("table.name", name)] {
                    if let Some(wrong) = identifier::fault(name) {
                        faults.add(key, wrong);
                    }
                }
            }
            Ok(Chosen::BigQuery(bigquery)) => {
                bigquery.check(faults);
                check_id("table.name", name, faults);
            }
        }
        if let Some(wrong) = identifier::fault(source_column) {
            faults.add("table.source_column", wrong);
        } else if matches!(self.store(), Ok(Chosen::BigQuery(_))) {
            check_id("table.source_column", source_column, faults);
        }
    }
}

impl BigQuerySettings {
    fn check(&self, faults: &mut Faults) {
        const LEAST: u64 = 10 * 1024 * 1024;
        check_id("bigquery.dataset", &self.dataset, faults);
        let queries = self.max_queries;
        let right = format!("must be 1 to 1000, is {queries}");
        faults.require((1..=1000).contains(&queries), "bigquery.max_queries", right);
        let bytes = self.max_bytes_billed;
        let right = format!("must be at least {LEAST}, which Google bills at least, is {bytes}");
        faults.require(bytes >= LEAST, "bigquery.max_bytes_billed", right);
        Login::check("bigquery", self.endpoint.as_ref(), self.credentials, faults);
    }
}

/// Reports an id that BigQuery cannot have. Inside of back quotes, every other id is a name.
fn check_id(key: &str, id: &str, faults: &mut Faults) {
    let is_right = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | ' ');
    faults.require(!id.is_empty(), key, "required");
    let right = format!("must be letters, digits, `_`, `-` and spaces, is `{id}`");
    faults.require(id.chars().all(is_right), key, right);
}

impl service::Settings for Settings {
    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn check(&self, faults: &mut Faults) {
        self.api.check(SECTION, self.auth.reach(), faults);
        self.auth.check(AUTH, faults);
        self.check_store(faults);
        let range = Duration::from_millis(10)..=Duration::from_secs(300);
        faults.duration("timeout", self.timeout, range);
        let (bytes, range) = (self.max_answer_bytes, 16 << 20..=1_usize << 40);
        let right = format!("must be {} to {}, is {bytes}", range.start(), range.end());
        faults.require(range.contains(&bytes), "max_answer_bytes", right);
        if let Some(live) = &self.live {
            live.check(LIVE, faults);
        }
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        let order = "GET /data answers with rows in the order of their time and ingest_id";
        Ok(vec![order.to_owned()])
    }

    fn warnings(&self) -> Vec<String> {
        self.postgres.iter().flat_map(Server::warnings).collect()
    }

    fn apis(&self) -> Vec<cloud::Api> {
        match self.store() {
            Ok(Chosen::BigQuery(BigQuerySettings { endpoint, credentials, .. })) => {
                vec![cloud::Api::new("bigquery", endpoint.as_ref(), *credentials)]
            }
            Ok(Chosen::Postgres(_)) | Err(_) => Vec::new(),
        }
    }

    fn memory(&self) -> Vec<Share> {
        let queries = match self.store() {
            Ok(Chosen::BigQuery(bigquery)) => {
                Share::of_count("bigquery.max_queries", bigquery.max_queries, BIGQUERY_BYTES)
            }
            Ok(Chosen::Postgres(server)) => {
                let connections = server.max_connections.unwrap_or(CONNECTIONS);
                Share::of_count("postgres.max_connections", connections, ANSWER_BYTES)
            }
            Err(_) => Share::of_count("postgres.max_connections", CONNECTIONS, ANSWER_BYTES),
        };
        let answers = Share::of_count("max_answer_bytes", self.max_answer_bytes, 1);
        vec![Share::of_process(), queries, answers]
    }

    fn variables() -> Vec<Variable> {
        const PORT: Variable =
            Variable { name: "API_SERVICE_PORT", key: "api.port", kind: VariableKind::Value };
        // A file `.env` for all services may have them, though this one asks BigQuery.
        let kind = VariableKind::ValueUnless("bigquery");
        let server = Server::VARIABLES.map(|variable| Variable { kind, ..variable });
        [&[PORT, bigquery::EMULATOR][..], &server].concat()
    }
}
