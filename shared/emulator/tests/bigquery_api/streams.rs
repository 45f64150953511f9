//! Write streams with protobuf rows, and read sessions, on generated clients.

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};
use proto::append_rows_request::{ProtoData, Rows};
use proto::append_rows_response::Response;
use proto::big_query_read_client::BigQueryReadClient;
use proto::big_query_write_client::BigQueryWriteClient;
use proto::write_stream::Type as StreamType;
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use crate::tables::Tables;

const TABLE: &str = "projects/p/datasets/d/tables/t";

struct Storage {
    tables: Tables,
    write: BigQueryWriteClient<Channel>,
    read: BigQueryReadClient<Channel>,
}

impl Storage {
    async fn start() -> Self {
        let tables = Tables::start().await;
        tables.create(json!([{ "name": "id", "type": "INTEGER" }])).await;
        let channel = Channel::from_shared(tables.emulator.url()).unwrap().connect().await.unwrap();
        let (write, read) =
            (BigQueryWriteClient::new(channel.clone()), BigQueryReadClient::new(channel));
        Self { tables, write, read }
    }

    async fn stream(&mut self, kind: StreamType) -> String {
        let write_stream = Some(proto::WriteStream { r#type: kind.into(), ..<_>::default() });
        let request = proto::CreateWriteStreamRequest { parent: TABLE.into(), write_stream };
        self.write.create_write_stream(request).await.unwrap().into_inner().name
    }

    /// The answers to requests with one row each, at these offsets.
    async fn append(&mut self, stream: &str, rows: &[(u8, Option<i64>)]) -> Vec<Result<i64, Code>> {
        let requests: Vec<_> =
            rows.iter().map(|(id, offset)| append(stream, *id, *offset)).collect();
        let mut answers =
            self.write.append_rows(futures::stream::iter(requests)).await.unwrap().into_inner();
        let mut told = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            told.push(match answer.response.unwrap() {
                Response::AppendResult(result) => Ok(result.offset.unwrap_or(-1)),
                Response::Error(status) => Err(Code::from_i32(status.code)),
            });
        }
        told
    }

    async fn ids(&self) -> serde_json::Value {
        self.tables.query("SELECT id FROM d.t ORDER BY id").await
    }
}

/// A request with one row, whose id is below 128.
fn append(stream: &str, id: u8, offset: Option<i64>) -> proto::AppendRowsRequest {
    let field = FieldDescriptorProto {
        name: Some("id".into()),
        number: Some(1),
        r#type: Some(Type::Int64.into()),
        label: Some(Label::Optional.into()),
        ..<_>::default()
    };
    let descriptor = DescriptorProto { field: vec![field], ..<_>::default() };
    let writer_schema = Some(proto::ProtoSchema { proto_descriptor: Some(descriptor) });
    let rows = Some(proto::ProtoRows { serialized_rows: vec![vec![8, id].into()] });
    proto::AppendRowsRequest {
        write_stream: stream.into(),
        offset,
        rows: Some(Rows::ProtoRows(ProtoData { writer_schema, rows })),
        ..<_>::default()
    }
}

#[tokio::test]
async fn committed_streams_take_each_offset_once() {
    let mut storage = Storage::start().await;
    let stream = storage.stream(StreamType::Committed).await;

    let rows = [(1, Some(0)), (2, Some(0)), (3, Some(5)), (4, Some(1)), (5, None)];
    let told = storage.append(&stream, &rows).await;

    let expected = [Ok(0), Err(Code::AlreadyExists), Err(Code::OutOfRange), Ok(1), Ok(2)];
    assert_eq!(told, expected);
    assert_eq!(storage.ids().await, json!([["1"], ["4"], ["5"]]));
}

#[tokio::test]
async fn rows_of_pending_streams_come_with_the_commit() {
    let mut storage = Storage::start().await;
    let (first, second) =
        (storage.stream(StreamType::Pending).await, storage.stream(StreamType::Pending).await);
    storage.append(&first, &[(1, Some(0)), (2, Some(1))]).await;
    storage.append(&second, &[(3, None)]).await;
    let request = proto::BatchCommitWriteStreamsRequest {
        parent: TABLE.into(),
        write_streams: vec![first.clone(), second.clone()],
    };

    let too_early = storage.write.batch_commit_write_streams(request.clone()).await.unwrap();
    for name in [first.clone(), second] {
        storage
            .write
            .finalize_write_stream(proto::FinalizeWriteStreamRequest { name })
            .await
            .unwrap();
    }
    let late = storage.append(&first, &[(9, None)]).await;
    assert_eq!(storage.ids().await, json!([]));
    let committed = storage.write.batch_commit_write_streams(request).await.unwrap().into_inner();

    assert_eq!(too_early.into_inner().stream_errors.len(), 2);
    assert_eq!(late, [Err(Code::InvalidArgument)]);
    assert!(committed.commit_time.is_some() && committed.stream_errors.is_empty());
    assert_eq!(storage.ids().await, json!([["1"], ["2"], ["3"]]));
}

#[tokio::test]
async fn rows_of_buffered_streams_come_with_a_flush() {
    let mut storage = Storage::start().await;
    let stream = storage.stream(StreamType::Buffered).await;
    storage.append(&stream, &[(1, Some(0)), (2, Some(1)), (3, Some(2))]).await;
    let flush =
        |offset| proto::FlushRowsRequest { write_stream: stream.clone(), offset: Some(offset) };

    storage.write.flush_rows(flush(1)).await.unwrap();
    storage.write.flush_rows(flush(0)).await.unwrap();
    let beyond = storage.write.flush_rows(flush(3)).await.unwrap_err();

    assert_eq!(beyond.code(), Code::OutOfRange);
    assert_eq!(storage.ids().await, json!([["1"], ["2"]]));
}

#[tokio::test]
async fn the_default_stream_takes_protobuf_rows_and_no_offset() {
    let mut storage = Storage::start().await;
    let stream = format!("{TABLE}/streams/_default");

    assert_eq!(storage.append(&stream, &[(1, None)]).await, [Ok(-1)]);
    let requests = futures::stream::iter([append(&stream, 2, Some(0))]);
    let mut answers = storage.write.append_rows(requests).await.unwrap().into_inner();

    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(storage.ids().await, json!([["1"]]));
}

#[tokio::test]
async fn a_read_session_goes_on_at_an_offset_and_sees_no_later_rows() {
    let mut storage = Storage::start().await;
    let many = "INSERT d.t SELECT number FROM UNNEST(GENERATE_ARRAY(1, 2500)) AS number";
    storage.tables.query(many).await;
    let options = proto::read_session::TableReadOptions {
        row_restriction: "id > 100 OR id = 7".into(),
        ..<_>::default()
    };
    let session = proto::ReadSession {
        table: TABLE.into(),
        data_format: proto::DataFormat::Arrow.into(),
        read_options: Some(options),
        ..<_>::default()
    };
    let request = proto::CreateReadSessionRequest {
        parent: "projects/p".into(),
        read_session: Some(session),
        ..<_>::default()
    };
    let session = storage.read.create_read_session(request).await.unwrap().into_inner();
    storage.tables.query("INSERT d.t VALUES (9999)").await;

    let mut counts = Vec::new();
    for offset in [0, 1, 2000] {
        let read_stream = session.streams[0].name.clone();
        let request = proto::ReadRowsRequest { read_stream, offset };
        let mut rows = storage.read.read_rows(request).await.unwrap().into_inner();
        let mut count = 0;
        while let Some(page) = rows.message().await.unwrap() {
            count += page.row_count;
        }
        counts.push(count);
    }

    assert_eq!(counts, [2401, 2400, 401]);
}
