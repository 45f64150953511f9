"""Tests BigQuery with Google's Python client: datasets, tables, rows, queries and jobs."""

import datetime
import decimal
import io

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from points import absent, point, run

client = bigquery.Client(project="p", credentials=AnonymousCredentials())
SCHEMA = [
    bigquery.SchemaField("name", "STRING", mode="REQUIRED"),
    bigquery.SchemaField("age", "INT64"),
    bigquery.SchemaField("at", "TIMESTAMP"),
    bigquery.SchemaField("price", "NUMERIC"),
    bigquery.SchemaField("tags", "STRING", mode="REPEATED"),
]
AT = datetime.datetime(2026, 1, 1, 12, 30, 0, 5, tzinfo=datetime.timezone.utc)


def rows(query, **config):
    job = client.query(query, job_config=bigquery.QueryJobConfig(**config))
    return [dict(row) for row in job.result(timeout=10)]


@point("create, insert and list")
def create_insert_and_list():
    client.create_dataset("d")
    table = client.create_table(bigquery.Table("p.d.people", schema=SCHEMA))
    people = [
        {"name": "Ann", "age": 30, "at": AT, "price": "1.5", "tags": ["x", "y"]},
        {"name": "Bob", "age": 20, "at": AT, "price": None, "tags": []},
    ]
    assert client.insert_rows(table, people) == []
    listed = [dict(row) for row in client.list_rows(table)]
    assert listed[0] == {**people[0], "price": decimal.Decimal("1.5")}, listed
    assert [len(list(page)) for page in client.list_rows(table, page_size=1).pages] == [1, 1]
    names = client.list_rows(table, selected_fields=[SCHEMA[0]])
    assert [tuple(row) for row in names] == [("Ann",), ("Bob",)]


@point("a query is a job")
def query_is_a_job():
    job = client.query("SELECT name, at FROM `p.d.people` ORDER BY name LIMIT 1", job_id="mine", job_retry=None)
    assert [dict(row) for row in job.result()] == [{"name": "Ann", "at": AT}]
    again = client.get_job("mine")
    assert (again.state, again.statement_type, again.cache_hit) == ("DONE", "SELECT", False)
    assert again.total_bytes_processed == 0 and again.ended >= again.started
    assert "mine" in [job.job_id for job in client.list_jobs(max_results=10)]
    assert client.cancel_job("mine").job_id == "mine"
    try:
        client.query("SELECT 1", job_id="mine", retry=None, job_retry=None)
        raise AssertionError("the second job has the same id")
    except exceptions.Conflict:
        pass


@point("query_and_wait")
def query_and_wait():
    found = client.query_and_wait("SELECT COUNT(*) AS count, MAX(at) AS last FROM d.people",
                                  job_config=bigquery.QueryJobConfig(default_dataset="p.d"))
    assert [dict(row) for row in found] == [{"count": 2, "last": AT}]


@point("query parameters")
def parameters():
    scalar, array = bigquery.ScalarQueryParameter, bigquery.ArrayQueryParameter
    named = [
        scalar("name", "STRING", "Ann"),
        array("ages", "INT64", [20, 30]),
        scalar("at", "TIMESTAMP", AT),
        bigquery.StructQueryParameter("who", scalar("x", "INT64", 7), scalar("y", "BOOL", True)),
    ]
    query = """
        SELECT name, @ages AS ages, @at AS at, @who AS who, @who.x + 1 AS more, at = @at AS same
        FROM d.people WHERE name = @name AND age IN UNNEST(@ages)
    """
    expected = {"name": "Ann", "ages": [20, 30], "at": AT, "who": {"x": 7, "y": True}, "more": 8,
                "same": True}
    assert rows(query, query_parameters=named) == [expected]
    positional = [scalar(None, "DATE", datetime.date(2026, 2, 3)), scalar(None, "FLOAT64", 0.5),
                  scalar(None, "NUMERIC", decimal.Decimal("1.25")), scalar(None, "BYTES", b"hi")]
    expected = (datetime.date(2026, 2, 3), 0.5, decimal.Decimal("1.25"), b"hi")
    found = client.query("SELECT ?, ?, ?, ?", job_config=bigquery.QueryJobConfig(
        query_parameters=positional)).result()
    assert [tuple(row) for row in found] == [expected]


