//! Queries over the REST API.

use reqwest::Method;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::{Failure, RestApi, encode};

/// Answer of a query, or a later page of its rows.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAnswer {
    /// True if the query has ended. Without it, there are no rows yet.
    pub job_complete: bool,
    /// Job of the query. A dry run has none.
    pub job_reference: JobReference,
    /// Columns of the rows, as the API describes them.
    pub schema: Value,
    /// Rows, each with its cells. They are not read yet, because that takes several times the memory.
    pub rows: Vec<Box<RawValue>>,
    /// Token of the next page, if there are more rows.
    pub page_token: Option<String>,
}

/// Name of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobReference {
    /// Id in the project. Empty if there is no job, as for a dry run.
    #[serde(deserialize_with = "or_empty")]
    pub job_id: String,
    /// Location, such as `EU`. Outside of the US and the EU a call must name it.
    #[serde(deserialize_with = "or_empty")]
    pub location: String,
}

impl RestApi {
    /// Runs a query: `request` is the body of `jobs.query`. TIMESTAMP values come as it asks.
    ///
    /// # Errors
    /// BigQuery refuses the query, or does not answer.
    pub async fn query(&self, project: &str, request: &Value) -> Result<QueryAnswer, Failure> {
        let path = format!("projects/{}/queries", encode(project));
        let body = self.send(Method::POST, &path, |builder| builder.json(request)).await?;
        read(&body)
    }

    /// Returns a page of the rows of a query, with TIMESTAMP values in whole microseconds. Waits
    /// `timeout_millis` at most for the end of the query.
    ///
    /// # Errors
    /// The query failed, or BigQuery does not answer.
    pub async fn query_results(
        &self,
        project: &str,
        job: &JobReference,
        page_token: Option<&str>,
        timeout_millis: u64,
    ) -> Result<QueryAnswer, Failure> {
        let JobReference { job_id, location } = job;
        let mut path = format!(
            "projects/{}/queries/{}?location={}&timeoutMs={timeout_millis}\
             &formatOptions.useInt64Timestamp=true",
            encode(project),
            encode(job_id),
            encode(location)
        );
        if let Some(token) = page_token {
            path = format!("{path}&pageToken={}", encode(token));
        }
        let body = self.send(Method::GET, &path, |builder| builder).await?;
        read(&body)
    }

    /// Asks BigQuery to end a job. The job may end a little later.
    ///
    /// # Errors
    /// There is no such job, or BigQuery does not answer.
    pub async fn cancel(&self, project: &str, job: &JobReference) -> Result<(), Failure> {
        let JobReference { job_id, location } = job;
        let (project, id) = (encode(project), encode(job_id));
        let path = format!("projects/{project}/jobs/{id}/cancel?location={}", encode(location));
        self.send(Method::POST, &path, |builder| builder.body("")).await.map(drop)
    }
}

fn read(body: &[u8]) -> Result<QueryAnswer, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Unanswered(error.to_string()))
}

fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_has_no_job() {
        let body = br#"{"jobComplete": true, "jobReference": {"projectId": "p", "jobId": null}}"#;

        let answer = read(body).unwrap();

        assert_eq!((answer.job_complete, answer.job_reference), (true, JobReference::default()));
    }
}
