//! Appends rows with the Storage Write API.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use google_cloud_bigquery::client::Write;
use google_cloud_bigquery::error::AppendError;
use google_cloud_bigquery::model::{ArrowRecordBatch, ArrowSchema, RowError};
use google_cloud_bigquery::write::DefaultWriter;
use google_cloud_bigquery::write::format::Arrow;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use pipeline::{Error, Recovery};
use tokio::time::Instant;
use tracing::info;

use crate::batch::{self, Schema};
use crate::response::{self, Response};
use crate::table::Table;
use bigquery::TableName;

/// Name of the action in errors.
const APPEND: &str = "append rows";
/// Longest time after which a request that failed on an idle connection is sent again at once.
const RESEND_WITHIN: Duration = Duration::from_secs(10);

/// A client with its idle writers.
pub(super) struct Appender {
    client: Arc<Write>,
    idle: Idle,
}

impl Appender {
    pub(super) fn new(client: Arc<Write>) -> Self {
        Self { client, idle: Idle::default() }
    }
}

/// A connection. It carries one request at a time.
struct Writer {
    writer: DefaultWriter<Arrow>,
    /// True if the last request was answered. The connection has been idle since then.
    has_answered: bool,
}

/// Writers that are free for the next request.
#[derive(Default)]
struct Idle(Mutex<Vec<Writer>>);

impl Idle {
    fn take(&self) -> Option<Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Closes the idle connections, because they may know an older schema of the table.
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
        // The pipeline retries with the same rows.
        let opened = open.with_retry_policy(NeverRetry).build_arrow(said).await;
        let writer = opened.map_err(|error| {
            Recovery::Retry.because("open write stream", service::credentials::explain(&error))
        });
        Ok(Writer { writer: writer?, has_answered: false })
    }
}

/// Appends rows, and returns the rows that BigQuery refused by name.
///
/// If BigQuery refuses some rows of a request, it writes none of them. The others are then sent
/// again, until all rows that remain are in the table.
///
/// A refusal counts only if the table matches the settings; see [`Table::check_fit`]. The first
/// refusal may have come from a table that was replaced since then. So the same rows are sent once
/// more after the first check.
pub(super) async fn append(
    rows: &RecordBatch,
    appender: &Appender,
    schema: &Schema,
    table: &Table,
) -> Result<BTreeMap<usize, String>, Error> {
    let broken = |error| Recovery::Stop.because("make request", error);
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    let mut is_known_to_fit = false;
    loop {
        // Indices in the batch of the rows that are left.
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

/// Sends one request, and returns the errors of its rows. If there is any error, no row was
/// written.
///
/// BigQuery closes a connection that is idle for ten minutes, and the client notices only at the
/// next request. So a request that fails soon on an idle connection is sent again at once. The
/// writer opens a new connection by itself. After a longer wait the attempt ends instead, because a
/// second request would have less time than BigQuery may take.
///
/// A writer is not used again if it reported a new schema, or if the table did not accept its rows.
/// The next writer sees the current table.
async fn send(
    Writer { writer, has_answered }: Writer,
    request: ArrowRecordBatch,
    idle: &Idle,
) -> Result<Vec<RowError>, Error> {
    let bytes = request.serialized_record_batch.len();
    let began = Instant::now();
    let mut sent = writer.append(request.clone()).send().await;
    let is_soon = began.elapsed() < RESEND_WITHIN;
    if has_answered && is_soon && sent.as_ref().is_err_and(has_lost_its_connection) {
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
    let FailedAppend { response, is_answer } = FailedAppend::of(&error, bytes);
    if response == Response::Retry {
        idle.give_back(Writer { writer, has_answered: is_answer });
    }
    response.because(APPEND, error).map_or(Ok(Vec::new()), Err)
}

/// Adds the rows that an answer refuses. Returns false if it names none of the rows that were sent.
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

/// Error of an append, reduced to what decides on the next step.
struct FailedAppend {
    response: Response,
    /// True if the error is an answer, so that the connection still works.
    is_answer: bool,
}

impl FailedAppend {
    /// Classifies the error of a request with this many bytes.
    fn of(error: &AppendError, bytes: usize) -> Self {
        let AppendError::Rpc { source, .. } = error else {
            return Self { response: Response::Retry, is_answer: false };
        };
        // If a status ended the stream, it is the cause of the error. A status in an answer has no
        // cause.
        let end = source.source().and_then(|cause| cause.downcast_ref::<tonic::Status>());
        let code = end.and_then(|status| response::storage_error(status.details()));
        let response = match source.status() {
            Some(status) => response::of_append(status.code, code, &status.message, bytes),
            None => Response::Retry,
        };
        let is_answer = end.is_none() && source.status().is_some();
        Self { response, is_answer }
    }
}

/// Returns true if the stream has ended, or could not carry the request. An error in an answer is
/// no such case.
fn has_lost_its_connection(error: &AppendError) -> bool {
    match error {
        AppendError::UnexpectedEndOfStream => true,
        AppendError::Rpc { source, .. } => {
            let ends = |code| matches!(code, Code::Aborted | Code::Unavailable);
            let has_ended = source.source().is_some()
                && source.status().is_some_and(|status| ends(status.code));
            source.is_io() || source.is_transport() || has_ended
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
