//! The Storage Write API: the default stream, with Arrow rows; all else is in `streams`.

mod proto_rows;
pub(super) mod streams;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use axum::extract::Request as HttpRequest;
use axum::response::Response as HttpResponse;
use bytes::Bytes;
use futures::Stream;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::rpc;
use prost::Message as _;
use proto::append_rows_request::{MissingValueInterpretation, Rows};
use proto::append_rows_response::{AppendResult, Response};
use proto::storage_error::StorageErrorCode;
use rusqlite::types::Value as Sql;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Streaming};

use super::catalog::{Catalog, TableName};
use super::schema::{self, Field, Schema};
use super::{BigQuery, arrow, value};
use crate::conditions::{Age, Conditions, Quota};
use crate::faults::{Faults, Kind};
use crate::grpc::{streaming, unary};
use crate::profile::Profile;
use crate::status::Status;
use proto_rows::Descriptor;

/// Most requests of a stream that are answered later; no more are read meanwhile.
const MAX_UNANSWERED: usize = 1000;
/// The text at the end of an old stream.
const RESTARTED: &str = "Closing the stream because server is restarted. This is expected and client \
                         is advised to reconnect.";
/// The text of an append above the quota. Clients know it by its beginning.
const THROUGHPUT: &str = "Exceeds 'AppendRows throughput' quota, status: INSUFFICIENT_TOKENS.";

/// Largest request, from Google's quotas. What reads requests takes larger ones.
const MAX_REQUEST_BYTES: usize = 20 * 1024 * 1024;

type Request = proto::AppendRowsRequest;
type Answer = proto::AppendRowsResponse;

/// Answers the gRPC method at `path`.
pub(super) async fn answer(bigquery: BigQuery, path: &str, request: HttpRequest) -> HttpResponse {
    match path.trim_start_matches("/google.cloud.bigquery.storage.v1.BigQueryWrite/") {
        "AppendRows" => streaming(request, move |r| bigquery.append_rows(r)).await,
        "GetWriteStream" => {
            unary(request, move |message: proto::GetWriteStreamRequest| {
                let bigquery = bigquery.clone();
                async move { Ok(bigquery.write_stream(message.name).await?) }
            })
            .await
        }
        method => streams::answer(bigquery, method, path, request).await,
    }
}

/// One open stream. What a request leaves out is as in the one before it.
struct Connection {
    bigquery: BigQuery,
    requests: Streaming<Request>,
    cuts: watch::Receiver<u64>,
    stream: String,
    writer_schema: Bytes,
    descriptor: Option<Arc<Descriptor>>,
    /// The table's schema as last told to the client.
    known: Option<Schema>,
    /// Answers that are sent at their time, in the order of their requests.
    answers: VecDeque<(Instant, Result<Answer, tonic::Status>)>,
    /// True if no more requests are read.
    is_read: bool,
    /// True if it ends once all is answered.
    is_old: bool,
    is_over: bool,
    age: Age,
    /// Since the last request or answer.
    idle: Age,
}

