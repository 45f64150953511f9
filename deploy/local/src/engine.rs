//! PostgreSQL and query, in place of BigQuery and Cloud Storage.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use e2e::cloud::Cloud;
use e2e::hosted::HostedService;
use e2e::names::TABLE;
use e2e::postgres::{DATABASE, Postgres, USER};
use e2e::reading::Reading;
use e2e::reconcile::Arrived;
use postgres::Postgres as Writer;
use query::Query;
use serde_json::{Map, Value};

use crate::args::Args;
use crate::settings;

/// Folder of the server, in the data folder.
const FOLDER: &str = "postgresql";
/// Rows of a page of query.
const PAGE: usize = 1000;

/// Server, and the services at its sides.
pub(crate) struct Engine {
    pub server: Postgres,
    pub query: HostedService,
    /// `ingest_id`s of rows from before this run.
    known: HashSet<String>,
}

impl Engine {
    /// Starts the server and both services. Returns the one that writes.
    pub(crate) async fn start(
        args: &Args,
        cloud: &Cloud,
        data_dir: &Path,
    ) -> anyhow::Result<(Self, HostedService)> {
        let server = Postgres::start_in(&data_dir.join(FOLDER)).await?;
        let known = match server.count(&format!("SELECT count(to_regclass('{TABLE}'))")).await? {
            0 => HashSet::new(),
            _ => ids(server.rows(&format!("SELECT ingest_id FROM {TABLE}")).await?),
        };
        let mut rows = e2e::settings::postgres(cloud, &server);
        rows.process.http = settings::http(args, 2);
        let mut query = e2e::settings::query(cloud, &server);
        query.process.http = settings::http(args, 3);
        query.api.port = args.query_port;
        let folder = data_dir.join("settings");
        settings::write(&folder, "postgres", &rows)?;
        settings::write(&folder, "query", &query)?;
        // Postgres makes the table that query reads.
        let writer = HostedService::start(Writer::new(rows)).await?;
        let query = HostedService::start(Query::new(query)).await?;
        Ok((Self { server, query, known }, writer))
    }

    /// Returns the URL of query, without a path.
    pub(crate) fn query_url(&self) -> String {
        let report = self.query.hosted.health().report();
        format!("http://{}", report["api"].as_str().unwrap_or_default())
    }

    /// Returns the URL of the server, without the password.
    pub(crate) fn postgres_url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{DATABASE}", self.server.port())
    }

    /// Returns the rows of this run.
    pub(crate) async fn rows(&self) -> anyhow::Result<Vec<Arrived>> {
        let columns = "ingest_id, device_id, location, temperature::text, rest::text";
        let rows = self.server.rows(&format!("SELECT {columns} FROM {TABLE}")).await?;
        let is_new = |row: &&Map<String, Value>| {
            let id = row.get("ingest_id").and_then(Value::as_str);
            id.is_some_and(|id| !self.known.contains(id))
        };
        Ok(rows.iter().filter_map(Value::as_object).filter(is_new).map(Arrived::of_row).collect())
    }

    /// Asks query for all rows of the first device, page by page, and compares them with the table.
    pub(crate) async fn ask(&self) -> anyhow::Result<()> {
        let device = Reading { device: 0, number: 0 }.device_name();
        let sql = format!("SELECT ingest_id FROM {TABLE} WHERE device_id = '{device}'");
        let expected = ids(self.server.rows(&sql).await?);
        let url = format!("{}/data?source_id={device}&limit={PAGE}", self.query_url());
        // A proxy must not be asked for an address of this machine.
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
        let client = client.build().context("build a client")?;
        let (mut answered, mut next) = (Vec::new(), String::new());
        loop {
            let page = client.get(format!("{url}{next}")).send().await?.error_for_status()?;
            let mut page: Value = page.json().await?;
            if let Value::Array(rows) = page["data"].take() {
                answered.extend(rows);
            }
            match page["next"].as_str() {
                Some(token) => next = format!("&next={token}"),
                None => break,
            }
        }
        let count = answered.len();
        let answered = ids(answered);
        if answered.len() != count {
            bail!("GET /data answers with {count} rows of {device}, and some of them twice");
        }
        if answered != expected {
            let expected = expected.len();
            bail!("GET /data answers with {count} rows of {device}, and the table has {expected}");
        }
        Ok(())
    }
}

fn ids(rows: impl IntoIterator<Item = Value>) -> HashSet<String> {
    let id = |row: Value| row["ingest_id"].as_str().map(str::to_owned);
    rows.into_iter().filter_map(id).collect()
}
