//! Writes batches of rows to a table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use gcp_bigquery_client::Client;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::table_data_insert_all_request::TableDataInsertAllRequestGzipped;
use gcp_bigquery_client::model::table_data_insert_all_response_insert_errors::TableDataInsertAllResponseInsertErrors as RowErrors;
use google_cloud_bigquery::client::Write;
use google_cloud_bigquery::error::AppendError;
use google_cloud_bigquery::model::{ArrowRecordBatch, ArrowSchema, RowError};
use google_cloud_bigquery::write::DefaultWriter;
use google_cloud_bigquery::write::format::Arrow;
use google_cloud_gax::retry_policy::NeverRetry;
use pipeline::{Error, Join, Recovery, Refusal, Renewable};
use tracing::info;

use crate::batch::{self, Columns, Lines, Schema};
use crate::client::{self, Endpoint};
use crate::column::Column;
use crate::config::Api;
use crate::meaning::{self, Meaning, RowMeaning};
use crate::table::TableName;
use crate::transform::Record;

/// Most bytes of a request, for both APIs: below what the older documents of the Storage Write API
/// allow (10 MB), as does `insertAll`.
pub const MAX_REQUEST_BYTES: usize = 9_000_000;
/// Most rows of a request of `insertAll`.
pub const MAX_INSERT_ALL_ROWS: usize = 50_000;

/// What an append does, for errors.
const APPEND: &str = "append rows";
/// What an insert does, for errors.
const INSERT: &str = "insert rows";

/// Writes rows, and says which of them BigQuery refused.
pub struct Sink {
    columns: Arc<[Column]>,
    table: TableName,
    way: Way,
}

enum Way {
    StorageWrite { schema: Schema, appender: Renewable<Appender> },
    InsertAll(Renewable<Client>),
}

/// A client with its open writers.
struct Appender {
    client: Write,
    idle: Idle,
}

/// Writers that wait for rows: each is a connection, for one request at a time.
#[derive(Default)]
struct Idle(Mutex<Vec<DefaultWriter<Arrow>>>);

impl Idle {
    fn take(&self) -> Option<DefaultWriter<Arrow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, writer: DefaultWriter<Arrow>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
    }
}

/// Rows that gather.
#[derive(Debug)]
pub enum Batch {
    /// For the Storage Write API.
    Columns(Columns),
    /// For `insertAll`.
    Lines(Lines),
}

/// Rows of one request.
#[derive(Debug)]
pub enum Sealed {
    /// For the Storage Write API.
    Arrow(RecordBatch),
    /// For `insertAll`.
    Lines(Lines),
    /// Rows that could not be put together.
    Broken(String),
}

impl Sink {
    /// Writes with the Storage Write API.
    ///
    /// # Errors
    /// `Stop` when the columns have no Arrow schema, or no client can be built.
    pub async fn storage_write(
        endpoint: &Endpoint,
        table: TableName,
        columns: Arc<[Column]>,
    ) -> Result<Self, Error> {
        let schema = Schema::new(&columns);
        let schema = schema.map_err(|error| Recovery::Stop.because("make Arrow schema", error))?;
        let endpoint = endpoint.clone();
        let appender = Renewable::open(move || {
            let endpoint = endpoint.clone();
            Box::pin(async move {
                let client = client::storage_write(&endpoint).await?;
                Ok(Appender { client, idle: Idle::default() })
            })
        });
        let way = Way::StorageWrite { schema, appender: appender.await? };
        Ok(Self { columns, table, way })
    }

    /// Writes with `insertAll`.
    #[must_use]
    pub fn insert_all(client: Renewable<Client>, table: TableName, columns: Arc<[Column]>) -> Self {
        Self { columns, table, way: Way::InsertAll(client) }
    }

    fn refusal(&self, index: usize, detail: &str) -> Refusal {
        let detail = format!("table {}: {detail}", self.table);
        Refusal { index, reason: "row_refused", detail }
    }
}

/// Refuses a row that no request takes; returns its size and the most that one takes.
pub(crate) fn check(record: &Record, api: Api) -> Result<(usize, usize), Error> {
    let size: usize = record.cells.iter().map(batch::size).sum();
    // JSON has names and quotes beside the values, and escapes within them.
    let most = match api {
        Api::StorageWrite => MAX_REQUEST_BYTES - 1_000_000,
        Api::InsertAll => MAX_REQUEST_BYTES / 2,
    };
    if size > most {
        let detail = format!("{size} bytes, a request takes {most}");
        return Err(Recovery::Reject("row_too_large").because("make request", detail));
    }
    Ok((size, most))
}

