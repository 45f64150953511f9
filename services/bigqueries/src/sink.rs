//! Writes batches of rows to a table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use google_cloud_bigquery::client::Write;
use google_cloud_bigquery::error::AppendError;
use google_cloud_bigquery::model::{ArrowRecordBatch, ArrowSchema, RowError};
use google_cloud_bigquery::write::DefaultWriter;
use google_cloud_bigquery::write::format::Arrow;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use pipeline::{Error, Join, Recovery, Refusal, Renewable};
use serde_json::Value;
use tracing::info;

use crate::api::{self, Failure};
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
    InsertAll(Renewable<api::Api>),
}

/// A client with its open writers.
struct Appender {
    client: Write,
    idle: Idle,
}

/// A connection, for one request at a time.
struct Writer {
    writer: DefaultWriter<Arrow>,
    /// True if its last request was answered. It was idle since.
    has_answered: bool,
}

/// Writers that wait for rows.
#[derive(Default)]
struct Idle(Mutex<Vec<Writer>>);

impl Idle {
    fn take(&self) -> Option<Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, writer: DefaultWriter<Arrow>, has_answered: bool) {
        let writer = Writer { writer, has_answered };
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
    Lines(Insertion),
    /// Rows that could not be put together.
    Broken(String),
}

/// Rows for `insertAll`, of which earlier attempts may have settled some.
#[derive(Debug)]
pub struct Insertion {
    lines: Lines,
    /// By the place of the row: nothing where it was written, else why it was refused.
    settled: Mutex<BTreeMap<usize, Option<String>>>,
}

impl Insertion {
    fn new(lines: Lines) -> Self {
        Self { lines, settled: Mutex::default() }
    }

    fn settled(&self) -> MutexGuard<'_, BTreeMap<usize, Option<String>>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The places of the rows that have to be sent.
    fn left(&self) -> Vec<usize> {
        let settled = self.settled();
        (0..self.lines.len()).filter(|row| !settled.contains_key(row)).collect()
    }

    /// Takes note of an answer: the errors of rows among those that were sent. All others are written.
    ///
    /// Returns why some have to be sent again.
    fn note(&self, sent: &[usize], errors: &[Value]) -> Option<String> {
        let mut outcomes: BTreeMap<usize, Option<String>> =
            sent.iter().map(|row| (*row, None)).collect();
        let mut again = None;
        for error in errors {
            let place = error["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let Some(row) = place.and_then(|place| sent.get(place)) else {
                return Some(format!("an error that names none of the rows: {error}"));
            };
            let errors = error["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
            if errors.is_empty() {
                outcomes.remove(row);
                again.get_or_insert("a row without a reason".into());
            }
            for error in errors {
                let [reason, location, message] = ["reason", "location", "message"]
                    .map(|member| error[member].as_str().unwrap_or_default());
                let why = format!("column {location}: {message}");
                match meaning::of_inserted_row(reason, message) {
                    RowMeaning::Refused => {
                        outcomes.entry(*row).and_modify(|outcome| *outcome = Some(why));
                    }
                    RowMeaning::Retry => {
                        outcomes.remove(row);
                        again.get_or_insert(format!("{reason}: {why}"));
                    }
                }
            }
        }
        self.settled().extend(outcomes);
        again
    }

    fn split(&self, at: usize) -> (Self, Self) {
        let (first, second) = self.lines.split(at);
        let mut before = self.settled().clone();
        let after = before.split_off(&at).into_iter().map(|(row, why)| (row - at, why)).collect();
        let part = |lines, settled| Self { lines, settled: Mutex::new(settled) };
        (part(first, before), part(second, after))
    }
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
    pub fn insert_all(api: Renewable<api::Api>, table: TableName, columns: Arc<[Column]>) -> Self {
        Self { columns, table, way: Way::InsertAll(api) }
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
            (Batch::Lines(lines), _) => Sealed::Lines(Insertion::new(lines)),
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
            (Sealed::Lines(rows), Way::InsertAll(api)) => {
                let api = api.lease().await?;
                let inserted = self.insert(&api, rows).await;
                api.done();
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
            Sealed::Lines(rows) => {
                let (first, second) = rows.split(at);
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

    async fn open_writer(&self, client: &Write, schema: &Schema) -> Result<Writer, Error> {
        let said = ArrowSchema::new().set_serialized_schema(schema.message().to_vec());
        let open = client
            .open_default_stream(self.table.resource())
            // The pipeline tries again, with the same rows.
            .with_retry_policy(NeverRetry)
            .build_arrow(said);
        let writer = open.await.map_err(|error| {
            Recovery::Retry.because("open write stream", service::credentials::explain(&error))
        });
        Ok(Writer { writer: writer?, has_answered: false })
    }

    /// Inserts what is left of the rows.
    async fn insert(&self, api: &api::Api, rows: &Insertion) -> Result<Vec<Refusal>, Error> {
        let left = rows.left();
        if !left.is_empty() {
            let body = rows.lines.body(&left);
            let body = body.map_err(|error| Recovery::Retry.because("compress", error))?;
            match api.insert_all(&self.table, body).await {
                Ok(answer) => {
                    let errors = answer["insertErrors"].as_array().map(Vec::as_slice);
                    if let Some(why) = rows.note(&left, errors.unwrap_or_default()) {
                        return Err(Recovery::Retry.because(INSERT, why));
                    }
                }
                Err(Failure::Refused(refused)) => {
                    let api::Refused { status, reason, message } = refused;
                    let meaning = meaning::of_insert_all(status, &reason, &message);
                    let why = format!("{message} ({reason})");
                    return meaning.because(INSERT, why).map_or(Ok(Vec::new()), Err);
                }
                Err(unanswered) => {
                    return Err(Recovery::Retry.because(INSERT, unanswered.to_string()));
                }
            }
        }
        let settled = rows.settled();
        let refused = settled.iter().filter_map(|(row, why)| Some((*row, why.as_ref()?)));
        Ok(refused.map(|(row, why)| self.refusal(row, why)).collect())
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
/// BigQuery closes connections that are idle for ten minutes, and that shows at the next request. Where
/// the writer was idle, the request is sent again at once, on a new connection; a writer makes one by
/// itself. A writer that told of a new schema, or that does not fit the table, is not used again: the
/// next one sees the table as it is.
async fn send(
    Writer { writer, has_answered }: Writer,
    request: ArrowRecordBatch,
    idle: &Idle,
) -> Result<Answer, Error> {
    let mut sent = writer.append(request.clone()).send().await;
    if has_answered && sent.as_ref().is_err_and(has_lost_its_connection) {
        sent = writer.append(request).send().await;
    }
    let error = match sent {
        Ok(answer) => {
            match answer.updated_schema {
                Some(schema) => info!(columns = schema.fields.len(), "the table has changed"),
                None => idle.give_back(writer, true),
            }
            return Ok(Answer::Written);
        }
        Err(AppendError::RowErrors { row_errors, .. }) => {
            idle.give_back(writer, true);
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
    if meaning == Meaning::Retry {
        idle.give_back(writer, false);
    }
    meaning.because(APPEND, error).map_or(Ok(Answer::Written), Err)
}

fn has_lost_its_connection(error: &AppendError) -> bool {
    match error {
        AppendError::UnexpectedEndOfStream => true,
        AppendError::Rpc { source, .. } => {
            let is_of_stream = |code| matches!(code, Code::Aborted | Code::Unavailable);
            source.is_io() || source.status().is_some_and(|status| is_of_stream(status.code))
        }
        _ => false,
    }
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
