//! Query jobs: `jobs.insert` and `jobs.query` run them in the same way.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tonic::Code;

use super::{ANONYMOUS, Job, JobName};
use crate::bigquery::catalog::Catalog;
use crate::bigquery::destination::{
    CreateDisposition, Destination, Properties, Reference, WriteDisposition,
};
use crate::bigquery::names::{TableName, reference};
use crate::bigquery::rows::Rows;
use crate::bigquery::sql::{Parameters, lex};
use crate::bigquery::statement::{Outcome, Statement};
use crate::bigquery::transaction::DryRun;
use crate::status::Status;

/// A query, from the configuration of a job or the body of `jobs.query`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::bigquery) struct QueryJob {
    query: String,
    #[serde(default)]
    default_dataset: Option<DefaultDataset>,
    #[serde(default)]
    use_legacy_sql: Option<bool>,
    #[serde(default)]
    query_parameters: Vec<Value>,
    #[serde(default)]
    destination_table: Option<Reference>,
    #[serde(default)]
    write_disposition: Option<WriteDisposition>,
    #[serde(default)]
    create_disposition: Option<CreateDisposition>,
    #[serde(flatten)]
    properties: Properties,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DefaultDataset {
    #[serde(default)]
    project_id: Option<String>,
    dataset_id: String,
}

/// Name and options of a requested job.
#[derive(Debug, Clone)]
pub(in crate::bigquery) struct JobRequest {
    pub name: JobName,
    pub location: String,
    pub dry_run: DryRun,
    /// Configuration as the client sent it.
    pub configuration: Value,
}

impl Catalog {
    /// Runs a query to its end and remembers the job, unless it is a dry run.
    ///
    /// # Errors
    /// Fails for text that is not a query, and for features that this emulator does not support.
    /// Such a job is not created.
    pub(in crate::bigquery) fn run_query(
        &mut self,
        query: &QueryJob,
        mut asked: JobRequest,
    ) -> Result<Job, Status> {
        self.jobs.check_new(&asked.name)?;
        if query.use_legacy_sql == Some(true) {
            return Err(Status::unimplemented("legacy SQL"));
        }
        let started = OffsetDateTime::now_utc();
        let outcome = match self.outcome(query, &asked) {
            Err(status) if matches!(status.code, Code::InvalidArgument | Code::Unimplemented) => {
                return Err(status);
            }
            other => other,
        };
        let anonymous = TableName(asked.name.0.clone(), ANONYMOUS.into(), asked.name.1.clone());
        complete(&mut asked.configuration, query, &anonymous);
        let mut job = Job {
            name: asked.name,
            location: asked.location,
            configuration: asked.configuration,
            started,
            ended: OffsetDateTime::now_utc(),
            statistics: Map::new(),
            error: None,
            warnings: Vec::new(),
            result: None,
        };
        match outcome {
            Ok(outcome) => {
                job.statistics = statistics(&outcome, asked.dry_run);
                job.result = Some(Arc::new(outcome.rows));
            }
            Err(status) if asked.dry_run == DryRun::Yes => return Err(status),
            Err(status) => {
                job.statistics.insert("query".into(), json!({ "totalBytesProcessed": "0" }));
                job.error = Some(status);
            }
        }
        if asked.dry_run == DryRun::No {
            self.jobs.add(job.clone());
        }
        Ok(job)
    }

    fn outcome(&mut self, query: &QueryJob, asked: &JobRequest) -> Result<Outcome, Status> {
        let mut tokens = lex::lex(&query.query)?;
        Parameters::read(&query.query_parameters)?.bind(&query.query, &mut tokens)?;
        let dataset = query.default_dataset.as_ref();
        let statement = Statement {
            query: &query.query,
            tokens: &tokens,
            project: &asked.name.0,
            dataset: dataset.map(|dataset| {
                let project = dataset.project_id.as_deref().unwrap_or(&asked.name.0);
                (project, dataset.dataset_id.as_str())
            }),
        };
        let outcome = self.run(&statement, asked.dry_run)?;
        if let (Some(table), DryRun::No) = (&query.destination_table, asked.dry_run) {
            let destination = Destination {
                table: table.name(&asked.name.0),
                write: query.write_disposition.unwrap_or(WriteDisposition::Empty),
                create: query.create_disposition.unwrap_or_default(),
                resource: query.properties.resource()?,
            };
            self.deliver(&destination, &outcome.rows)?;
        }
        Ok(outcome)
    }
}

/// Adds the fields to a configuration that Google's has after the job.
fn complete(configuration: &mut Value, query: &QueryJob, anonymous: &TableName) {
    configuration["jobType"] = "QUERY".into();
    let inner = &mut configuration["query"];
    inner["useLegacySql"] = false.into();
    let defaults = [("priority", "INTERACTIVE"), ("createDisposition", "CREATE_IF_NEEDED")];
    for (key, value) in defaults {
        if inner[key].is_null() {
            inner[key] = value.into();
        }
    }
    if query.destination_table.is_none() {
        inner["destinationTable"] = reference(anonymous);
        inner["writeDisposition"] = "WRITE_TRUNCATE".into();
    }
}

fn statistics(outcome: &Outcome, dry_run: DryRun) -> Map<String, Value> {
    let mut query = json!({
        "statementType": outcome.statement,
        "totalBytesProcessed": "0",
        "totalBytesBilled": "0",
        "totalSlotMs": "0",
        "billingTier": 0,
        "cacheHit": false,
    });
    if dry_run == DryRun::Yes || !outcome.rows.fields.is_empty() {
        query["schema"] = json!({ "fields": outcome.rows.fields });
    }
    if let Some(counts) = &outcome.counts {
        query["numDmlAffectedRows"] = counts.all().to_string().into();
        query["dmlStats"] = json!({
            "insertedRowCount": counts.inserted.to_string(),
            "updatedRowCount": counts.updated.to_string(),
            "deletedRowCount": counts.deleted.to_string(),
        });
    }
    if let Some((operation, table)) = &outcome.made {
        query["ddlOperationPerformed"] = (*operation).into();
        query["ddlTargetTable"] = reference(table);
    }
    let mut statistics = Map::new();
    statistics.insert("totalBytesProcessed".into(), "0".into());
    statistics.insert("query".into(), query);
    statistics
}

/// Returns the rows of the result of a job.
///
/// # Errors
/// Returns the error of the job, or an error if the rows were dropped.
pub(in crate::bigquery) fn result(job: &Job) -> Result<Arc<Rows>, Status> {
    if let Some(error) = &job.error {
        return Err(error.clone());
    }
    job.result.clone().ok_or_else(|| {
        let text = format!("Not found: the rows of job {} are no longer kept", job.name.1);
        Status::new(Code::NotFound, text)
    })
}
