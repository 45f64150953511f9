//! Tests of write streams with protobuf rows, and of read sessions, with generated clients.

use std::time::Duration;

use emulator::{Fault, Kind, Profile};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};
use proto::append_rows_request::{MissingValueInterpretation, ProtoData, Rows};
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

    /// Sends requests of one row each at these offsets, and returns the answers.
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

    /// Sends one row to the default stream, and returns the error of its answer or of the stream.
    async fn refused(&mut self, request: proto::AppendRowsRequest) -> (Code, String) {
        let requests = futures::stream::iter([request]);
        let mut answers = self.write.append_rows(requests).await.unwrap().into_inner();
        match answers.message().await {
            Ok(answer) => match answer.unwrap().response.unwrap() {
                Response::Error(status) => (Code::from_i32(status.code), status.message),
                Response::AppendResult(result) => panic!("no error: {result:?}"),
            },
            Err(status) => (status.code(), status.message().to_owned()),
        }
    }

    async fn ids(&self) -> serde_json::Value {
        self.tables.query("SELECT id FROM d.t ORDER BY id").await
    }
}

/// Builds a request with one row, whose id is below 128.
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

#[tokio::test]
async fn streams_with_a_name_and_protobuf_rows_meet_the_conditions_of_the_profile() {
    let mut storage = Storage::start().await;
    let named = storage.stream(StreamType::Committed).await;
    let faults = storage.tables.emulator.faults().clone();
    let kind = Kind::AppendError {
        code: 9,
        storage_error: Some("STREAM_FINALIZED".into()),
        message: Some("it is over".into()),
        ends_stream: false,
    };

    storage
        .tables
        .emulator
        .set_profile(Profile { new_table_millis: 3_600_000, ..Profile::default() });
    let mut codes = Vec::new();
    for stream in [named.clone(), format!("{TABLE}/streams/_default")] {
        codes.push(storage.refused(append(&stream, 1, None)).await.0);
        let fault = Fault {
            method: "AppendRows".into(),
            topic: None,
            count: 1,
            for_millis: None,
            kind: kind.clone(),
        };
        faults.add(fault);
        let (code, message) = storage.refused(append(&stream, 1, None)).await;
        assert!(message.starts_with("it is over") && message.contains(&stream), "{message}");
        codes.push(code);
    }

    assert_eq!(codes, [Code::NotFound, Code::FailedPrecondition].repeat(2));
}

#[tokio::test]
async fn requests_to_a_stream_with_a_name_wait_for_their_answers_together() {
    let mut storage = Storage::start().await;
    let stream = storage.stream(StreamType::Committed).await;
    let latency = serde_json::from_value(json!({ "min_millis": 500, "max_millis": 500 })).unwrap();
    let latencies = [("AppendRows".to_owned(), latency)].into();
    storage.tables.emulator.set_profile(Profile { latencies, ..Profile::default() });
    let begin = tokio::time::Instant::now();

    storage.append(&stream, &[(1, None); 40]).await;

    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(took < Duration::from_secs(20), "one after the other: {took:?}");
}

#[tokio::test]
async fn protobuf_rows_have_the_defaults_of_missing_columns_where_that_is_asked_for() {
    let mut storage = Storage::start().await;
    let field = |name: &str, mode: &str, default: &str| json!({ "name": name, "type": "STRING", "mode": mode, "defaultValueExpression": default });
    let fields = json!([{ "name": "id", "type": "INTEGER" }, field("b", "REQUIRED", "'x'"),
                        field("c", "NULLABLE", "'y'"), field("d", "NULLABLE", "'z'")]);
    let table = json!({ "tableReference": { "tableId": "u" }, "schema": { "fields": fields } });
    storage.tables.call(reqwest::Method::POST, "datasets/d/tables", table).await;
    let stream = "projects/p/datasets/d/tables/u/streams/_default";
    let (default, null) =
        (MissingValueInterpretation::DefaultValue, MissingValueInterpretation::NullValue);

    let (code, message) = storage.refused(append(stream, 1, None)).await;
    let first = proto::AppendRowsRequest {
        default_missing_value_interpretation: default.into(),
        missing_value_interpretations: [("D".to_owned(), null.into())].into(),
        ..append(stream, 2, None)
    };
    // The default interpretation stays in effect, but that of columns does not.
    let requests = futures::stream::iter([first, append(stream, 3, None)]);
    let mut answers = storage.write.append_rows(requests).await.unwrap().into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(matches!(answer.response, Some(Response::AppendResult(_))), "{answer:?}");
    }

    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("The required field b is missing"), "{message}");
    let rows = storage.tables.query("SELECT id, b, c, d FROM d.u ORDER BY id").await;
    assert_eq!(rows, json!([["2", "x", "y", null], ["3", "x", "y", "z"]]));
}

#[tokio::test]
async fn rows_that_a_stream_holds_find_their_columns_and_no_later_table() {
    let mut storage = Storage::start().await;
    let stream = storage.stream(StreamType::Buffered).await;
    storage.append(&stream, &[(1, None), (2, None)]).await;
    let fields = json!({ "fields": [
        { "name": "more", "type": "STRING" }, { "name": "id", "type": "INTEGER" }] });
    storage.tables.patch(json!({ "schema": fields })).await;
    let flush =
        |offset| proto::FlushRowsRequest { write_stream: stream.clone(), offset: Some(offset) };

    storage.write.flush_rows(flush(0)).await.unwrap();
    assert_eq!(storage.tables.query("SELECT id, more FROM d.t").await, json!([["1", null]]));
    storage.tables.query("CREATE OR REPLACE TABLE d.t (id INT64)").await;
    let gone = storage.write.flush_rows(flush(1)).await.unwrap_err();

    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(storage.ids().await, json!([]));
}
