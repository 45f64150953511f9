//! Appends rows with the Storage Write API.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use google_cloud_bigquery::client::Write;
use google_cloud_bigquery::error::AppendError;
use google_cloud_bigquery::model::{ArrowRecordBatch, ArrowSchema, RowError};
use google_cloud_bigquery::write::DefaultWriter;
use google_cloud_bigquery::write::format::Arrow;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use pipeline::{Error, Recovery};
use tracing::info;

use crate::batch::{self, Schema};
use crate::meaning::{self, Meaning};
use crate::table::{Table, TableName};

/// Action of an append, for errors.
const APPEND: &str = "append rows";

/// A client with its open writers.
pub(super) struct Appender {
    client: Write,
    idle: Idle,
}

impl Appender {
    pub(super) fn new(client: Write) -> Self {
        Self { client, idle: Idle::default() }
    }
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

    /// Closes the connections, which may know the table as it was.
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn give_back(&self, writer: Writer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
    }
}

impl Appender {
    async fn writer(&self, table: &TableName, schema: &Schema) -> Result<Writer, Error> {
        if let Some(writer) = self.idle.take() {
            return Ok(writer);
        }
        let said = ArrowSchema::new().set_serialized_schema(schema.message().to_vec());
        let open = self.client.open_default_stream(table.resource());
        // The pipeline tries again, with the same rows.
        let opened = open.with_retry_policy(NeverRetry).build_arrow(said).await;
        let writer = opened.map_err(|error| {
            Recovery::Retry.because("open write stream", service::credentials::explain(&error))
        });
        Ok(Writer { writer: writer?, has_answered: false })
    }
}

/// Appends rows, and returns those that BigQuery refused by name. Where some are refused nothing was
/// written, so the others are sent again without them, until all that remain are in the table.
///
/// Rows are refused only by a table that is the one of the settings; see [`Table::check_fit`]. The table that
/// refuses them first may have been another one, so they are sent again after the first look.
pub(super) async fn append(
    rows: &RecordBatch,
    (appender, schema): (&Appender, &Schema),
    table: &Table,
) -> Result<BTreeMap<usize, String>, Error> {
    let broken = |error| Recovery::Stop.because("make request", error);
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    let mut is_known_to_fit = false;
    loop {
        // The places that the rows which are left have in the batch.
        let left: Vec<usize> =
            (0..rows.num_rows()).filter(|index| !refused.contains_key(index)).collect();
        if left.is_empty() {
            return Ok(refused);
        }
        let request = batch::only(rows, &left).map_err(broken)?;
        let request = schema.encode(&request).map_err(broken)?;
        let request = ArrowRecordBatch::new().set_serialized_record_batch(request);
        let writer = appender.writer(table.name(), schema).await?;
        let errors = send(writer, request, &appender.idle).await?;
        if errors.is_empty() {
            return Ok(refused);
        }
        if let Err(difference) = table.check_fit().await {
            appender.idle.clear();
            return Err(Recovery::Retry.because(APPEND, difference));
        }
        if !std::mem::replace(&mut is_known_to_fit, true) {
            appender.idle.clear();
            continue;
        }
        if !note(&mut refused, &left, &errors) {
            let why = "row errors that name none of the rows";
            return Err(Recovery::Retry.because(APPEND, why));
        }
    }
}

/// Sends one request. Returns the errors of its rows; with any, none of them is written.
///
/// BigQuery closes connections that are idle for ten minutes, and that shows at the next request. If the
/// writer was idle, the request is sent again at once, on a new connection; a writer makes one by itself.
/// A writer that told of a new schema, or that does not fit the table, is not used again: the next one
/// sees the table as it is.
async fn send(
    Writer { writer, has_answered }: Writer,
    request: ArrowRecordBatch,
    idle: &Idle,
) -> Result<Vec<RowError>, Error> {
    let bytes = request.serialized_record_batch.len();
    let mut sent = writer.append(request.clone()).send().await;
    if has_answered && sent.as_ref().is_err_and(has_lost_its_connection) {
        sent = writer.append(request).send().await;
    }
    let error = match sent {
        Ok(answer) => {
            match answer.updated_schema {
                Some(schema) => info!(columns = schema.fields.len(), "the table has changed"),
                None => idle.give_back(Writer { writer, has_answered: true }),
            }
            return Ok(Vec::new());
        }
        Err(AppendError::RowErrors { row_errors, .. }) if !row_errors.is_empty() => {
            idle.give_back(Writer { writer, has_answered: true });
            return Ok(row_errors);
        }
        Err(error) => error,
    };
    let Fault { meaning, is_answer } = Fault::of(&error, bytes);
    if meaning == Meaning::Retry {
        idle.give_back(Writer { writer, has_answered: is_answer });
    }
    meaning.because(APPEND, error).map_or(Ok(Vec::new()), Err)
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

/// An error of an append, as far as it decides on the next step.
struct Fault {
    meaning: Meaning,
    /// True if the connection answered with it, and lives on.
    is_answer: bool,
}

impl Fault {
    /// The fault of a request of so many bytes.
    fn of(error: &AppendError, bytes: usize) -> Self {
        let AppendError::Rpc { source, .. } = error else {
            return Self { meaning: Meaning::Retry, is_answer: false };
        };
        // The end of a stream has its status as the cause, an answer has none.
        let end = source.source().and_then(|cause| cause.downcast_ref::<tonic::Status>());
        let code = end.and_then(|status| meaning::storage_error(status.details()));
        let meaning = match source.status() {
            Some(status) => meaning::of_append(status.code, code, &status.message, bytes),
            None => Meaning::Retry,
        };
        let is_answer = end.is_none() && source.status().is_some();
        Self { meaning, is_answer }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_are_noted_by_their_place_in_the_batch() {
        let error =
            |index: i64| RowError::new().set_index(index).set_message(format!("bad {index}"));
        let mut refused = BTreeMap::new();

        assert!(note(&mut refused, &[3, 5, 9], &[error(2), error(7), error(0), error(0)]));

        assert_eq!(refused, [(3, "bad 0".to_owned()), (9, "bad 2".to_owned())].into());
        for none in [vec![], vec![error(3)], vec![error(-1)]] {
            assert!(!note(&mut refused, &[3, 5, 9], &none), "{none:?}");
        }
    }
}
