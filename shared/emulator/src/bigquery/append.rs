//! The Storage Write API: connections of `AppendRows`, with their limits and faults.

mod proto_rows;
mod refusal;
mod request;
pub(super) mod stream;
mod streams;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request as HttpRequest;
use axum::response::Response as HttpResponse;
use bytes::Bytes;
use futures::Stream;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::Message as _;
use proto::append_rows_request::Rows;
use proto::storage_error::StorageErrorCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Streaming};

use super::BigQuery;
use super::names::TableName;
use super::schema::{self, Schema};
use crate::conditions::{Age, Conditions, Quota};
use crate::faults::Kind;
use crate::grpc::{streaming, unary};
use crate::profile::Profile;
use crate::status::Status;
use proto_rows::Descriptor;
use refusal::{Refusal, detail};
use request::{Append, Missing, Sent};

/// Most requests of a stream that wait for their answer. Above that no more requests are read.
const MAX_UNANSWERED: usize = 1000;
/// Error text when a stream has reached its maximum age.
const RESTARTED: &str = "Closing the stream because server is restarted. This is expected and client \
                         is advised to reconnect.";
/// Error text of an append above the quota. Clients recognize it by its beginning.
const THROUGHPUT: &str = "Exceeds 'AppendRows throughput' quota, status: INSUFFICIENT_TOKENS.";

/// Largest request, from Google's quotas. The gRPC decoder accepts larger ones, so the check is
/// here.
const MAX_REQUEST_BYTES: usize = 20 * 1024 * 1024;

type AppendRequest = proto::AppendRowsRequest;
type AppendResponse = proto::AppendRowsResponse;

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

/// One open stream. A field that a request leaves out has its value from the request before.
struct Connection {
    bigquery: BigQuery,
    requests: Streaming<AppendRequest>,
    cuts: watch::Receiver<u64>,
    stream: String,
    writer_schema: Bytes,
    descriptor: Option<Arc<Descriptor>>,
    /// Rule for values of columns that a request does not name.
    missing_others: i32,
    /// Schema of the table that the client was told last.
    known: Option<Schema>,
    /// Answers in the order of their requests, each with the time at which it is sent.
    answers: VecDeque<(Instant, Result<AppendResponse, tonic::Status>)>,
    /// True if no more requests are read.
    is_read: bool,
    /// True if the stream ends as soon as all requests are answered.
    is_old: bool,
    is_over: bool,
    age: Age,
    /// Time since the last request or answer.
    idle: Age,
}