impl pipeline::Sink for Sink {
    type Record = Record;
    type Key = ();
    type Batch = Batch;
    type Sealed = Sealed;
    type Scratch = ();

    fn scratch(&self) {}

    fn key(&self, _record: &Record) {}

    fn open(&self, (): &()) -> Batch {
        match &self.way {
            Way::StorageWrite { .. } => Batch::Columns(Columns::new(&self.columns)),
            Way::InsertAll(_) => Batch::Lines(Lines::default()),
        }
    }

    fn join(&self, batch: &mut Batch, record: Record, (): &mut ()) -> Result<usize, Join<Record>> {
        let api = match batch {
            Batch::Columns(_) => Api::StorageWrite,
            Batch::Lines(_) => Api::InsertAll,
        };
        let (size, most) = check(&record, api).map_err(Join::Refused)?;
        let (rows, bytes) = match batch {
            Batch::Columns(columns) => (columns.len(), columns.bytes()),
            Batch::Lines(lines) => (lines.len(), lines.bytes()),
        };
        if rows > 0 && (bytes + size > most || rows >= MAX_INSERT_ALL_ROWS) {
            return Err(Join::Full(record));
        }
        match batch {
            Batch::Columns(columns) => {
                columns.push(record.cells);
                Ok(columns.bytes())
            }
            Batch::Lines(lines) => {
                lines.push(&self.columns, &record.cells, &record.insert_id);
                Ok(lines.bytes())
            }
        }
    }

    fn seal(&self, batch: Batch, (): &mut ()) -> Sealed {
        match (batch, &self.way) {
            (Batch::Columns(columns), Way::StorageWrite { schema, .. }) => columns
                .finish(schema)
                .map_or_else(|error| Sealed::Broken(error.to_string()), Sealed::Arrow),
            (Batch::Lines(lines), _) => Sealed::Lines(lines),
            (Batch::Columns(_), Way::InsertAll(_)) => Sealed::Broken("wrong form".into()),
        }
    }

    async fn write(&self, rows: &Sealed, _time_limit: Duration) -> Result<Vec<Refusal>, Error> {
        match (rows, &self.way) {
            (Sealed::Arrow(rows), Way::StorageWrite { schema, appender }) => {
                let appender = appender.lease().await?;
                let appended = self.append(rows, (&appender, schema)).await;
                appender.done();
                appended
            }
            (Sealed::Lines(lines), Way::InsertAll(client)) => {
                let client = client.lease().await?;
                let inserted = self.insert(&client, lines).await;
                client.done();
                inserted
            }
            (Sealed::Broken(why), _) => Err(Recovery::Stop.because("make request", why.as_str())),
            _ => Err(Recovery::Stop.because("make request", "rows of the other API")),
        }
    }

    fn split(&self, rows: &Sealed, at: usize) -> Option<(Sealed, Sealed)> {
        match rows {
            Sealed::Arrow(rows) => {
                let rest = rows.slice(at, rows.num_rows() - at);
                Some((Sealed::Arrow(rows.slice(0, at)), Sealed::Arrow(rest)))
            }
            Sealed::Lines(lines) => {
                let (first, second) = lines.split(at);
                Some((Sealed::Lines(first), Sealed::Lines(second)))
            }
            Sealed::Broken(_) => None,
        }
    }
}

impl Sink {
    /// Appends rows. Where some are refused nothing was written, so the others are sent again
    /// without them, until all that remain are in the table.
    async fn append(
        &self,
        rows: &RecordBatch,
        (Appender { client, idle }, schema): (&Appender, &Schema),
    ) -> Result<Vec<Refusal>, Error> {
        let broken = |error| Recovery::Stop.because("make request", error);
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        loop {
            // The places that the rows which are left have in the batch.
            let left: Vec<usize> =
                (0..rows.num_rows()).filter(|index| !refused.contains_key(index)).collect();
            if left.is_empty() {
                break;
            }
            let remaining = batch::without(rows, |index| refused.contains_key(&index));
            let request = schema.encode(&remaining.map_err(broken)?).map_err(broken)?;
            let request = ArrowRecordBatch::new().set_serialized_record_batch(request);
            let writer = match idle.take() {
                Some(writer) => writer,
                None => self.open_writer(client, schema).await?,
            };
            let Answer::Refused(errors) = send(writer, request, idle).await? else { break };
            if !note(&mut refused, &left, &errors) {
                let why = "row errors that name none of the rows";
                return Err(Recovery::Reject("request_refused").because(APPEND, why));
            }
        }
        Ok(refused.iter().map(|(index, why)| self.refusal(*index, why)).collect())
    }

