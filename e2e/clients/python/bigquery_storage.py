"""Tests BigQuery's Storage APIs with Google's Python client: protobuf rows, write streams, reads."""

import datetime
import decimal
import os
import urllib.parse

import grpc
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, bigquery_storage_v1
from google.cloud.bigquery_storage_v1 import types, writer
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
    BigQueryWriteGrpcTransport,
)
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from points import absent, point, run

address = urllib.parse.urlsplit(os.environ["BIGQUERY_EMULATOR_HOST"]).netloc
client = bigquery.Client(project="p", credentials=AnonymousCredentials())
write = bigquery_storage_v1.BigQueryWriteClient(
    transport=BigQueryWriteGrpcTransport(channel=grpc.insecure_channel(address))
)
read = bigquery_storage_v1.BigQueryReadClient(
    transport=BigQueryReadGrpcTransport(channel=grpc.insecure_channel(address))
)
TABLE = "projects/p/datasets/s/tables/t"
SCHEMA = [
    bigquery.SchemaField("id", "INT64"),
    bigquery.SchemaField("name", "STRING"),
    bigquery.SchemaField("at", "TIMESTAMP"),
    bigquery.SchemaField("day", "DATE"),
    bigquery.SchemaField("price", "NUMERIC"),
    bigquery.SchemaField("tags", "INT64", mode="REPEATED"),
    bigquery.SchemaField("place", "RECORD", fields=[bigquery.SchemaField("city", "STRING")]),
]
client.create_dataset("s")
table = client.create_table(bigquery.Table("p.s.t", schema=SCHEMA))


