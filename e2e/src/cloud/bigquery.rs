//! Runs queries and load jobs in BigQuery, and reads the resources of tables.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Cloud;

/// Time that one request waits for the end of a query.
const WAIT_MILLIS: u32 = 60_000;
/// Time between two looks at a load job.
const POLL: Duration = Duration::from_millis(500);

impl Cloud {
    /// Runs a query or another statement. Returns the cells of each row, in the order of the
    /// columns.
    ///
    /// # Errors
    /// Fails when BigQuery refuses.
    pub async fn query(&self, sql: &str) -> anyhow::Result<Vec<Vec<Value>>> {
        let request = json!({ "query": sql, "useLegacySql": false, "timeoutMs": WAIT_MILLIS });
        let mut answer = self.ask(Method::POST, "queries", Some(request)).await?;
        while answer["jobComplete"] != true {
            let path = format!("queries/{}", job_path(&answer["jobReference"])?);
            let path = format!("{path}&timeoutMs={WAIT_MILLIS}");
            answer = self.ask(Method::GET, &path, None).await?;
        }
        let rows = answer["rows"].as_array().into_iter().flatten();
        let cells = |row: &Value| {
            row["f"].as_array().into_iter().flatten().map(|cell| cell["v"].clone()).collect()
        };
        Ok(rows.map(cells).collect())
    }

    /// Returns the bytes that a query would process. The embedded cloud always says 0.
    ///
    /// # Errors
    /// Fails when BigQuery refuses.
    pub async fn dry_run(&self, sql: &str) -> anyhow::Result<u64> {
        let request = json!({ "query": sql, "useLegacySql": false, "dryRun": true });
        let answer = self.ask(Method::POST, "queries", Some(request)).await?;
        let bytes = answer["totalBytesProcessed"].as_str().context("read totalBytesProcessed")?;
        bytes.parse().context("read totalBytesProcessed")
    }

    /// Runs a load job with this configuration, and waits for its end.
    ///
    /// # Errors
    /// Fails when BigQuery refuses the job, or the job fails.
    pub async fn load(&self, configuration: Value) -> anyhow::Result<()> {
        let request = json!({ "configuration": { "load": configuration } });
        let mut job = self.ask(Method::POST, "jobs", Some(request)).await?;
        while job["status"]["state"] != "DONE" {
            sleep(POLL).await;
            let path = format!("jobs/{}", job_path(&job["jobReference"])?);
            job = self.ask(Method::GET, &path, None).await?;
        }
        match &job["status"]["errorResult"] {
            Value::Null => Ok(()),
            _ => bail!("load: {}", job["status"]),
        }
    }

    /// Returns the resource of a table or a view.
    ///
    /// # Errors
    /// Fails when it does not exist, or BigQuery refuses.
    pub async fn table(&self, dataset: &str, table: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, &format!("datasets/{dataset}/tables/{table}"), None).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}/bigquery/v2/projects/{}/{path}", self.urls.bigquery, self.project);
        let answer = self.call(method, url, body).await?;
        serde_json::from_slice(&answer).context("read the answer of BigQuery")
    }
}

/// Returns the path of a job, with the location that jobs outside of the US and the EU need.
fn job_path(reference: &Value) -> anyhow::Result<String> {
    let id = reference["jobId"].as_str().context("read the id of the job")?;
    let location = reference["location"].as_str().unwrap_or("US");
    Ok(format!("{id}?location={location}"))
}
