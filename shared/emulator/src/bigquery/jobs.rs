//! Jobs: their requests, their outcome, and the rows of results.

pub(super) mod csv;
pub(super) mod detect;
pub(super) mod load;
pub(super) mod query;
pub(super) mod rest;
pub(super) mod upload;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tonic::Code;

use super::error::reason;
use super::names::TableName;
use super::rows::Rows;
use crate::status::Status;

/// Most jobs that are remembered.
const MAX_JOBS: usize = 1_000;
/// Most rows that the results of all jobs except the last one may have together.
const MAX_KEPT_ROWS: usize = 200_000;
/// Time for which the id of a request is remembered.
const REQUEST_MEMORY: time::Duration = time::Duration::minutes(15);
/// Dataset of results without a destination table.
pub(super) const ANONYMOUS: &str = "_results";

/// All jobs since the start.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: BTreeMap<JobName, Job>,
    order: VecDeque<JobName>,
}

/// Project and id of a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobName(pub String, pub String);

/// A finished job. Every job here runs to its end inside the request.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub name: JobName,
    pub location: String,
    /// Configuration of the request, completed with defaults.
    pub configuration: Value,
    pub started: OffsetDateTime,
    pub ended: OffsetDateTime,
    /// Statistics for its type: `query` or `load`.
    pub statistics: Map<String, Value>,
    pub error: Option<Status>,
    /// Errors that did not fail the job, such as bad rows of a load.
    pub warnings: Vec<Value>,
    /// Rows of a query; `None` if they were dropped to limit memory.
    pub result: Option<Arc<Rows>>,
}

impl Jobs {
    pub(super) fn get(&self, name: &JobName) -> Result<&Job, Status> {
        self.all.get(name).ok_or_else(|| {
            Status::new(Code::NotFound, format!("Not found: Job {}:{}", name.0, name.1))
        })
    }

    /// Checks the name of a new job.
    ///
    /// # Errors
    /// Fails if the name is invalid, or if a job with it exists.
    pub(super) fn check_new(&self, name: &JobName) -> Result<(), Status> {
        let is_valid = name.1.len() <= 1024
            && name.1.chars().all(|char| char.is_ascii_alphanumeric() || "_-".contains(char));
        if !is_valid {
            return Err(Status::invalid(format!("Invalid job ID \"{}\".", name.1)));
        }
        if self.all.contains_key(name) {
            let text = format!("Already Exists: Job {}:US.{}", name.0, name.1);
            return Err(Status::new(Code::AlreadyExists, text));
        }
        Ok(())
    }

    /// Remembers a job, and forgets old jobs and results above the limits.
    pub(super) fn add(&mut self, job: Job) {
        self.order.push_back(job.name.clone());
        self.all.insert(job.name.clone(), job);
        if self.order.len() > MAX_JOBS
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        let mut kept = 0;
        for name in self.order.iter().rev().skip(1) {
            let Some(job) = self.all.get_mut(name) else { continue };
            kept += job.result.as_ref().map_or(0, |result| result.rows.len());
            if kept > MAX_KEPT_ROWS {
                job.result = None;
            }
        }
    }

    pub(super) fn remove(&mut self, name: &JobName) -> Result<(), Status> {
        self.get(name)?;
        self.all.remove(name);
        self.order.retain(|one| one != name);
        Ok(())
    }

    /// Returns the jobs of a project, newest first.
    pub(super) fn of(&self, project: &str) -> impl Iterator<Item = &Job> {
        let names = self.order.iter().rev().filter(move |name| name.0 == project);
        names.filter_map(|name| self.all.get(name))
    }

    /// Finds the job of an earlier, equal request, for clients that repeat a request.
    ///
    /// The request id alone is not enough: the query and its options must be equal, too. See
    /// <https://cloud.google.com/bigquery/docs/reference/rest/v2/jobs/query>.
    pub(super) fn of_request(&self, project: &str, request: &Value) -> Option<&Job> {
        const SAME: [&str; 5] =
            ["requestId", "query", "queryParameters", "defaultDataset", "dryRun"];
        request.get("requestId")?.as_str()?;
        let recent = OffsetDateTime::now_utc() - REQUEST_MEMORY;
        self.of(project).take_while(|job| job.started >= recent).find(|job| {
            let earlier = &job.configuration["query"];
            let is_same = SAME.iter().all(|key| earlier.get(*key) == request.get(*key));
            // A job without rows has failed, or its query can be run again.
            is_same && job.result.is_some()
        })
    }

    /// Returns the rows behind the name of a temporary result table.
    pub(super) fn result_of(&self, table: &TableName) -> Option<Arc<Rows>> {
        if table.1 != ANONYMOUS {
            return None;
        }
        let job = self.all.get(&JobName(table.0.clone(), table.2.clone()))?;
        job.result.clone()
    }
}

impl Job {
    pub(super) fn reference(&self) -> Value {
        json!({ "projectId": self.name.0, "jobId": self.name.1, "location": self.location })
    }

    /// Returns the resource of the REST API.
    pub(super) fn show(&self) -> Value {
        let JobName(project, id) = &self.name;
        let millis = |time: OffsetDateTime| (time.unix_timestamp_nanos() / 1_000_000).to_string();
        let mut statistics = self.statistics.clone();
        statistics.insert("creationTime".into(), millis(self.started).into());
        statistics.insert("startTime".into(), millis(self.started).into());
        statistics.insert("endTime".into(), millis(self.ended).into());
        let duration = (self.ended - self.started).whole_milliseconds();
        statistics.insert("finalExecutionDurationMs".into(), duration.to_string().into());
        let mut status = json!({ "state": "DONE" });
        let mut errors = self.warnings.clone();
        if let Some(error) = &self.error {
            let fault = fault(error);
            errors.insert(0, fault.clone());
            status["errorResult"] = fault;
        }
        if !errors.is_empty() {
            status["errors"] = errors.into();
        }
        json!({
            "kind": "bigquery#job",
            "etag": id,
            "id": format!("{project}:{}.{id}", self.location),
            "selfLink": format!("/bigquery/v2/projects/{project}/jobs/{id}"),
            "user_email": "nobody@localhost",
            "jobReference": self.reference(),
            "configuration": self.configuration,
            "statistics": statistics,
            "status": status,
        })
    }
}

/// Returns an error in the form that a job shows.
pub(super) fn fault(status: &Status) -> Value {
    let reason = reason(status);
    let mut fault = json!({ "reason": reason, "message": status.message });
    if reason == "invalidQuery" {
        fault["location"] = "query".into();
    }
    fault
}