impl BigQuery {
    async fn write_stream(&self, name: String) -> Result<proto::WriteStream, Status> {
        if !streams::is_default(&name) {
            return self.explicit_stream(name).await;
        }
        let table = default_stream_of(&name)?;
        self.faults
            .around("GetWriteStream", async {
                let schema = self.with(move |catalog| Ok(catalog.writable(&table)?.1.clone()));
                let table_schema = Some(schema::to_proto(&schema.await?));
                let r#type = proto::write_stream::Type::Committed.into();
                Ok(proto::WriteStream { name, r#type, table_schema, ..<_>::default() })
            })
            .await
    }

    /// Takes so many bytes of a project's throughput, unless less is left.
    fn spend_append(&self, project: &str, bytes: usize) -> bool {
        let conditions = self.faults.conditions();
        let limit = conditions.profile().append_bytes_per_second;
        let quota = limit.map(|limit| Quota { limit, per: Duration::from_secs(1) });
        conditions.spend(format!("append {project}"), bytes as u64, quota)
    }

    fn append_rows(
        &self,
        requests: Streaming<Request>,
    ) -> impl Stream<Item = Result<Answer, tonic::Status>> + Send + use<> {
        let connection = Connection {
            bigquery: self.clone(),
            requests,
            cuts: self.faults.cuts(),
            stream: String::new(),
            writer_schema: Bytes::new(),
            descriptor: None,
            known: None,
            answers: VecDeque::new(),
            is_read: false,
            is_old: false,
            is_over: false,
            age: Age::with_jitter(),
            idle: Age::exact(),
        };
        futures::stream::unfold(connection, async |mut connection| {
            if connection.is_over {
                return None;
            }
            let answer = connection.next().await?;
            connection.is_over = answer.is_err();
            Some((answer, connection))
        })
    }
}

impl Connection {
    async fn next(&mut self) -> Option<Result<Answer, tonic::Status>> {
        let conditions = self.bigquery.faults.conditions().clone();
        loop {
            if self.answers.is_empty() && self.is_old {
                self.bigquery.faults.note_end("AppendRows");
                return Some(Err(tonic::Status::unavailable(RESTARTED)));
            }
            if self.answers.is_empty() && self.is_read {
                return None;
            }
            let due = self.answers.front().map(|(due, _)| *due);
            let reads = !self.is_read && !self.is_old && self.answers.len() < MAX_UNANSWERED;
            tokio::select! {
                () = due_at(due) => {
                    self.idle = Age::exact();
                    return self.answers.pop_front().map(|(_, answer)| answer);
                }
                Ok(()) = self.cuts.changed() => {
                    return Some(Err(tonic::Status::unavailable("the stream was cut")));
                }
                // What was read is answered first.
                () = conditions.outlived(self.age, Profile::stream_age), if !self.is_old => {
                    self.is_old = true;
                }
                () = conditions.outlived(self.idle, Profile::append_idle), if due.is_none() => {
                    self.bigquery.faults.note_end("AppendRows");
                    return Some(Err(inactive(&conditions)));
                }
                request = self.requests.message(), if reads => {
                    self.idle = Age::exact();
                    let due = Instant::now() + conditions.latency("AppendRows");
                    match request.transpose() {
                        None => self.is_read = true,
                        Some(request) => self.take(due, request).await,
                    }
                }
            }
        }
    }

    /// Carries out a request; its answer waits for its time.
    async fn take(&mut self, due: Instant, request: Result<Request, tonic::Status>) {
        let answer = match request {
            Ok(request) => self.append(request).await.map_err(Into::into),
            Err(status) => Err(status),
        };
        // An error is the end of the stream.
        self.is_read = answer.is_err();
        self.answers.push_back((due, answer));
    }

    async fn append(&mut self, request: Request) -> Result<Answer, Status> {
        let size = request.encoded_len();
        if size > MAX_REQUEST_BYTES {
            let text = format!("AppendRows request too large: {size} limit {MAX_REQUEST_BYTES}");
            return Err(Status::invalid(text));
        }
        if !request.write_stream.is_empty() {
            self.stream = request.write_stream;
        }
        if !streams::is_default(&self.stream) {
            return self.append_to_stream(request.rows, request.offset).await;
        }
        let rows = match request.rows {
            Some(Rows::ArrowRows(data)) => data,
            Some(rows @ Rows::ProtoRows(_)) => {
                return self.append_to_stream(Some(rows), request.offset).await;
            }
            None => return Err(Status::invalid("Rows must be specified in the request.")),
        };
        if let Some(schema) = rows.writer_schema {
            self.writer_schema = schema.serialized_schema;
        }
        if request.offset.is_some() {
            return Err(Status::invalid("Offset must not be set for the default stream."));
        }
        let table = default_stream_of(&self.stream)?;
        if let Some(error) = self.bigquery.faults.append_error() {
            return self.planned(error, &table);
        }
        let bytes = self.writer_schema.len() + rows.rows.as_ref().map_or(0, arrow_len);
        if !self.bigquery.spend_append(&table.0, bytes) {
            return Ok(self.answer(error_answer(
                Code::ResourceExhausted,
                THROUGHPUT,
                None,
                &table,
            )));
        }
        let append = Append {
            table,
            schema: self.writer_schema.clone(),
            batch: rows.rows.unwrap_or_default().serialized_record_batch,
            faults: self.bigquery.faults.clone(),
            fills_defaults: request.default_missing_value_interpretation
                == MissingValueInterpretation::DefaultValue as i32,
        };
        let append = self.bigquery.with(move |catalog| append.carry_out(catalog));
        let appended = self.bigquery.faults.at_once(("AppendRows", ""), append).await;
        let (mut answer, schema) = appended?;
        if self.known.as_ref().is_some_and(|known| *known != schema) {
            answer.updated_schema = Some(schema::to_proto(&schema));
        }
        self.known = Some(schema);
        Ok(self.answer(answer))
    }

    fn answer(&self, answer: Answer) -> Answer {
        Answer { write_stream: self.stream.clone(), ..answer }
    }

    /// The error that was asked for, as an answer or as the end of the stream.
    fn planned(&self, error: Kind, table: &TableName) -> Result<Answer, Status> {
        let Kind::AppendError { code, storage_error, message, ends_stream } = error else {
            return Err(Status::new(Code::Internal, "this is no error of an append"));
        };
        let message = message.unwrap_or_else(|| "the append was refused on demand".into());
        let named = storage_error.as_deref().map(StorageErrorCode::from_str_name);
        let named = named.map(|code| code.unwrap_or(StorageErrorCode::Unspecified));
        let code = Code::from_i32(code);
        if ends_stream {
            let details = named.map(|named| detail(named, &message, table)).into_iter().collect();
            return Err(Status { details, ..Status::new(code, message) });
        }
        Ok(self.answer(error_answer(code, &message, named, table)))
    }
}

/// The end of a stream that had nothing to do.
fn inactive(conditions: &Conditions) -> tonic::Status {
    let seconds = conditions.profile().append_idle_millis.unwrap_or_default() / 1000;
    tonic::Status::aborted(format!(
        "Closing the stream because it has been inactive for {seconds} seconds."
    ))
}

async fn due_at(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn arrow_len(batch: &proto::ArrowRecordBatch) -> usize {
    batch.serialized_record_batch.len()
}

/// The table of `projects/P/datasets/D/tables/T/streams/_default`, or the short form of it.
fn default_stream_of(name: &str) -> Result<TableName, Status> {
    let is_default = name.ends_with("/_default");
    match TableName::parse(name).filter(|_| is_default) {
        Some(table) => Ok(table),
        None => Err(Status::unimplemented(&format!("the write stream {name}"))),
    }
}

/// What one request asks for.
struct Append {
    table: TableName,
    schema: Bytes,
    batch: Bytes,
    faults: Faults,
    /// True if columns that are left out have their defaults; they are NULL otherwise.
    fills_defaults: bool,
}

impl Append {
    /// All rows into the table, or none; with the table's schema.
    fn carry_out(&self, catalog: &mut Catalog) -> Result<(Answer, Schema), Status> {
        let name = &self.table;
        let (table, seen) = catalog.writable(name).map_err(|_| {
            let entity = format!("projects/{}/datasets/{}/tables/{}", name.0, name.1, name.2);
            let text = format!("Requested entity was not found. Entity: {entity}");
            Status::new(Code::NotFound, text)
        })?;
        let (table_schema, fields) = (seen.clone(), table.schema.fields.clone());
        let fields = &fields;
        let batch = match arrow::read(&self.schema, &self.batch) {
            Ok(batch) => batch,
            Err(why) => return Ok((refused(&why, None, name), table_schema)),
        };
        if let Some(extra) = arrow::extra_field(batch.schema_ref(), &table_schema.fields) {
            let why = format!(
                "Input schema has more fields than BigQuery schema, extra fields: '{extra}'"
            );
            let code = Some(StorageErrorCode::SchemaMismatchExtraFields);
            return Ok((refused(&why, code, name), table_schema));
        }
        let fault = arrow::type_fault(batch.schema_ref(), fields)
            .or_else(|| arrow::missing_field(batch.schema_ref(), fields, self.fills_defaults));
        if let Some(why) = fault {
            return Ok((refused(&why, None, name), table_schema));
        }
        let (rows, row_errors) = self.read_rows(&batch, fields);
        let answer = if row_errors.is_empty() {
            catalog.insert(name, rows)?;
            let result = Response::AppendResult(AppendResult { offset: None });
            Answer { response: Some(result), ..<_>::default() }
        } else {
            let why = "Errors found while processing rows. Please refer to the row_errors field \
                       for details. The list may not be complete because of the size limitations.";
            Answer { row_errors, ..refused(why, None, name) }
        };
        Ok((answer, table_schema))
    }

    /// The rows of a batch, and the reasons for which some are none.
    fn read_rows(
        &self,
        batch: &RecordBatch,
        fields: &[Field],
    ) -> (Vec<Vec<Sql>>, Vec<proto::RowError>) {
        let (mut rows, mut row_errors) = (Vec::new(), Vec::new());
        let refuses_row = self.faults.refuses_row();
        for index in 0..batch.num_rows() {
            let row = arrow::row(batch, index).and_then(|mut row| {
                if self.fills_defaults {
                    value::default::fill(fields, &mut row)?;
                }
                Ok(row)
            });
            let stored = if refuses_row && index == 0 {
                Err("the row was refused on demand".to_owned())
            } else {
                row.and_then(|row| {
                    value::store_row(fields, &row, false).map_err(|fault| fault.message)
                })
            };
            match stored {
                Ok(values) => rows.push(values),
                Err(message) => row_errors.push(proto::RowError {
                    index: i64::try_from(index).unwrap_or(i64::MAX),
                    code: proto::row_error::RowErrorCode::FieldsError.into(),
                    message,
                }),
            }
        }
        (rows, row_errors)
    }
}

/// The answer to a request of which nothing was written.
fn refused(why: &str, code: Option<StorageErrorCode>, name: &TableName) -> Answer {
    error_answer(Code::InvalidArgument, why, code, name)
}

/// An error as an answer, after which the stream goes on.
fn error_answer(
    code: Code,
    why: &str,
    storage_error: Option<StorageErrorCode>,
    name: &TableName,
) -> Answer {
    let message = format!("{why} Entity: {}", entity(name));
    let details = storage_error.map(|code| detail(code, why, name)).into_iter().collect();
    let status = rpc::Status { code: code.into(), message, details };
    Answer { response: Some(Response::Error(status)), ..<_>::default() }
}

/// Says more of an error in BigQuery's own terms.
fn detail(code: StorageErrorCode, why: &str, name: &TableName) -> prost_types::Any {
    let error =
        proto::StorageError { code: code.into(), entity: entity(name), error_message: why.into() };
    prost_types::Any {
        type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into(),
        value: error.encode_to_vec(),
    }
}

fn entity(name: &TableName) -> String {
    format!("projects/{}/datasets/{}/tables/{}/streams/_default", name.0, name.1, name.2)
}
