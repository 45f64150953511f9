//! The REST API of jobs and queries.

use std::collections::HashMap;

use axum::http::Method;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::load::{Load, LoadedData};
use super::query::{JobRequest, QueryJob, result};
use super::{Job, JobName};
use crate::bigquery::BigQuery;
use crate::bigquery::rows::{Page, Times};
use crate::bigquery::transaction::DryRun;
use crate::status::Status;

/// Default number of jobs in a page.
const PAGE: usize = 50;

/// A call apart from its path.
pub(in crate::bigquery) struct JobCall {
    pub method: Method,
    pub parameters: HashMap<String, String>,
    pub body: Bytes,
}

/// Body of `jobs.insert`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Insert {
    #[serde(default)]
    job_reference: Option<JobResource>,
    configuration: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobResource {
    #[serde(default)]
    job_id: Option<String>,
    #[serde(default)]
    location: Option<String>,
}

/// Body of `jobs.query` apart from the query.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct QueryOptions {
    max_results: Option<usize>,
    location: Option<String>,
    dry_run: bool,
    query_results_format: Option<String>,
    format_options: FormatOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FormatOptions {
    use_int64_timestamp: bool,
    timestamp_output_format: Option<String>,
}

/// Answers a path after `projects/<project>/` that begins with `jobs` or `queries`.
pub(in crate::bigquery) async fn answer(
    bigquery: &BigQuery,
    project: &str,
    path: &[&str],
    call: JobCall,
) -> Result<Value, Status> {
    let faults = &bigquery.faults;
    let name = |id: &str| JobName(project.to_owned(), id.to_owned());
    match (&call.method, path) {
        (&Method::POST, ["queries"]) => {
            faults.around("bigquery.jobs.query", query(bigquery, project, &call)).await
        }
        (&Method::GET, ["queries", id]) => {
            let (name, page) = (name(id), Page::of(&call.parameters));
            let call = bigquery.with(move |catalog| rows_of(catalog.jobs.get(&name)?, &page));
            faults.around("bigquery.jobs.getQueryResults", call).await
        }
        (&Method::POST, ["jobs"]) => {
            let call = insert(bigquery, project, &call.body, None);
            faults.around("bigquery.jobs.insert", call).await
        }
        (&Method::GET, ["jobs"]) => {
            let project = project.to_owned();
            let call = bigquery.with(move |catalog| {
                let is_asked = is_asked(&call.parameters)?;
                let jobs = catalog.jobs.of(&project).filter(|job| is_asked(job));
                Ok(listed(&jobs.collect::<Vec<_>>(), &call.parameters))
            });
            faults.around("bigquery.jobs.list", call).await
        }
        (&Method::GET, ["jobs", id]) => {
            let name = name(id);
            let call = bigquery.with(move |catalog| Ok(catalog.jobs.get(&name)?.show()));
            faults.around("bigquery.jobs.get", call).await
        }
        (&Method::POST, ["jobs", id, "cancel"]) => {
            // All jobs have ended, so there is nothing to cancel.
            let name = name(id);
            let call = bigquery.with(move |catalog| {
                let job = catalog.jobs.get(&name)?.show();
                Ok(json!({ "kind": "bigquery#jobCancelResponse", "job": job }))
            });
            faults.around("bigquery.jobs.cancel", call).await
        }
        (&Method::DELETE, ["jobs", id, "delete"]) => {
            let name = name(id);
            let call = bigquery.with(move |catalog| catalog.jobs.remove(&name));
            faults.around("bigquery.jobs.delete", call).await?;
            Ok(Value::Null)
        }
        (method, path) => {
            let path = path.join("/");
            Err(Status::unimplemented(&format!("{method} /bigquery/v2/projects/_/{path}")))
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(json)
        .map_err(|error| Status::invalid(format!("Invalid JSON payload received: {error}")))
}

fn of_value<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Status> {
    T::deserialize(value).map_err(|error| Status::invalid(format!("Invalid value: {error}")))
}

fn made_up_id() -> String {
    format!("job_{}", uuid::Uuid::new_v4().simple())
}

/// Runs `jobs.query`: a job whose first page is in the answer.
async fn query(bigquery: &BigQuery, project: &str, call: &JobCall) -> Result<Value, Status> {
    let (body, query): (Value, QueryJob) = (parse(&call.body)?, parse(&call.body)?);
    let options: QueryOptions = of_value(&body)?;
    if options.query_results_format.is_some_and(|format| format != "STRUCT_ENCODING") {
        return Err(Status::unimplemented("queryResultsFormat other than STRUCT_ENCODING"));
    }
    if let Some(format) = options.format_options.timestamp_output_format {
        return Err(Status::unimplemented(&format!("timestampOutputFormat {format}")));
    }
    let dry_run = if options.dry_run { DryRun::Yes } else { DryRun::No };
    let asked = JobRequest {
        name: JobName(project.to_owned(), made_up_id()),
        location: options.location.unwrap_or_else(|| "US".into()),
        dry_run,
        configuration: json!({ "query": body }),
    };
    let is_micros = options.format_options.use_int64_timestamp;
    let times = if is_micros { Times::Micros } else { Times::Seconds };
    let page = Page { max_rows: options.max_results, times, ..Page::default() };
    bigquery
        .with(move |catalog| {
            let earlier = catalog.jobs.of_request(&asked.name.0, &asked.configuration["query"]);
            let job = match earlier.cloned() {
                Some(job) => job,
                None => catalog.run_query(&query, asked)?,
            };
            let mut answer = rows_of(&job, &page)?;
            answer["kind"] = "bigquery#queryResponse".into();
            if dry_run == DryRun::Yes {
                answer["schema"] = job.statistics["query"]["schema"].clone();
                answer["jobReference"]["jobId"] = Value::Null;
            }
            Ok(answer)
        })
        .await
}

/// Returns a page of the rows of a query.
fn rows_of(job: &Job, page: &Page) -> Result<Value, Status> {
    let rows = result(job)?;
    let mut answer = json!({
        "kind": "bigquery#getQueryResultsResponse",
        "etag": job.name.1,
        "jobReference": job.reference(),
        "jobComplete": true,
        "cacheHit": false,
        "totalBytesProcessed": "0",
    });
    if let Some(counts) = job.statistics["query"].get("numDmlAffectedRows") {
        answer["numDmlAffectedRows"] = counts.clone();
        answer["dmlStats"] = job.statistics["query"]["dmlStats"].clone();
    }
    if !rows.fields.is_empty() {
        answer["schema"] = json!({ "fields": rows.fields });
        for (key, value) in rows.page(page) {
            answer[key] = value;
        }
    }
    Ok(answer)
}

/// Runs `jobs.insert`. `data` holds the rows of a load that came with the call.
///
/// # Errors
/// Fails for jobs that cannot begin. A job that fails later is a normal answer.
pub(in crate::bigquery) async fn insert(
    bigquery: &BigQuery,
    project: &str,
    body: &[u8],
    data: Option<Bytes>,
) -> Result<Value, Status> {
    let insert: Insert = parse(body)?;
    let given = insert.job_reference.unwrap_or_default();
    let configuration = insert.configuration;
    let asked = JobRequest {
        name: JobName(project.to_owned(), given.job_id.unwrap_or_else(made_up_id)),
        location: given.location.unwrap_or_else(|| "US".into()),
        dry_run: if configuration["dryRun"] == true { DryRun::Yes } else { DryRun::No },
        configuration,
    };
    if asked.configuration.get("query").is_some() {
        let query: QueryJob = of_value(&asked.configuration["query"])?;
        return bigquery.with(move |catalog| Ok(catalog.run_query(&query, asked)?.show())).await;
    }
    if asked.configuration.get("load").is_some() {
        let load: Load = of_value(&asked.configuration["load"])?;
        let data = match data {
            Some(bytes) => LoadedData::Uploaded(bytes),
            None => LoadedData::Objects(load.objects(&bigquery.storage)),
        };
        return bigquery
            .with(move |catalog| Ok(catalog.run_load(&load, data, asked)?.show()))
            .await;
    }
    let kinds = ["copy", "extract"];
    match kinds.into_iter().find(|kind| asked.configuration.get(*kind).is_some()) {
        Some(kind) => Err(Status::unimplemented(&format!("{kind} jobs"))),
        None => Err(Status::invalid("Required parameter is missing: configuration of the job")),
    }
}

/// Returns the condition on jobs that the times in a list's parameters express.
fn is_asked(parameters: &HashMap<String, String>) -> Result<impl Fn(&Job) -> bool, Status> {
    if parameters.contains_key("parentJobId") {
        return Err(Status::unimplemented("parentJobId of bigquery.jobs.list"));
    }
    let millis = |name: &str| {
        let text = parameters.get(name);
        text.map(|text| text.parse::<i128>()).transpose().map_err(|_| {
            Status::invalid(format!("Invalid value for {name}: milliseconds are expected"))
        })
    };
    let (least, most) = (millis("minCreationTime")?, millis("maxCreationTime")?);
    Ok(move |job: &Job| {
        let created = job.started.unix_timestamp_nanos() / 1_000_000;
        least.is_none_or(|least| created >= least) && most.is_none_or(|most| created <= most)
    })
}

/// Returns a page of jobs, newest first.
fn listed(jobs: &[&Job], parameters: &HashMap<String, String>) -> Value {
    let number = |key: &str| parameters.get(key).and_then(|value| value.parse::<usize>().ok());
    let (start, most) = (number("pageToken").unwrap_or(0), number("maxResults").unwrap_or(PAGE));
    // All jobs have ended.
    let is_done =
        parameters.get("stateFilter").is_none_or(|state| state.eq_ignore_ascii_case("done"));
    let count = if is_done { jobs.len() } else { 0 };
    let shown = jobs.iter().take(count).skip(start).take(most).map(|job| {
        let mut shown = job.show();
        shown["state"] = "DONE".into();
        if let Some(error) = shown["status"].get("errorResult").cloned() {
            shown["errorResult"] = error;
        }
        shown
    });
    let mut answer =
        json!({ "kind": "bigquery#jobList", "etag": "", "jobs": shown.collect::<Vec<_>>() });
    if start.saturating_add(most) < count {
        answer["nextPageToken"] = (start + most).to_string().into();
    }
    answer
}
