//! Named write streams: pending, committed and buffered.

use std::sync::Arc;

use axum::extract::Request as HttpRequest;
use axum::response::Response as HttpResponse;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::storage_error::StorageErrorCode as Wrong;
use proto::write_stream::Type;
use rusqlite::types::Value as Sql;
use time::OffsetDateTime;
use tonic::Code;
use uuid::Uuid;

use super::refusal::storage_error;
use super::stream::{HeldRow, Streams, WriteStream, is_default, to_proto};
use crate::bigquery::BigQuery;
use crate::bigquery::catalog::Catalog;
use crate::bigquery::names::TableName;
use crate::grpc::{self, unary};
use crate::status::Status;

/// Number of streams above which finished ones are removed.
const MAX_STREAMS: usize = 10_000;
/// Most rows that a stream may hold before they are in the table.
const MAX_HELD_ROWS: usize = 5_000_000;

/// Answers the methods for named streams.
pub(super) async fn answer(
    bigquery: BigQuery,
    method: &str,
    path: &str,
    request: HttpRequest,
) -> HttpResponse {
    match method {
        "CreateWriteStream" => {
            unary(request, move |message: proto::CreateWriteStreamRequest| {
                let work = move |catalog: &mut Catalog| catalog.create_stream(&message);
                around(bigquery.clone(), "CreateWriteStream", work)
            })
            .await
        }
        "FinalizeWriteStream" => {
            unary(request, move |message: proto::FinalizeWriteStreamRequest| {
                let work = move |catalog: &mut Catalog| catalog.finalize(&message.name);
                around(bigquery.clone(), "FinalizeWriteStream", work)
            })
            .await
        }
        "BatchCommitWriteStreams" => {
            unary(request, move |message: proto::BatchCommitWriteStreamsRequest| {
                let work = move |catalog: &mut Catalog| catalog.commit(&message);
                around(bigquery.clone(), "BatchCommitWriteStreams", work)
            })
            .await
        }
        "FlushRows" => {
            unary(request, move |message: proto::FlushRowsRequest| {
                let work = move |catalog: &mut Catalog| catalog.flush(&message);
                around(bigquery.clone(), "FlushRows", work)
            })
            .await
        }
        _ => grpc::unimplemented(path).unwrap_or_else(|never| match never {}),
    }
}

async fn around<T: Send + 'static>(
    bigquery: BigQuery,
    name: &'static str,
    work: impl FnOnce(&mut Catalog) -> Result<T, Status> + Send + 'static,
) -> Result<T, tonic::Status> {
    Ok(bigquery.faults.around(name, bigquery.with(work)).await?)
}

impl BigQuery {
    /// Describes a named stream.
    pub(super) async fn explicit_stream(&self, name: String) -> Result<proto::WriteStream, Status> {
        let stream = self.with(move |catalog| {
            let stream = catalog.stream(&name)?;
            let (_, schema) = catalog.writable(&stream.table)?;
            Ok(stream.show(name, schema))
        });
        self.faults.around("GetWriteStream", stream).await
    }
}

fn not_found(name: &str) -> Status {
    Status::new(Code::NotFound, format!("Requested entity was not found. Entity: {name}"))
}

impl Catalog {
    /// Returns a named stream if its table still exists.
    pub(super) fn stream(&self, name: &str) -> Result<&WriteStream, Status> {
        let stream = self.streams.0.get(name);
        stream.filter(|stream| self.has_table_of(stream)).ok_or_else(|| not_found(name))
    }

    fn has_table_of(&self, stream: &WriteStream) -> bool {
        self.tables().get(&stream.table).is_some_and(|table| table.id == stream.table_id)
    }

