//! Table of BigQuery. Values are query parameters, and never a part of the query's text.

mod json;
mod moment;
mod row;
mod statement;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bigquery::{JobReference, QueryAnswer, RestApi, TableName};
use serde_json::{Value, json};
use service::renewable::Renewable;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

use crate::config::{BigQuerySettings, TableSettings};
use crate::parameters::Parameters;
use crate::store::{Failure, Page, PageBuilder, Store};
use row::RowShape;
use statement::{Statement, statement};

/// Longest wait for the end of a query in one call, which BigQuery allows:
/// <https://cloud.google.com/bigquery/docs/reference/rest/v2/jobs/query>.
const MAX_WAIT: Duration = Duration::from_secs(200);

/// Table of BigQuery, as bigqueries writes it.
#[derive(Clone)]
pub struct BigQueryTable {
    api: Renewable<RestApi>,
    table: TableName,
    source_column: String,
    limits: QueryLimits,
    /// Queries that may still start.
    free: Arc<Semaphore>,
}

/// Limits of each query.
#[derive(Debug, Clone)]
pub struct QueryLimits {
    /// Longest duration.
    pub timeout: Duration,
    /// Most bytes that it may be billed for.
    pub max_bytes_billed: u64,
    /// Location of its job.
    pub location: Option<String>,
}

impl BigQueryTable {
    /// Creates the table. Nothing is sent yet.
    #[must_use]
    pub fn new(
        api: Renewable<RestApi>,
        project: &str,
        settings: &BigQuerySettings,
        table: &TableSettings,
        timeout: Duration,
    ) -> Self {
        let (dataset, name) = (settings.dataset.clone(), table.name.clone());
        Self {
            api,
            table: TableName { project: project.to_owned(), dataset, table: name },
            source_column: table.source_column.clone(),
            limits: QueryLimits {
                timeout,
                max_bytes_billed: settings.max_bytes_billed,
                location: settings.location.clone(),
            },
            free: Arc::new(Semaphore::new(settings.max_queries)),
        }
    }

    /// Returns the body of `jobs.query`. BigQuery ends the job after the time limit by itself, even if
    /// nobody waits for it any more.
    fn request(&self, asked: &Parameters, wait: Duration) -> Value {
        let Statement { sql, parameters } = statement(&self.table, &self.source_column, asked);
        let mut request = json!({
            "query": sql,
            "queryParameters": parameters,
            "parameterMode": "NAMED",
            "useLegacySql": false,
            "timeoutMs": millis(wait),
            "jobTimeoutMs": millis(self.limits.timeout).to_string(),
            "maxResults": asked.limit.saturating_add(1).max(0),
            "formatOptions": { "useInt64Timestamp": true },
        });
        if let Some(location) = &self.limits.location {
            request["location"] = location.as_str().into();
        }
        request
    }

    /// Runs a query, and waits for its first rows. A query that takes too long is cancelled.
    async fn run(&self, api: &RestApi, asked: &Parameters) -> Result<QueryAnswer, Failure> {
        // The rest of the time is for the call that cancels the query.
        let deadline = Instant::now() + self.limits.timeout / 10 * 9;
        let left = || deadline.saturating_duration_since(Instant::now()).min(MAX_WAIT);
        let project = &self.table.project;
        let mut request = self.request(asked, left());
        // A dry run has no such limit: it costs nothing, and looks at the whole table.
        request["maximumBytesBilled"] = self.limits.max_bytes_billed.to_string().into();
        let mut answer = api.query(project, &request).await.map_err(|error| failure(&error))?;
        while !answer.job_complete {
            let job = answer.job_reference;
            if left().is_zero() {
                self.cancel(api, &job).await;
                return Err(Failure::Slow);
            }
            let waited = api.query_results(project, &job, None, millis(left())).await;
            answer = waited.map_err(|error| failure(&error))?;
            answer.job_reference = job;
        }
        Ok(answer)
    }

    async fn cancel(&self, api: &RestApi, job: &JobReference) {
        if let Err(why) = api.cancel(&self.table.project, job).await {
            // Its own time limit ends the job in any case.
            debug!(%why, job = job.job_id, "a slow query was not cancelled");
        }
    }

    async fn read(&self, api: &RestApi, asked: &Parameters) -> Result<Page, Failure> {
        let mut answer = self.run(api, asked).await?;
        let job = answer.job_reference;
        let shape = RowShape::of(&answer.schema)?;
        let mut page = PageBuilder::new(asked);
        loop {
            for row in answer.rows {
                let (text, place) = shape.read(&row)?;
                if let ControlFlow::Break(_) = page.push(text, place) {
                    return Ok(page.finish());
                }
            }
            let Some(token) = answer.page_token else { return Ok(page.finish()) };
            let wait = millis(self.limits.timeout.min(MAX_WAIT));
            let more = api.query_results(&self.table.project, &job, Some(&token), wait).await;
            answer = more.map_err(|error| failure(&error))?;
        }
    }
}

impl Store for BigQueryTable {
    async fn page(&self, asked: &Parameters) -> Result<Page, Failure> {
        let away = |error: &dyn std::fmt::Display| Failure::Away(format!("{error:#}"));
        let _running = self.free.acquire().await.map_err(|error| away(&error))?;
        let api = self.api.lease().await.map_err(|error| away(&error))?;
        let page = self.read(&api, asked).await;
        api.done();
        page
    }

    async fn check(&self) -> Result<(), Failure> {
        // A dry run looks at names, types and rights, reads no rows and costs nothing.
        let none = Parameters { limit: -1, source_id: Some(String::new()), ..<_>::default() };
        let mut request = self.request(&none, self.limits.timeout.min(MAX_WAIT));
        request["dryRun"] = true.into();
        let api = self.api.lease().await;
        let api = api.map_err(|error| Failure::Away(format!("{error:#}")))?;
        let answer = api.query(&self.table.project, &request).await;
        api.done();
        answer.map(drop).map_err(|error| failure(&error))
    }

    fn name(&self) -> String {
        self.table.to_string()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the failure of a call: <https://cloud.google.com/bigquery/docs/error-messages>.
fn failure(error: &bigquery::Failure) -> Failure {
    let why = error.to_string();
    let bigquery::Failure::Refused(refused) = error else { return Failure::Away(why) };
    match (refused.status, refused.reason.as_str()) {
        // The job was cancelled, or reached its time limit.
        (_, "stopped" | "timeout") => Failure::Slow,
        (_, "bytesBilledLimitExceeded") => Failure::Costly,
        (
            _,
            "quotaExceeded" | "rateLimitExceeded" | "jobRateLimitExceeded" | "resourcesExceeded",
        ) => Failure::Busy(why),
        (404, _) => Failure::Missing(why),
        (403, "accessDenied") => Failure::Denied(why),
        (400, "invalidQuery") => Failure::Differs(why),
        _ => Failure::Away(why),
    }
}

#[cfg(test)]
mod tests;
