//! The Storage Read API: sessions with one stream, in Arrow.

mod columns;
pub(super) mod sessions;

use std::sync::Arc;

use axum::extract::Request as HttpRequest;
use axum::response::Response as HttpResponse;
use futures::Stream;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::read_rows_response::{Rows as Encoded, Schema as RowsSchema};
use proto::read_session::Schema as SessionSchema;
use rusqlite::types::Value as Sql;
use tonic::Code;

use self::sessions::{ReadSession, RowSource};
use super::BigQuery;
use super::catalog::Catalog;
use super::names::TableName;
use super::rows::{Rows, selected};
use super::schema::{Field, Schema};
use super::sql::{self, Scope};
use super::sqlite::failed;
use crate::grpc::{self, server_streaming, unary};
use crate::status::Status;

/// Most rows in one answer.
const PAGE: usize = 1_000;

/// Position of a reader in a stream.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Last row id that was read, or the number of rows that were read.
    after: i64,
    /// Number of rows to skip because an earlier call has read them.
    skip: usize,
}

/// Answers the gRPC method at `path`.
pub(super) async fn answer(bigquery: BigQuery, path: &str, request: HttpRequest) -> HttpResponse {
    match path.trim_start_matches("/google.cloud.bigquery.storage.v1.BigQueryRead/") {
        "CreateReadSession" => {
            unary(request, move |message: proto::CreateReadSessionRequest| {
                let bigquery = bigquery.clone();
                async move {
                    let create = bigquery.with(move |catalog| catalog.create_session(message));
                    Ok(bigquery.faults.around("CreateReadSession", create).await?)
                }
            })
            .await
        }
        "ReadRows" => {
            server_streaming(request, move |message: proto::ReadRowsRequest| {
                let bigquery = bigquery.clone();
                async move {
                    let faults = bigquery.faults.clone();
                    let rows = async { bigquery.read_rows(&message) };
                    Ok(faults.around("ReadRows", rows).await?)
                }
            })
            .await
        }
        _ => grpc::unimplemented(path).unwrap_or_else(|never| match never {}),
    }
}

impl BigQuery {
    fn read_rows(
        &self,
        request: &proto::ReadRowsRequest,
    ) -> Result<
        impl Stream<Item = Result<proto::ReadRowsResponse, tonic::Status>> + Send + use<>,
        Status,
    > {
        let skip = usize::try_from(request.offset)
            .map_err(|_| Status::invalid("the offset is negative"))?;
        let name = request.read_stream.clone();
        let session = name.rsplit_once("/streams/").map(|(session, _)| session.to_owned());
        let session = session.ok_or_else(|| Status::invalid(format!("Invalid stream: {name}")))?;
        let start = (self.clone(), session, Some(Position { after: 0, skip }));
        Ok(futures::stream::unfold(start, async |(bigquery, session, position)| {
            let position = position?;
            let name = session.clone();
            let page = bigquery.with(move |catalog| catalog.read_page(&name, position)).await;
            match page {
                Ok(Some((answer, next))) => Some((Ok(answer), (bigquery, session, Some(next)))),
                Ok(None) => None,
                Err(status) => Some((Err(status.into()), (bigquery, session, None))),
            }
        }))
    }
}

impl Catalog {
    fn create_session(
        &mut self,
        request: proto::CreateReadSessionRequest,
    ) -> Result<proto::ReadSession, Status> {
        let mut shown = request.read_session.unwrap_or_default();
        if shown.data_format() != proto::DataFormat::Arrow {
            let format = shown.data_format().as_str_name();
            return Err(Status::unimplemented(&format!("read sessions of the format {format}")));
        }
        let options = shown.read_options.clone().unwrap_or_default();
        if shown.table_modifiers.as_ref().is_some_and(|one| one.snapshot_time.is_some()) {
            return Err(Status::unimplemented("read sessions of a snapshot_time"));
        }
        if options.sample_percentage.is_some() {
            return Err(Status::unimplemented("read sessions with sample_percentage"));
        }
        let table = TableName::parse(&shown.table)
            .ok_or_else(|| Status::invalid(format!("Invalid table: {}", shown.table)))?;
        let (session, count) = self.session(&table, &options)?;
        let name =
            format!("{}/locations/us/sessions/{}", request.parent, uuid::Uuid::new_v4().simple());
        let serialized_schema = columns::schema_message(&session.fields)?;
        self.sessions.add(name.clone(), session);
        let in_hours = time::OffsetDateTime::now_utc() + time::Duration::hours(6);
        shown.expire_time =
            Some(prost_types::Timestamp { seconds: in_hours.unix_timestamp(), nanos: 0 });
        shown.streams = vec![proto::ReadStream { name: format!("{name}/streams/0") }];
        shown.name = name;
        shown.estimated_row_count = count;
        let schema = proto::ArrowSchema { serialized_schema: serialized_schema.into() };
        shown.schema = Some(SessionSchema::ArrowSchema(schema));
        Ok(shown)
    }