    fn create_stream(
        &mut self,
        request: &proto::CreateWriteStreamRequest,
    ) -> Result<proto::WriteStream, Status> {
        let table = TableName::parse(&request.parent)
            .ok_or_else(|| Status::invalid(format!("Invalid parent: {}", request.parent)))?;
        let kind =
            request.write_stream.as_ref().map(proto::WriteStream::r#type).unwrap_or_default();
        if kind == Type::Unspecified {
            return Err(Status::invalid("The type of the write stream must be specified."));
        }
        let (found, schema) = self.writable(&table)?;
        let (table_id, schema) = (found.id, schema.clone());
        self.forget_streams();
        if self.streams.0.len() >= MAX_STREAMS {
            return Err(Status::new(Code::ResourceExhausted, "too many write streams"));
        }
        let name = format!("{}/streams/{}", request.parent, Uuid::new_v4().simple());
        let stream = WriteStream {
            table,
            table_id,
            kind,
            created: OffsetDateTime::now_utc(),
            held: Vec::new(),
            accepted: 0,
            is_finalized: false,
            committed: None,
        };
        let shown = stream.show(name.clone(), &schema);
        self.streams.0.insert(name, stream);
        Ok(shown)
    }

    /// Removes streams that cannot be written any more, once there are many streams.
    fn forget_streams(&mut self) {
        if self.streams.0.len() < MAX_STREAMS {
            return;
        }
        let Streams(mut streams) = std::mem::take(&mut self.streams);
        streams.retain(|_, stream| {
            let is_over =
                stream.committed.is_some() || stream.is_finalized && stream.kind == Type::Committed;
            !is_over && self.has_table_of(stream)
        });
        self.streams = Streams(streams);
    }

    /// Adds rows to a stream, and to the table if the stream is committed or the default one.
    /// Returns their offset.
    pub(super) fn take(
        &mut self,
        stream: &str,
        table: &TableName,
        rows: Vec<Vec<Sql>>,
    ) -> Result<Option<i64>, Status> {
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let Some(found) = self.streams.0.get(stream) else {
            return self.insert(table, rows).map(|()| None);
        };
        let offset = found.accepted;
        if found.kind == Type::Committed {
            self.insert(table, rows)?;
        } else {
            self.hold(stream, table, rows)?;
        }
        if let Some(found) = self.streams.0.get_mut(stream) {
            found.accepted = offset + count;
        }
        Ok(Some(offset))
    }

    /// Keeps rows until they are committed or flushed. Their values are in the order of the table's
    /// columns.
    fn hold(&mut self, stream: &str, table: &TableName, rows: Vec<Vec<Sql>>) -> Result<(), Status> {
        let fields = self.table(table)?.schema.fields.iter();
        let columns: Arc<[String]> = fields.map(|field| field.name.clone()).collect();
        let Some(found) = self.streams.0.get_mut(stream) else { return Err(not_found(stream)) };
        if found.held.len() + rows.len() > MAX_HELD_ROWS {
            return Err(Status::new(Code::ResourceExhausted, "the stream holds too many rows"));
        }
        let held = |values| HeldRow { columns: Arc::clone(&columns), values };
        found.held.extend(rows.into_iter().map(held));
        Ok(())
    }

    fn finalize(&mut self, name: &str) -> Result<proto::FinalizeWriteStreamResponse, Status> {
        if is_default(name) {
            return Err(Status::invalid(format!("The default stream cannot be finalized: {name}")));
        }
        let row_count = self.stream(name)?.accepted;
        self.streams.0.entry(name.to_owned()).and_modify(|stream| stream.is_finalized = true);
        Ok(proto::FinalizeWriteStreamResponse { row_count })
    }

    /// Makes rows of a buffered stream visible, up to and including the offset.
    fn flush(
        &mut self,
        request: &proto::FlushRowsRequest,
    ) -> Result<proto::FlushRowsResponse, Status> {
        let name = &request.write_stream;
        let stream = self.stream(name)?;
        if stream.kind != Type::Buffered {
            return Err(Status::invalid(format!(
                "FlushRows is for buffered streams alone: {name}"
            )));
        }
        let offset = request.offset.unwrap_or(stream.accepted - 1);
        if offset >= stream.accepted {
            let accepted = stream.accepted;
            let text =
                format!("Offset {offset} is beyond the end of the stream, {accepted}: {name}");
            return Err(Status::new(Code::OutOfRange, text));
        }
        let count =
            usize::try_from(offset.saturating_add(1).saturating_sub(stream.flushed())).unwrap_or(0);
        let table = stream.table.clone();
        let mut held = self.take_held(name);
        let written = self.insert_held(&table, &held[..count]);
        if written.is_ok() {
            held.drain(..count);
        }
        self.give_back(name, held);
        written.map(|()| proto::FlushRowsResponse { offset })
    }

    /// Writes the rows of pending streams, all or none.
    fn commit(
        &mut self,
        request: &proto::BatchCommitWriteStreamsRequest,
    ) -> Result<proto::BatchCommitWriteStreamsResponse, Status> {
        let names = &request.write_streams;
        let stream_errors: Vec<_> =
            names.iter().filter_map(|name| self.commit_fault(&request.parent, name)).collect();
        if !stream_errors.is_empty() {
            return Ok(proto::BatchCommitWriteStreamsResponse { commit_time: None, stream_errors });
        }
        let Some(table) = TableName::parse(&request.parent) else {
            return Err(Status::invalid(format!("Invalid parent: {}", request.parent)));
        };
        let held: Vec<Vec<HeldRow>> = names.iter().map(|name| self.take_held(name)).collect();
        if let Err(status) = self.insert_held(&table, held.iter().flatten()) {
            for (name, held) in names.iter().zip(held) {
                self.give_back(name, held);
            }
            return Err(status);
        }
        let now = OffsetDateTime::now_utc();
        for name in names {
            let stream = self.streams.0.entry(name.clone());
            stream.and_modify(|stream| stream.committed = Some(now));
        }
        let commit_time = Some(to_proto(now));
        Ok(proto::BatchCommitWriteStreamsResponse { commit_time, stream_errors })
    }

    /// Removes the rows that a stream holds and returns them.
    fn take_held(&mut self, name: &str) -> Vec<HeldRow> {
        self.streams
            .0
            .get_mut(name)
            .map(|stream| std::mem::take(&mut stream.held))
            .unwrap_or_default()
    }

    /// Returns rows that were not written to their stream. A name that was given twice gave its
    /// rows once.
    fn give_back(&mut self, name: &str, held: Vec<HeldRow>) {
        if let Some(stream) = self.streams.0.get_mut(name) {
            stream.held.extend(held);
        }
    }

    /// Returns the reason why a stream cannot be committed.
    fn commit_fault(&self, parent: &str, name: &str) -> Option<proto::StorageError> {
        let Ok(stream) = self.stream(name) else {
            return Some(storage_error(Wrong::StreamNotFound, name, "The stream was not found."));
        };
        let (code, why) = if stream.kind != Type::Pending {
            (Wrong::InvalidStreamType, "Only pending streams are committed.")
        } else if stream.committed.is_some() {
            (Wrong::StreamAlreadyCommitted, "The stream is already committed.")
        } else if !stream.is_finalized {
            (Wrong::InvalidStreamState, "The stream is not finalized.")
        } else if TableName::parse(parent).is_none_or(|table| table != stream.table) {
            (Wrong::InvalidStreamState, "The stream is of another table.")
        } else {
            return None;
        };
        Some(storage_error(code, name, why))
    }

    /// Writes rows that a stream held, each value into its column.
    fn insert_held<'a>(
        &mut self,
        table: &TableName,
        rows: impl IntoIterator<Item = &'a HeldRow>,
    ) -> Result<(), Status> {
        let fields = self.table(table)?.schema.fields.clone();
        self.insert(table, rows.into_iter().map(|row| row.arranged(&fields)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bigquery::transaction::tests::with_table;

    fn stream(catalog: &mut Catalog, kind: Type) -> String {
        let write_stream = Some(proto::WriteStream { r#type: kind.into(), ..<_>::default() });
        let parent = "projects/p/datasets/d/tables/t".to_owned();
        let request = proto::CreateWriteStreamRequest { parent, write_stream };
        catalog.create_stream(&request).expect("a stream").name
    }

    #[test]
    fn streams_that_are_over_make_room_for_new_ones() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let kept = stream(&mut catalog, Type::Pending);
        for _ in 1..MAX_STREAMS {
            let name = stream(&mut catalog, Type::Committed);
            catalog.finalize(&name).expect("an end");
        }

        stream(&mut catalog, Type::Committed);

        assert_eq!(catalog.streams.0.len(), 2);
        assert!(catalog.stream(&kept).is_ok());
        catalog.delete_table(&name).expect("a deletion");
        assert!(catalog.stream(&kept).is_err());
    }

    #[test]
    fn held_rows_that_could_not_be_written_are_written_at_the_second_attempt() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let (pending, buffered) =
            (stream(&mut catalog, Type::Pending), stream(&mut catalog, Type::Buffered));
        for stream in [&pending, &buffered] {
            catalog.take(stream, &name, vec![vec![Sql::Integer(1)]; 2]).expect("an append");
        }
        catalog.finalize(&pending).expect("an end");
        let commit = proto::BatchCommitWriteStreamsRequest {
            parent: "projects/p/datasets/d/tables/t".into(),
            write_streams: vec![pending],
        };
        let flush = proto::FlushRowsRequest { write_stream: buffered, offset: Some(0) };
        let fails = format!(
            "CREATE TEMP TRIGGER fails BEFORE INSERT ON {} BEGIN SELECT RAISE(ABORT, 'full'); END",
            name.quoted()
        );
        catalog.connection.execute_batch(&fails).expect("a trigger");

        let failed = (catalog.commit(&commit).is_err(), catalog.flush(&flush).is_err());
        catalog.connection.execute_batch("DROP TRIGGER fails").expect("no trigger");
        let committed = catalog.commit(&commit).expect("a commit");
        catalog.flush(&flush).expect("a flush");

        assert_eq!(failed, (true, true));
        assert!(committed.stream_errors.is_empty(), "{committed:?}");
        assert_eq!(catalog.last_row(&name).expect("a count"), 3);
    }

    fn finalized(catalog: &mut Catalog, kind: Type, rows: usize) -> String {
        let stream = stream(catalog, kind);
        let table = TableName("p".into(), "d".into(), "t".into());
        catalog.take(&stream, &table, vec![vec![Sql::Integer(1)]; rows]).expect("an append");
        catalog.finalize(&stream).expect("an end");
        stream
    }

    fn commit(catalog: &mut Catalog, streams: &[&str]) -> Vec<Wrong> {
        let request = proto::BatchCommitWriteStreamsRequest {
            parent: "projects/p/datasets/d/tables/t".into(),
            write_streams: streams.iter().map(|one| (*one).to_owned()).collect(),
        };
        let answer = catalog.commit(&request).expect("an answer");
        assert_eq!(answer.commit_time.is_some(), answer.stream_errors.is_empty());
        answer.stream_errors.iter().map(proto::StorageError::code).collect()
    }

    #[test]
    fn an_offset_must_be_the_number_of_accepted_rows() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let open = stream(&mut catalog, Type::Committed);
        catalog.take(&open, &name, vec![vec![Sql::Integer(1)]; 3]).expect("an append");
        let check = |offset| {
            let checked = catalog.stream(&open).expect("the stream").check(offset);
            checked.err().map(|refusal| (refusal.code, refusal.storage_error, refusal.why))
        };

        let within = "The offset is within stream, expected offset 3, received 2".to_owned();
        let beyond = "The offset is beyond stream, expected offset 3, received 4".to_owned();
        assert_eq!((check(None), check(Some(3))), (None, None));
        let exists = (Code::AlreadyExists, Some(Wrong::OffsetAlreadyExists), within);
        assert_eq!(check(Some(2)), Some(exists));
        let out = (Code::OutOfRange, Some(Wrong::OffsetOutOfRange), beyond);
        assert_eq!(check(Some(4)), Some(out));
        catalog.finalize(&open).expect("an end");
        let refused = catalog.stream(&open).expect("the stream").check(Some(3));
        let refused = refused.err().map(|refusal| (refusal.code, refusal.storage_error));
        assert_eq!(refused, Some((Code::InvalidArgument, Some(Wrong::StreamFinalized))));
    }

    #[test]
    fn a_commit_of_one_wrong_stream_writes_nothing() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let right = finalized(&mut catalog, Type::Pending, 2);
        let open = stream(&mut catalog, Type::Pending);
        let buffered = finalized(&mut catalog, Type::Buffered, 1);

        let errors = commit(&mut catalog, &[&right, &open, &buffered, "missing"]);
        let of_none = catalog.last_row(&name).expect("a count");
        let committed = commit(&mut catalog, &[&right]);
        let again = commit(&mut catalog, &[&right]);

        let expected = [Wrong::InvalidStreamState, Wrong::InvalidStreamType, Wrong::StreamNotFound];
        assert_eq!((errors.as_slice(), of_none), (expected.as_slice(), 0));
        assert_eq!((committed, again), (vec![], vec![Wrong::StreamAlreadyCommitted]));
        assert_eq!(catalog.last_row(&name).expect("a count"), 2);
    }

    #[test]
    fn a_flush_makes_rows_visible_up_to_its_offset_once() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let buffered = stream(&mut catalog, Type::Buffered);
        let pending = finalized(&mut catalog, Type::Pending, 1);
        catalog.take(&buffered, &name, vec![vec![Sql::Integer(1)]; 5]).expect("an append");
        let mut flush = |write_stream: &str, offset| {
            let request = proto::FlushRowsRequest { write_stream: write_stream.into(), offset };
            let flushed = catalog.flush(&request).map(|answer| answer.offset);
            (flushed.map_err(|status| status.code), catalog.last_row(&name).expect("a count"))
        };

        let steps =
            [flush(&buffered, Some(1)), flush(&buffered, Some(0)), flush(&buffered, Some(5))];
        let rest = flush(&buffered, None);

        assert_eq!(steps, [(Ok(1), 2), (Ok(0), 2), (Err(Code::OutOfRange), 2)]);
        assert_eq!(rest, (Ok(4), 5));
        assert_eq!(flush(&pending, None), (Err(Code::InvalidArgument), 5));
        assert_eq!(flush("missing", None), (Err(Code::NotFound), 5));
    }

    #[test]
    fn a_stream_needs_a_type_and_a_table() {
        let (mut catalog, _) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let mut create = |parent: &str, kind: Type| {
            let write_stream = Some(proto::WriteStream { r#type: kind.into(), ..<_>::default() });
            let request = proto::CreateWriteStreamRequest { parent: parent.into(), write_stream };
            catalog.create_stream(&request).err().map(|status| status.code)
        };

        let parent = "projects/p/datasets/d/tables/t";
        assert_eq!(create(parent, Type::Unspecified), Some(Code::InvalidArgument));
        assert_eq!(create("projects/p", Type::Pending), Some(Code::InvalidArgument));
        let missing = create("projects/p/datasets/d/tables/other", Type::Pending);
        assert_eq!(missing, Some(Code::NotFound));
        assert_eq!(create(parent, Type::Pending), None);
        let default = catalog.finalize("projects/p/datasets/d/tables/t/streams/_default");
        assert_eq!(default.err().map(|status| status.code), Some(Code::InvalidArgument));
    }
}