    async fn open_writer(
        &self,
        client: &Write,
        schema: &Schema,
    ) -> Result<DefaultWriter<Arrow>, Error> {
        let said = ArrowSchema::new().set_serialized_schema(schema.message().to_vec());
        let open = client
            .open_default_stream(self.table.resource())
            // The pipeline tries again, with the same rows.
            .with_retry_policy(NeverRetry)
            .build_arrow(said);
        open.await.map_err(|error| {
            Recovery::Retry.because("open write stream", service::credentials::explain(&error))
        })
    }

    async fn insert(&self, client: &Client, lines: &Lines) -> Result<Vec<Refusal>, Error> {
        let body = lines.body().map_err(|error| Recovery::Retry.because("compress", error))?;
        let TableName { project, dataset, table } = &self.table;
        let request = TableDataInsertAllRequestGzipped::new(body);
        let inserted = client.tabledata().insert_all_gzipped(project, dataset, table, request);
        let answer = match inserted.await {
            Ok(answer) => answer,
            Err(BQError::ResponseError { error }) => {
                let reason = error.error.errors.first().and_then(|error| error.get("reason"));
                let reason = reason.map(String::as_str).unwrap_or_default();
                let meaning = meaning::of_insert_all(error.error.code, reason);
                let why = format!("{} ({reason})", error.error.message);
                return meaning.because(INSERT, why).map_or(Ok(Vec::new()), Err);
            }
            Err(error) => return Err(Recovery::Retry.because(INSERT, error.to_string())),
        };
        self.refused_rows(answer.insert_errors.unwrap_or_default(), lines.len())
    }

    /// The rows that an answer of `insertAll` refuses; an error if one of its errors does not.
    fn refused_rows(&self, errors: Vec<RowErrors>, rows: usize) -> Result<Vec<Refusal>, Error> {
        let mut refusals = Vec::new();
        for row in errors {
            let index = row.index.and_then(|index| usize::try_from(index).ok());
            let index = index.filter(|index| *index < rows);
            for error in row.errors.unwrap_or_default() {
                let (reason, location, message) = (
                    error.reason.unwrap_or_default(),
                    error.location.unwrap_or_default(),
                    error.message.unwrap_or_default(),
                );
                let why = format!("column {location}: {message}");
                match (meaning::of_inserted_row(&reason, &message), index) {
                    (RowMeaning::Refused, Some(index)) => {
                        refusals.push(self.refusal(index, &why));
                    }
                    // What was written is written again, and known by its insertId.
                    _ => return Err(Recovery::Retry.because(INSERT, format!("{reason}: {why}"))),
                }
            }
        }
        refusals.dedup_by_key(|refusal| refusal.index);
        Ok(refusals)
    }
}

/// What became of the rows of an append.
enum Answer {
    /// They are in the table.
    Written,
    /// None of them is, because of these.
    Refused(Vec<RowError>),
}

/// Sends one request.
///
/// A writer that failed, or that told of a new schema, is not used again: the next one sees it.
async fn send(
    writer: DefaultWriter<Arrow>,
    request: ArrowRecordBatch,
    idle: &Idle,
) -> Result<Answer, Error> {
    let error = match writer.append(request).send().await {
        Ok(answer) => {
            match answer.updated_schema {
                Some(schema) => info!(columns = schema.fields.len(), "the table has changed"),
                None => idle.give_back(writer),
            }
            return Ok(Answer::Written);
        }
        Err(AppendError::RowErrors { row_errors, .. }) => {
            idle.give_back(writer);
            return Ok(Answer::Refused(row_errors));
        }
        Err(error) => error,
    };
    let status = match &error {
        AppendError::Rpc { source, .. } => source.status(),
        _ => None,
    };
    let meaning =
        status.map_or(Meaning::Retry, |status| meaning::of_append(status.code, &status.message));
    meaning.because(APPEND, error).map_or(Ok(Answer::Written), Err)
}

/// Notes the rows that an answer refuses; false if it names none of those that were sent.
fn note(refused: &mut BTreeMap<usize, String>, left: &[usize], errors: &[RowError]) -> bool {
    let before = refused.len();
    for error in errors {
        let sent = usize::try_from(error.index).ok().and_then(|index| left.get(index));
        if let Some(index) = sent {
            refused.insert(*index, error.message.clone());
        }
    }
    refused.len() > before
}

#[cfg(test)]
mod tests;
