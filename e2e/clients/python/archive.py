"""Prints the lines of archived objects as JSON, one after another.

Arguments: the reader (duckdb or pyarrow), the format, and a folder with objects of that format.
"""

import base64
import datetime
import glob
import json
import sys

COLUMNS = ["id", "batchKey", "payload", "archivedAt", "ingestId", "publishTime", "attributes"]
TIMES = ["archivedAt", "publishTime"]


def with_duckdb(format, pattern):
    import duckdb

    payload = "originalPubSubPayload"
    if format == "parquet":
        source, payload = f"read_parquet('{pattern}')", f"to_base64({payload})"
    else:
        source = f"""read_json('{pattern}', format = 'newline_delimited', columns = {{
            id: 'VARCHAR', batchKey: 'VARCHAR', originalPubSubPayload: 'VARCHAR', archivedAt: 'TIMESTAMP',
            ingestId: 'VARCHAR', publishTime: 'TIMESTAMP', attributes: 'MAP(VARCHAR, VARCHAR)'
        }})"""
    rows = duckdb.sql(f"""
        SELECT id, batchKey, {payload}, epoch_us(archivedAt), ingestId, epoch_us(publishTime), attributes
        FROM {source}
    """)
    for row in rows.fetchall():
        yield dict(zip(COLUMNS, row))


def with_pyarrow(format, pattern):
    for file in sorted(glob.glob(pattern, recursive=True)):
        yield from parquet_rows(file) if format == "parquet" else json_rows(file)


def parquet_rows(file):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file, partitioning=None)
    for name in TIMES:
        column = table.schema.get_field_index(name)
        assert table.schema.field(column).type == pa.timestamp("us", "UTC"), table.schema
        table = table.set_column(column, name, table.column(name).cast(pa.int64()))
    for row in table.to_pylist():
        row["payload"] = base64.b64encode(row.pop("originalPubSubPayload")).decode()
        row["attributes"] = dict(row["attributes"] or [])
        yield row


def json_rows(file):
    import pyarrow as pa
    import pyarrow.json as pj

    texts = pa.schema([(name, pa.string()) for name in [*TIMES, "ingestId"]])
    table = pj.read_json(
        file,
        read_options=pj.ReadOptions(block_size=64 << 20),
        parse_options=pj.ParseOptions(explicit_schema=texts),
    )
    for row in table.to_pylist():
        row["payload"] = row.pop("originalPubSubPayload")
        # The type has the attributes of all rows of the object. A row has nulls for those of other rows.
        attributes = row.get("attributes") or {}
        row["attributes"] = {name: value for name, value in attributes.items() if value is not None}
        for name in TIMES:
            row[name] = micros(row[name])
        yield row


def micros(text):
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (datetime.datetime.fromisoformat(text) - epoch) // datetime.timedelta(microseconds=1)


reader, format, folder = sys.argv[1:]
readers = {"duckdb": with_duckdb, "pyarrow": with_pyarrow}
for row in readers[reader](format, f"{folder}/**/*.{format}"):
    row["attributes"] = row["attributes"] or {}
    print(json.dumps({name: row[name] for name in COLUMNS}))