@point("dry run")
def dry_run():
    job = client.query("SELECT name FROM d.people",
                       job_config=bigquery.QueryJobConfig(dry_run=True))
    assert job.total_bytes_processed == 0 and job.schema[0].name == "name"


@point("destination tables and write dispositions")
def destination_and_disposition():
    config = {"destination": "p.d.names", "write_disposition": "WRITE_TRUNCATE"}
    for _ in range(2):
        rows("SELECT name, at, tags FROM d.people", **config)
    assert client.get_table("p.d.names").num_rows == 2
    rows("SELECT name FROM d.people", destination="p.d.names", write_disposition="WRITE_APPEND")
    assert rows("SELECT COUNT(*) AS n FROM d.names") == [{"n": 4}]
    try:
        rows("SELECT name FROM d.people", destination="p.d.names")
        raise AssertionError("WRITE_EMPTY wrote into a table with rows")
    except exceptions.Conflict:
        pass


@point("pages of results")
def pages():
    job = client.query("SELECT number FROM UNNEST(GENERATE_ARRAY(1, 25)) AS number")
    found = job.result(page_size=10)
    assert [len(list(page)) for page in found.pages] == [10, 10, 5]
    assert found.total_rows == 25


@point("INSERT, UPDATE, MERGE and DELETE")
def changes():
    insert = client.query("INSERT INTO d.people (name, age, at) VALUES ('Cid', 40, '2026-01-02')")
    insert.result()
    assert (insert.num_dml_affected_rows, insert.dml_stats.inserted_row_count) == (1, 1)
    update = client.query("UPDATE d.people SET age = age + 1, tags = ['z'] WHERE age >= 30")
    update.result()
    assert update.num_dml_affected_rows == 2
    merge = client.query("""
        MERGE d.people AS t USING (SELECT 'Ann' AS name, 99 AS age UNION ALL SELECT 'Dan', 1) AS s
        ON t.name = s.name
        WHEN MATCHED THEN UPDATE SET age = s.age
        WHEN NOT MATCHED THEN INSERT (name, age) VALUES (s.name, s.age)
    """)
    merge.result()
    assert merge.num_dml_affected_rows == 2
    delete = client.query("DELETE FROM d.people WHERE name = 'Bob'")
    delete.result()
    assert delete.dml_stats.deleted_row_count == 1
    found = rows("SELECT name, age, tags FROM d.people ORDER BY name")
    assert found == [{"name": "Ann", "age": 99, "tags": ["z"]},
                     {"name": "Cid", "age": 41, "tags": ["z"]},
                     {"name": "Dan", "age": 1, "tags": []}], found
    assert len(list(client.list_rows("p.d.people"))) == 3


@point("errors with their places")
def errors():
    for query, kind, words in [
        ("SELEC 1", exceptions.BadRequest, "at [1:1]"),
        ("SELECT 1 +\n FRM d.people", exceptions.BadRequest, "at [2:"),
        ("SELECT nothing FROM d.people", exceptions.BadRequest, "Unrecognized name: nothing"),
        ("SELECT * FROM d.missing", exceptions.NotFound, "Not found: Table p:d.missing"),
        ("DELETE FROM d.people", exceptions.BadRequest, "must have a WHERE clause"),
    ]:
        try:
            rows(query)
            raise AssertionError(f"no error: {query}")
        except kind as error:
            assert words in error.message, error.message