impl BigQuery {
    async fn write_stream(&self, name: String) -> Result<proto::WriteStream, Status> {
        if !stream::is_default(&name) {
            return self.explicit_stream(name).await;
        }
        let table = table_of(&name)?;
        self.faults
            .around("GetWriteStream", async {
                let schema = self.with(move |catalog| Ok(catalog.writable(&table)?.1.clone()));
                let table_schema = Some(schema::to_proto(&schema.await?));
                let r#type = proto::write_stream::Type::Committed.into();
                Ok(proto::WriteStream { name, r#type, table_schema, ..<_>::default() })
            })
            .await
    }

    /// Takes bytes from the throughput quota of a project. Returns false if less is left.
    fn spend_append(&self, project: &str, bytes: usize) -> bool {
        let conditions = self.faults.conditions();
        let limit = conditions.profile().append_bytes_per_second;
        let quota = limit.map(|limit| Quota { limit, per: Duration::from_secs(1) });
        conditions.spend(format!("append {project}"), bytes as u64, quota)
    }

    fn append_rows(
        &self,
        requests: Streaming<AppendRequest>,
    ) -> impl Stream<Item = Result<AppendResponse, tonic::Status>> + Send + use<> {
        let connection = Connection {
            bigquery: self.clone(),
            requests,
            cuts: self.faults.cuts(),
            stream: String::new(),
            writer_schema: Bytes::new(),
            descriptor: None,
            missing_others: 0,
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
    async fn next(&mut self) -> Option<Result<AppendResponse, tonic::Status>> {
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
                // Requests that were read are still answered.
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

    /// Carries out a request. The answer is sent when it is due.
    async fn take(&mut self, due: Instant, request: Result<AppendRequest, tonic::Status>) {
        let answer = match request {
            Ok(request) => self.append(request).await.map_err(Into::into),
            Err(status) => Err(status),
        };
        // An error ends the stream.
        self.is_read = answer.is_err();
        self.answers.push_back((due, answer));
    }

    async fn append(&mut self, request: AppendRequest) -> Result<AppendResponse, Status> {
        let size = request.encoded_len();
        if size > MAX_REQUEST_BYTES {
            let text = format!("AppendRows request too large: {size} limit {MAX_REQUEST_BYTES}");
            return Err(Status::invalid(text));
        }
        if !request.write_stream.is_empty() {
            self.stream = request.write_stream;
        }
        if request.default_missing_value_interpretation != 0 {
            self.missing_others = request.default_missing_value_interpretation;
        }
        let sent = self.sent(request.rows)?;
        if request.offset.is_some() && stream::is_default(&self.stream) {
            return Err(Status::invalid("Offset must not be set for the default stream."));
        }
        let append = Append {
            stream: self.stream.clone(),
            table: table_of(&self.stream)?,
            sent,
            offset: request.offset,
            missing: Missing {
                of_columns: request.missing_value_interpretations,
                of_others: self.missing_others,
            },
            faults: self.bigquery.faults.clone(),
        };
        if let Some(error) = self.bigquery.faults.append_error() {
            return self.planned(error, &append.entity());
        }
        if !self.bigquery.spend_append(&append.table.0, append.sent.bytes()) {
            let code = Code::ResourceExhausted;
            let refusal = Refusal { code, storage_error: None, why: THROUGHPUT.into() };
            return Ok(self.answer(refusal.answer(&append.entity())));
        }
        let append = self.bigquery.with(move |catalog| append.carry_out(catalog));
        let appended = self.bigquery.faults.at_once("AppendRows", "", append).await;
        let (mut answer, schema) = appended?;
        if self.known.as_ref().is_some_and(|known| *known != schema) {
            answer.updated_schema = Some(schema::to_proto(&schema));
        }
        self.known = Some(schema);
        Ok(self.answer(answer))
    }

    /// Returns the rows of a request. A missing schema is taken from an earlier request.
    fn sent(&mut self, rows: Option<Rows>) -> Result<Sent, Status> {
        match rows {
            None => Err(Status::invalid("Rows must be specified in the request.")),
            Some(Rows::ArrowRows(data)) => {
                if let Some(schema) = data.writer_schema {
                    self.writer_schema = schema.serialized_schema;
                }
                let batch = data.rows.unwrap_or_default().serialized_record_batch;
                Ok(Sent::Arrow { schema: self.writer_schema.clone(), batch })
            }
            Some(Rows::ProtoRows(data)) => {
                if let Some(schema) = data.writer_schema {
                    let descriptor = schema.proto_descriptor.unwrap_or_default();
                    let descriptor = Descriptor::new(descriptor).map_err(Status::invalid)?;
                    self.descriptor = Some(Arc::new(descriptor));
                }
                let descriptor = self.descriptor.as_ref().map(Arc::clone);
                let descriptor = descriptor.ok_or_else(|| {
                    Status::invalid("The writer schema is missing in the first request.")
                })?;
                Ok(Sent::Proto { descriptor, rows: data.rows.unwrap_or_default().serialized_rows })
            }
        }
    }

    fn answer(&self, answer: AppendResponse) -> AppendResponse {
        AppendResponse { write_stream: self.stream.clone(), ..answer }
    }

    /// Builds the planned error, as an answer or as the end of the stream.
    fn planned(&self, error: Kind, entity: &str) -> Result<AppendResponse, Status> {
        let Kind::AppendError { code, storage_error, message, ends_stream } = error else {
            return Err(Status::new(Code::Internal, "this is no error of an append"));
        };
        let message = message.unwrap_or_else(|| "the append was refused on demand".into());
        let named = storage_error.as_deref().map(StorageErrorCode::from_str_name);
        let named = named.map(|code| code.unwrap_or(StorageErrorCode::Unspecified));
        let code = Code::from_i32(code);
        if ends_stream {
            let details = named.map(|named| detail(named, &message, entity)).into_iter().collect();
            return Err(Status { details, ..Status::new(code, message) });
        }
        let refusal = Refusal { code, storage_error: named, why: message };
        Ok(self.answer(refusal.answer(entity)))
    }
}

/// Builds the error that ends an idle stream.
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

/// Parses `projects/P/datasets/D/tables/T/streams/S`, or the short form of the default stream.
fn table_of(stream: &str) -> Result<TableName, Status> {
    TableName::parse(stream).ok_or_else(|| Status::invalid(format!("Invalid stream: {stream}")))
}