def message_type():
    """Returns the type of the rows, as protoc would generate it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="row.proto", package="some.package", syntax="proto2")
    row = file.message_type.add(name="Row")
    kinds = [("id", field.TYPE_INT64), ("name", field.TYPE_STRING), ("at", field.TYPE_INT64),
             ("day", field.TYPE_INT32), ("price", field.TYPE_STRING), ("tags", field.TYPE_INT64)]
    for number, (name, kind) in enumerate(kinds, 1):
        label = field.LABEL_REPEATED if name == "tags" else field.LABEL_OPTIONAL
        row.field.add(name=name, number=number, type=kind, label=label)
    row.nested_type.add(name="Place").field.add(
        name="city", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    row.field.add(name="place", number=7, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL,
                  type_name=".some.package.Row.Place")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("some.package.Row"))


Row = message_type()


def request(*rows, offset=None):
    data = types.AppendRowsRequest.ProtoData()
    data.rows = types.ProtoRows(serialized_rows=[row.SerializeToString() for row in rows])
    return types.AppendRowsRequest(proto_rows=data, offset=offset)


def open_stream(name):
    """Returns the writer of the client, which sends the schema once."""
    template = types.AppendRowsRequest(write_stream=name)
    descriptor = descriptor_pb2.DescriptorProto()
    Row.DESCRIPTOR.CopyToProto(descriptor)
    schema = types.ProtoSchema(proto_descriptor=descriptor)
    template.proto_rows = types.AppendRowsRequest.ProtoData(writer_schema=schema)
    return writer.AppendRowsStream(write, template)


def stream_of(kind):
    return write.create_write_stream(parent=TABLE, write_stream=types.WriteStream(type_=kind))


def ids():
    return sorted(row["id"] for row in client.query("SELECT id FROM s.t").result())


@point("protobuf rows on the default stream")
def default_stream():
    stream = open_stream(f"{TABLE}/streams/_default")
    row = Row(id=1, name="Ann", at=1_767_225_600_000_000, day=20_454, price="1.25", tags=[1, 2])
    row.place.city = "A"
    stream.send(request(row, Row(id=2))).result(timeout=10)
    stream.close()
    found = [dict(row) for row in client.list_rows(table)]
    assert found[0] == {
        "id": 1, "name": "Ann", "at": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        "day": datetime.date(2026, 1, 1), "price": decimal.Decimal("1.25"), "tags": [1, 2],
        "place": {"city": "A"}}, found
    assert found[1]["name"] is None and found[1]["tags"] == []


@point("pending streams are seen after their commit")
def pending():
    stream = stream_of(types.WriteStream.Type.PENDING)
    rows = open_stream(stream.name)
    assert rows.send(request(Row(id=3), offset=0)).result(timeout=10).append_result.offset == 0
    assert rows.send(request(Row(id=4), offset=1)).result(timeout=10).append_result.offset == 1
    rows.close()
    assert write.finalize_write_stream(name=stream.name).row_count == 2
    assert ids() == [1, 2]
    commit = types.BatchCommitWriteStreamsRequest(parent=TABLE, write_streams=[stream.name])
    assert write.batch_commit_write_streams(commit).commit_time
    assert ids() == [1, 2, 3, 4]
    again = write.batch_commit_write_streams(commit).stream_errors
    assert again[0].code == types.StorageError.StorageErrorCode.STREAM_ALREADY_COMMITTED


@point("committed streams check offsets")
def committed():
    stream = stream_of(types.WriteStream.Type.COMMITTED)
    rows = open_stream(stream.name)
    rows.send(request(Row(id=5), offset=0)).result(timeout=10)
    assert ids() == [1, 2, 3, 4, 5]
    for offset, kind in [(0, exceptions.AlreadyExists), (7, exceptions.OutOfRange)]:
        try:
            rows.send(request(Row(id=6), offset=offset)).result(timeout=10)
            raise AssertionError(f"offset {offset} was taken")
        except kind:
            pass
    rows.close()
    assert ids() == [1, 2, 3, 4, 5]


@point("buffered streams are seen as far as they are flushed")
def buffered():
    stream = stream_of(types.WriteStream.Type.BUFFERED)
    rows = open_stream(stream.name)
    rows.send(request(Row(id=7), Row(id=8), offset=0)).result(timeout=10)
    assert ids() == [1, 2, 3, 4, 5]
    write.flush_rows(types.FlushRowsRequest(write_stream=stream.name, offset=0))
    assert ids() == [1, 2, 3, 4, 5, 7]
    write.flush_rows(types.FlushRowsRequest(write_stream=stream.name, offset=1))
    assert ids() == [1, 2, 3, 4, 5, 7, 8]
    rows.close()


@point("a read session in Arrow")
def read_session():
    session = read.create_read_session(
        parent="projects/p", max_stream_count=1,
        read_session=types.ReadSession(
            table=TABLE, data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(
                selected_fields=["id", "name", "at", "tags", "place"],
                row_restriction="id < 3 AND id >= 1")))
    rows = read.read_rows(session.streams[0].name).to_arrow(session).to_pylist()
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    assert [dict(row, at=row["at"] and row["at"].astimezone(datetime.timezone.utc)) for row in rows] == [
        {"id": 1, "name": "Ann", "at": at, "tags": [1, 2], "place": {"city": "A"}},
        {"id": 2, "name": None, "at": None, "tags": [], "place": None}], rows
    later = read.read_rows(session.streams[0].name, offset=1).to_arrow(session)
    assert later.column("id").to_pylist() == [2]


@point("tables and results as Arrow")
def to_arrow():
    every = client.list_rows(table).to_arrow(bqstorage_client=read)
    assert every.num_rows == 7 and every.column("price").to_pylist()[0] == decimal.Decimal("1.25")
    job = client.query("SELECT number, number > 4999 AS late FROM UNNEST(GENERATE_ARRAY(1, 5000)) AS number")
    found = job.result().to_arrow(bqstorage_client=read)
    assert found.num_rows == 5000 and found.column("late").to_pylist()[-1] is True


@absent("read sessions in Avro", "AVRO")
def avro():
    read.create_read_session(
        parent="projects/p", max_stream_count=1, retry=None,
        read_session=types.ReadSession(table=TABLE, data_format=types.DataFormat.AVRO))


run()