@point("load jobs of JSON and CSV")
def load_json_and_csv():
    people = [{"name": "Eve", "age": 5, "at": "2026-01-01T00:00:00Z"}, {"name": "Fay"}]
    config = bigquery.LoadJobConfig(schema=SCHEMA)
    job = client.load_table_from_json(people, "p.d.loaded", job_config=config)
    assert job.result().output_rows == 2
    config = bigquery.LoadJobConfig(source_format="CSV", skip_leading_rows=1, schema=SCHEMA[:2],
                                    write_disposition="WRITE_TRUNCATE")
    job = client.load_table_from_file(io.BytesIO(b'name,age\n"Gil, the",\nHal,7\n'),
                                      "p.d.loaded", job_config=config)
    job.result()
    assert rows("SELECT * FROM d.loaded ORDER BY name") == [
        {"name": "Gil, the", "age": None}, {"name": "Hal", "age": 7}]
    bad = io.BytesIO(b"Ian,x\nJim,1\n")
    config = bigquery.LoadJobConfig(source_format="CSV", max_bad_records=1)
    job = client.load_table_from_file(bad, "p.d.loaded", job_config=config)
    assert job.result().output_rows == 1 and len(job.errors) == 1
    bad.seek(0)
    config = bigquery.LoadJobConfig(source_format="CSV")
    try:
        client.load_table_from_file(bad, "p.d.loaded", job_config=config).result()
        raise AssertionError("a bad row was loaded")
    except exceptions.BadRequest:
        pass


@point("load jobs with autodetect")
def load_with_autodetect():
    config = bigquery.LoadJobConfig(autodetect=True)
    client.load_table_from_json([{"a": 1, "b": {"c": "x"}, "d": [1.5]}], "p.d.found",
                                job_config=config).result()
    assert rows("SELECT a, b.c, d FROM d.found") == [{"a": 1, "c": "x", "d": [1.5]}]


@point("INFORMATION_SCHEMA")
def metadata():
    found = rows("SELECT table_name FROM d.INFORMATION_SCHEMA.TABLES WHERE table_name = 'people'")
    assert found == [{"table_name": "people"}]
    found = rows("""SELECT column_name, data_type FROM `p.d.INFORMATION_SCHEMA.COLUMNS`
                    WHERE table_name = 'people' ORDER BY ordinal_position""")
    assert [row["data_type"] for row in found] == [
        "STRING", "INT64", "TIMESTAMP", "NUMERIC", "ARRAY<STRING>"]
    assert {"schema_name": "d"} in rows("SELECT schema_name FROM INFORMATION_SCHEMA.SCHEMATA")


@point("functions and types")
def functions():
    query = """
        SELECT DATE(at) AS day, TIMESTAMP_TRUNC(at, HOUR) AS hour, EXTRACT(MINUTE FROM at) AS minute,
          TIMESTAMP_ADD(at, INTERVAL 1 DAY) AS tomorrow, 1 / 2 AS half, IF(TRUE, 'a', 'b') AS letter,
          CAST('7' AS INT64) AS seven, SAFE_CAST('x' AS INT64) AS nothing, [1, 2] AS list,
          STRUCT(1 AS a, 'b' AS b) AS record, FORMAT_TIMESTAMP('%Y-%m', at) AS month,
          CURRENT_TIMESTAMP() > at AS past, 'A' LIKE 'a' AS alike
        FROM (SELECT TIMESTAMP '2026-01-01 12:30:00.000005+00' AS at)
    """
    hour = AT.replace(minute=0, microsecond=0)
    expected = {"day": AT.date(), "hour": hour, "minute": 30, "half": 0.5, "letter": "a",
                "tomorrow": AT + datetime.timedelta(days=1), "seven": 7, "nothing": None,
                "list": [1, 2], "record": {"a": 1, "b": "b"}, "month": "2026-01", "past": True,
                "alike": False}
    assert rows(query) == [expected], rows(query)


@absent("legacy SQL", "legacy SQL")
def legacy():
    rows("SELECT 1", use_legacy_sql=True)


@absent("copy jobs", "copy jobs")
def copy():
    client.copy_table("p.d.people", "p.d.copy").result()


@absent("extract jobs", "extract jobs")
def extract():
    client.extract_table("p.d.people", "gs://b/o").result()


@absent("SELECT * EXCEPT", "SELECT * EXCEPT")
def star_except():
    rows("SELECT * EXCEPT (age) FROM d.people")


@absent("scripts", "scripts of several statements")
def scripts():
    rows("SELECT 1; SELECT 2")


@absent("load jobs of Parquet", "load jobs of format PARQUET")
def parquet():
    config = bigquery.LoadJobConfig(source_format="PARQUET")
    client.load_table_from_file(io.BytesIO(b"PAR1"), "p.d.parquet", job_config=config).result()


run()
