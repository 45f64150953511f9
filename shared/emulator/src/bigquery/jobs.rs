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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, query: Value) -> Job {
        Job {
            name: JobName("p".into(), id.into()),
            location: "US".into(),
            configuration: json!({ "query": query }),
            started: OffsetDateTime::now_utc(),
            ended: OffsetDateTime::now_utc(),
            statistics: Map::new(),
            error: None,
            warnings: Vec::new(),
            result: Some(Arc::default()),
        }
    }

    fn with_rows(id: &str, rows: usize) -> Job {
        let result = Rows { fields: Vec::new(), rows: vec![Vec::new(); rows] };
        Job { result: Some(Arc::new(result)), ..job(id, Value::Null) }
    }

    #[test]
    fn a_repeated_request_finds_its_job_and_a_different_one_does_not() {
        let request = json!({ "requestId": "r", "query": "SELECT 1", "dryRun": false });
        let mut jobs = Jobs::default();
        let old = OffsetDateTime::now_utc() - REQUEST_MEMORY - time::Duration::SECOND;
        jobs.add(Job { started: old, ..job("old", json!({ "requestId": "o" })) });
        jobs.add(Job { result: None, ..job("failed", json!({ "requestId": "f" })) });
        jobs.add(job("right", request.clone()));
        let found = |project: &str, request: &Value| {
            jobs.of_request(project, request).map(|job| job.name.1.as_str())
        };

        assert_eq!(found("p", &request), Some("right"));
        assert_eq!(found("other", &request), None);
        for (key, value) in [("query", json!("SELECT 2")), ("dryRun", json!(true))] {
            let mut other = request.clone();
            other[key] = value;
            assert_eq!(found("p", &other), None, "{key}");
        }
        assert_eq!(found("p", &json!({ "requestId": "o" })), None);
        assert_eq!(found("p", &json!({ "requestId": "f" })), None);
        assert_eq!(found("p", &json!({ "query": "SELECT 1" })), None);
    }

    #[test]
    fn the_id_of_a_job_is_valid_and_new() {
        let mut jobs = Jobs::default();
        jobs.add(job("a", Value::Null));
        let code =
            |id: &str| jobs.check_new(&JobName("p".into(), id.into())).err().map(|one| one.code);

        assert_eq!(code("a"), Some(Code::AlreadyExists));
        assert_eq!(code("a-B_1"), None);
        for id in ["a b", "ä", "a.b", &"x".repeat(1025)] {
            assert_eq!(code(id), Some(Code::InvalidArgument), "{id}");
        }
    }

    #[test]
    fn old_results_make_room_for_new_ones_and_the_last_stays() {
        let mut jobs = Jobs::default();
        jobs.add(with_rows("one", 1));
        jobs.add(with_rows("two", MAX_KEPT_ROWS));

        let table = |id: &str| TableName("p".into(), ANONYMOUS.into(), id.into());
        let before =
            (jobs.result_of(&table("one")).is_some(), jobs.result_of(&table("two")).is_some());
        jobs.add(with_rows("three", MAX_KEPT_ROWS + 1));

        let has = |id: &str| jobs.result_of(&table(id)).is_some();
        assert_eq!(before, (true, true));
        assert_eq!((has("one"), has("two"), has("three")), (false, true, true));
        let other = TableName("p".into(), "d".into(), "three".into());
        assert!(jobs.result_of(&other).is_none());
    }

    #[test]
    fn old_jobs_are_forgotten() {
        let mut jobs = Jobs::default();
        for id in 0..=MAX_JOBS {
            jobs.add(job(&id.to_string(), Value::Null));
        }

        let get = |id: usize| jobs.get(&JobName("p".into(), id.to_string())).is_ok();
        assert_eq!((get(0), get(1), get(MAX_JOBS)), (false, true, true));
        let newest = jobs.of("p").next().map(|job| job.name.1.clone());
        assert_eq!(newest, Some(MAX_JOBS.to_string()));
    }

    #[test]
    fn a_failed_job_shows_its_error_before_its_warnings() {
        let error = Status { reason: Some("invalidQuery".into()), ..Status::invalid("wrong") };
        let warnings = vec![json!({ "reason": "invalid" })];

        let shown = Job { error: Some(error), warnings, ..job("a", Value::Null) }.show();

        let fault = json!({ "reason": "invalidQuery", "message": "wrong", "location": "query" });
        let expected = json!({ "state": "DONE", "errorResult": fault,
                               "errors": [fault, { "reason": "invalid" }] });
        assert_eq!((&shown["status"], &shown["id"]), (&expected, &json!("p:US.a")));
        assert_eq!(job("a", Value::Null).show()["status"], json!({ "state": "DONE" }));
    }
}