    /// Returns a session on a table, and the number of its rows.
    fn session(
        &self,
        table: &TableName,
        options: &proto::read_session::TableReadOptions,
    ) -> Result<(ReadSession, i64), Status> {
        let names = &options.selected_fields;
        if let Some(nested) = names.iter().find(|name| name.contains('.')) {
            return Err(Status::unimplemented(&format!("reading the nested field {nested} alone")));
        }
        if let Some(result) = self.jobs.result_of(table) {
            if !options.row_restriction.is_empty() {
                return Err(Status::unimplemented("a row_restriction on the result of a query"));
            }
            let rows = picked(&result, names)?;
            let count = i64::try_from(rows.rows.len()).unwrap_or(i64::MAX);
            return Ok((
                ReadSession { fields: rows.fields.clone(), source: RowSource::Result(rows) },
                count,
            ));
        }
        let found = self.table(table)?;
        if found.view().is_some() {
            let text = "request failed: non-table entities cannot be read with the storage API";
            return Err(Status::invalid(text));
        }
        let fields = in_order(&found.schema, names)?;
        let condition = match options.row_restriction.trim() {
            "" => "TRUE",
            restriction => restriction,
        };
        let columns = fields.iter().map(|field| format!(", `{}`", field.name)).collect::<String>();
        let row_id = found.schema.row_id();
        let query = format!(
            "SELECT {row_id}{columns} FROM `{}`.`{}`.`{}` WHERE ({condition})",
            table.0, table.1, table.2
        );
        let scope = Scope { project: &table.0, dataset: None, catalog: self };
        let query = sql::translate(&query, &scope)?.text;
        let wrong = |error| Status::invalid(format!("row_restriction: {error}"));
        self.connection.prepare(&query).map(drop).map_err(wrong)?;
        let last = self.last_row(table)?;
        Ok((ReadSession { fields, source: RowSource::Table { query, row_id, last } }, last))
    }

    /// Returns the next rows and the position after them; `None` at the end of the stream.
    fn read_page(
        &self,
        session: &str,
        position: Position,
    ) -> Result<Option<(proto::ReadRowsResponse, Position)>, Status> {
        let found = self.sessions.get(session).ok_or_else(|| {
            Status::new(Code::NotFound, format!("Session {session} has ended or never began"))
        })?;
        let (rows, after) = match &found.source {
            RowSource::Result(result) => {
                let start = usize::try_from(position.after).unwrap_or(usize::MAX);
                let start = start.saturating_add(position.skip);
                let rows: Vec<_> = result.rows.iter().skip(start).take(PAGE).cloned().collect();
                let after = i64::try_from(start + rows.len()).unwrap_or(i64::MAX);
                (rows, after)
            }
            RowSource::Table { query, row_id, last } => {
                let query = format!("{query} AND {row_id} <= {last}");
                self.rows_after(&query, row_id, position)?
            }
        };
        if rows.is_empty() {
            return Ok(None);
        }
        let batch = columns::batch_message(&found.fields, &rows)?;
        let row_count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let is_first = position.after == 0;
        let schema = match is_first {
            true => Some(RowsSchema::ArrowSchema(proto::ArrowSchema {
                serialized_schema: columns::schema_message(&found.fields)?.into(),
            })),
            false => None,
        };
        #[expect(deprecated, reason = "clients read the count in both places")]
        let encoded = proto::ArrowRecordBatch { serialized_record_batch: batch.into(), row_count };
        let answer = proto::ReadRowsResponse {
            row_count,
            rows: Some(Encoded::ArrowRecordBatch(encoded)),
            schema,
            ..<_>::default()
        };
        Ok(Some((answer, Position { after, skip: 0 })))
    }

    fn rows_after(
        &self,
        query: &str,
        row_id: &str,
        Position { after, skip }: Position,
    ) -> Result<(Vec<Vec<Sql>>, i64), Status> {
        let text =
            format!("{query} AND {row_id} > {after} ORDER BY {row_id} LIMIT {PAGE} OFFSET {skip}");
        let _running = self.deadline.start();
        let mut prepared = self.connection.prepare(&text).map_err(|error| failed(&error))?;
        let width = prepared.column_count();
        let found = prepared.query_map([], |row| {
            let cells = (1..width).map(|at| row.get(at)).collect::<rusqlite::Result<Vec<Sql>>>()?;
            Ok((row.get::<_, i64>(0)?, cells))
        });
        let found: rusqlite::Result<Vec<_>> = found.map_err(|error| failed(&error))?.collect();
        let found = found.map_err(|error| failed(&error))?;
        let after = found.last().map_or(after, |(id, _)| *id);
        Ok((found.into_iter().map(|(_, cells)| cells).collect(), after))
    }
}

/// Returns the fields of these names in the order of the schema, or all fields.
fn in_order(schema: &Schema, names: &[String]) -> Result<Vec<Field>, Status> {
    let mut fields = selected(schema, names)?;
    let place = |field: &Field| schema.fields.iter().position(|one| one.name == field.name);
    fields.sort_by_key(place);
    Ok(fields)
}

/// Returns a result with only these columns.
fn picked(result: &Arc<Rows>, names: &[String]) -> Result<Arc<Rows>, Status> {
    if names.is_empty() {
        return Ok(Arc::clone(result));
    }
    let schema = Schema { fields: result.fields.clone() };
    let fields = in_order(&schema, names)?;
    let places: Vec<_> = fields
        .iter()
        .filter_map(|field| schema.fields.iter().position(|one| one.name == field.name))
        .collect();
    let rows = result.rows.iter().map(|row| places.iter().map(|at| row[*at].clone()).collect());
    Ok(Arc::new(Rows { rows: rows.collect(), fields }))
}
