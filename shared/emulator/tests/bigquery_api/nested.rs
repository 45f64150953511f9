//! Tests of fields in records, which writers send in Arrow and in protobuf.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, StructBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field};
use emulator::Profile;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};
use proto::append_rows_request::{ArrowData, ProtoData, Rows};
use proto::append_rows_response::Response;
use proto::big_query_write_client::BigQueryWriteClient;
use proto::storage_error::StorageErrorCode;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::tables::Tables;

/// Appends one row with a list `r` of records with these fields, in Arrow and in protobuf. Returns
/// the error of each, with the code of its detail.
async fn append(tables: &Tables, inner: &[&str]) -> Vec<Option<(String, StorageErrorCode)>> {
    let channel = Channel::from_shared(tables.emulator.url()).unwrap().connect().await.unwrap();
    let mut client = BigQueryWriteClient::new(channel);
    let mut errors = Vec::new();
    for rows in [arrow(inner), protobuf(inner)] {
        let request = proto::AppendRowsRequest {
            write_stream: "projects/p/datasets/d/tables/t/streams/_default".into(),
            rows: Some(rows),
            ..<_>::default()
        };
        let mut answers =
            client.append_rows(futures::stream::iter([request])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.row_errors, [], "the whole request is refused, not single rows");
        errors.push(match answer.response.unwrap() {
            Response::AppendResult(_) => None,
            Response::Error(status) => {
                let detail = status.details.first();
                let detail = detail.map(|any| proto::StorageError::decode(&*any.value).unwrap());
                Some((status.message, detail.map_or(<_>::default(), |detail| detail.code())))
            }
        });
    }
    errors
}

fn arrow(inner: &[&str]) -> Rows {
    let fields: Vec<_> =
        inner.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    let mut list = ListBuilder::new(StructBuilder::from_fields(fields, 1));
    for index in 0..inner.len() {
        list.values().field_builder::<Int64Builder>(index).unwrap().append_value(1);
    }
    list.values().append(true);
    list.append(true);
    let list = Arc::new(list.finish()) as ArrayRef;
    let batch = RecordBatch::try_from_iter_with_nullable([("r", list, true)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    let schema = writer.get_ref().clone();
    writer.write(&batch).unwrap();
    let rows = writer.get_ref()[schema.len()..].to_vec();
    Rows::ArrowRows(ArrowData {
        writer_schema: Some(proto::ArrowSchema { serialized_schema: schema.into() }),
        rows: Some(proto::ArrowRecordBatch {
            serialized_record_batch: rows.into(),
            ..<_>::default()
        }),
    })
}

fn protobuf(inner: &[&str]) -> Rows {
    let field = |name: &str, number: usize, kind: Type, label: Label| FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(i32::try_from(number).unwrap()),
        r#type: Some(kind.into()),
        label: Some(label.into()),
        type_name: (kind == Type::Message).then(|| "Row.R".into()),
        ..<_>::default()
    };
    let fields = inner.iter().enumerate();
    let fields = fields.map(|(at, name)| field(name, at + 1, Type::Int64, Label::Optional));
    let record =
        DescriptorProto { name: Some("R".into()), field: fields.collect(), ..<_>::default() };
    let descriptor = DescriptorProto {
        name: Some("Row".into()),
        field: vec![field("r", 1, Type::Message, Label::Repeated)],
        nested_type: vec![record],
        ..<_>::default()
    };
    // Each field of the record has a key of one byte and the value 1.
    let values = (1..=inner.len()).flat_map(|number| [u8::try_from(number * 8).unwrap(), 1]);
    let values: Vec<u8> = values.collect();
    let row = [vec![10, u8::try_from(values.len()).unwrap()], values].concat();
    Rows::ProtoRows(ProtoData {
        writer_schema: Some(proto::ProtoSchema { proto_descriptor: Some(descriptor) }),
        rows: Some(proto::ProtoRows { serialized_rows: vec![row.into()] }),
    })
}

fn records(fields: Value) -> Value {
    json!([{ "name": "r", "type": "RECORD", "mode": "REPEATED", "fields": fields }])
}

#[tokio::test]
async fn a_new_field_of_a_record_is_unknown_to_writers_for_a_while() {
    let tables = Tables::start().await;
    tables.create(records(json!([{ "name": "a", "type": "INTEGER" }]))).await;
    tables.emulator.set_profile(Profile { new_column_millis: 3_600_000, ..Profile::default() });
    let both = json!([{ "name": "a", "type": "INTEGER" }, { "name": "b", "type": "INTEGER" }]);
    tables.patch(json!({ "schema": { "fields": records(both) } })).await;

    for error in append(&tables, &["a", "b"]).await {
        let (message, code) = error.unwrap();
        assert_eq!(code, StorageErrorCode::SchemaMismatchExtraFields, "{message}");
        assert!(message.contains("extra fields: 'r.b'"), "{message}");
    }
    assert_eq!(append(&tables, &["a"]).await, [None, None]);

    tables.emulator.set_profile(Profile::default());
    assert_eq!(append(&tables, &["a", "b"]).await, [None, None]);
}

#[tokio::test]
async fn a_request_without_a_required_field_of_a_record_is_refused_as_a_whole() {
    let tables = Tables::start().await;
    let required = json!({ "name": "b", "type": "INTEGER", "mode": "REQUIRED" });
    tables.create(records(json!([{ "name": "a", "type": "INTEGER" }, required]))).await;

    for error in append(&tables, &["a"]).await {
        let (message, _) = error.unwrap();
        assert!(message.contains("The required field r.b is missing"), "{message}");
    }

    assert_eq!(append(&tables, &["a", "b"]).await, [None, None]);
}
