//! The Storage Write API: the default stream, with Arrow rows; all else is in `streams`.

mod proto_rows;
pub(super) mod streams;

use std::sync::Arc;

use axum::extract::Request as HttpRequest;
use axum::response::Response as HttpResponse;
use bytes::Bytes;
use futures::Stream;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::rpc;
use prost::Message as _;
use proto::append_rows_request::Rows;
use proto::append_rows_response::{AppendResult, Response};
use proto::storage_error::StorageErrorCode;
use tokio::sync::watch;
use tonic::{Code, Streaming};

use super::catalog::{Catalog, TableName};
use super::schema::{self, Schema};
use super::{BigQuery, arrow, value};
use crate::grpc::{streaming, unary};
use crate::status::Status;
use proto_rows::Descriptor;

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
    is_over: bool,
}

impl BigQuery {
    async fn write_stream(&self, name: String) -> Result<proto::WriteStream, Status> {
        if !streams::is_default(&name) {
            return self.explicit_stream(name).await;
        }
        let table = default_stream_of(&name)?;
        self.faults
            .around("GetWriteStream", async {
                let schema = self.with(move |catalog| Ok(catalog.table(&table)?.schema.clone()));
                let table_schema = Some(schema::to_proto(&schema.await?));
                let r#type = proto::write_stream::Type::Committed.into();
                Ok(proto::WriteStream { name, r#type, table_schema, ..<_>::default() })
            })
            .await
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
            is_over: false,
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
        let request = tokio::select! {
            request = self.requests.message() => request.transpose()?,
            Ok(()) = self.cuts.changed() => {
                return Some(Err(tonic::Status::unavailable("the stream was cut")));
            }
        };
        Some(match request {
            Ok(request) => self.append(request).await.map_err(Into::into),
            Err(status) => Err(status),
        })
    }

    async fn append(&mut self, request: Request) -> Result<Answer, Status> {
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
        let append = Append {
            table,
            schema: self.writer_schema.clone(),
            batch: rows.rows.unwrap_or_default().serialized_record_batch,
            refuses_row: self.bigquery.faults.refuses_row(),
        };
        let append = self.bigquery.with(move |catalog| append.carry_out(catalog));
        let appended = self.bigquery.faults.around("AppendRows", append).await;
        let (mut answer, schema) = appended?;
        if self.known.as_ref().is_some_and(|known| *known != schema) {
            answer.updated_schema = Some(schema::to_proto(&schema));
        }
        self.known = Some(schema);
        answer.write_stream.clone_from(&self.stream);
        Ok(answer)
    }
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
    /// Whether a fault was asked for.
    refuses_row: bool,
}

impl Append {
    /// All rows into the table, or none; with the table's schema.
    fn carry_out(&self, catalog: &mut Catalog) -> Result<(Answer, Schema), Status> {
        let name = &self.table;
        let table = catalog.table(name).map_err(|_| {
            let entity = format!("projects/{}/datasets/{}/tables/{}", name.0, name.1, name.2);
            let text = format!("Requested entity was not found. Entity: {entity}");
            Status::new(Code::NotFound, text)
        })?;
        let table_schema = table.schema.clone();
        let fields = &table_schema.fields;
        let batch = match arrow::read(&self.schema, &self.batch) {
            Ok(batch) => batch,
            Err(why) => return Ok((refused(&why, None, name), table_schema)),
        };
        if let Some(extra) = arrow::extra_field(batch.schema_ref(), fields) {
            let why = format!(
                "Input schema has more fields than BigQuery schema, extra fields: '{extra}'"
            );
            let code = Some(StorageErrorCode::SchemaMismatchExtraFields);
            return Ok((refused(&why, code, name), table_schema));
        }
        if let Some(why) = arrow::type_fault(batch.schema_ref(), fields) {
            return Ok((refused(&why, None, name), table_schema));
        }
        let (mut rows, mut row_errors) = (Vec::new(), Vec::new());
        for index in 0..batch.num_rows() {
            let stored = if self.refuses_row && index == 0 {
                Err("the row was refused on demand".to_owned())
            } else {
                arrow::row(&batch, index).and_then(|row| {
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
}

/// The answer to a request of which nothing was written.
fn refused(why: &str, code: Option<StorageErrorCode>, name: &TableName) -> Answer {
    let entity = format!("projects/{}/datasets/{}/tables/{}", name.0, name.1, name.2);
    let message = format!("{why} Entity: {entity}/streams/_default");
    let details = code.map(|code| prost_types::Any {
        type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into(),
        value: proto::StorageError {
            code: code.into(),
            entity: format!("{entity}/streams/_default"),
            error_message: why.into(),
        }
        .encode_to_vec(),
    });
    let details = details.into_iter().collect();
    let status = rpc::Status { code: Code::InvalidArgument.into(), message, details };
    Answer { response: Some(Response::Error(status)), ..<_>::default() }
}
