//! Tests of jobs: queries, statements that change rows, and loads.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::tables::{Tables, values};

fn query_job(id: &str, query: &str) -> Value {
    json!({
        "jobReference": { "projectId": "p", "jobId": id },
        "configuration": { "query": { "query": query, "useLegacySql": false } },
    })
}

async fn people() -> Tables {
    let tables = Tables::start().await;
    tables
        .create(json!([
            { "name": "name", "type": "STRING", "mode": "REQUIRED" },
            { "name": "age", "type": "INTEGER" },
            { "name": "at", "type": "TIMESTAMP" },
        ]))
        .await;
    let query =
        "INSERT d.t (name, age, at) VALUES ('a', 1, '2026-01-01'), ('b', 2, NULL), ('c', 3, NULL)";
    tables.query(query).await;
    tables
}

#[tokio::test]
async fn times_are_whole_microseconds_where_that_is_asked_for() {
    let tables = people().await;
    let data = "datasets/d/tables/t/data?maxResults=1&selectedFields=at";

    let (_, plain) = tables.call(Method::GET, data, json!({})).await;
    let micros = format!("{data}&formatOptions.useInt64Timestamp=true");
    let (_, listed) = tables.call(Method::GET, &micros, json!({})).await;
    let query = "SELECT at, [at] AS list, STRUCT(at AS x) AS record FROM d.t WHERE age = 1";
    let body = json!({ "query": query, "formatOptions": { "useInt64Timestamp": true } });
    let (_, queried) = tables.call(Method::POST, "queries", body).await;

    assert_eq!(values(&plain), json!([["1767225600.000000"]]));
    assert_eq!(values(&listed), json!([["1767225600000000"]]));
    let time = "1767225600000000";
    assert_eq!(values(&queried), json!([[time, [{ "v": time }], { "f": [{ "v": time }] }]]));
}

#[tokio::test]
async fn a_job_can_be_asked_for_until_it_is_deleted() {
    let tables = people().await;

    let (status, made) = tables
        .call(Method::POST, "jobs", query_job("one", "SELECT name FROM d.t ORDER BY name"))
        .await;

    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["status"]["state"], "DONE");
    assert_eq!(made["statistics"]["query"]["statementType"], "SELECT");
    let (_, got) = tables.call(Method::GET, "jobs/one?location=US", json!({})).await;
    assert_eq!(got, made);
    let (again, _) = tables.call(Method::POST, "jobs", query_job("one", "SELECT 1")).await;
    assert_eq!(again, StatusCode::CONFLICT);
    let (_, listed) = tables.call(Method::GET, "jobs?maxResults=1", json!({})).await;
    assert_eq!(listed["jobs"][0]["jobReference"]["jobId"], "one");
    assert_eq!(listed["nextPageToken"], "1");
    let (_, page) = tables.call(Method::GET, "queries/one?maxResults=2", json!({})).await;
    assert_eq!((values(&page), &page["totalRows"]), (json!([["a"], ["b"]]), &json!("3")));
    let next = format!("queries/one?pageToken={}", page["pageToken"].as_str().unwrap());
    let (_, page) = tables.call(Method::GET, &next, json!({})).await;
    assert_eq!((values(&page), page.get("pageToken")), (json!([["c"]]), None));
    let destination = &made["configuration"]["query"]["destinationTable"];
    let path = format!(
        "datasets/{}/tables/{}/data",
        destination["datasetId"].as_str().unwrap(),
        destination["tableId"].as_str().unwrap(),
    );
    let (_, rows) = tables.call(Method::GET, &path, json!({})).await;
    assert_eq!(values(&rows), json!([["a"], ["b"], ["c"]]));
    tables.call(Method::DELETE, "jobs/one/delete", json!({})).await;
    assert_eq!(tables.call(Method::GET, "jobs/one", json!({})).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_failed_query_is_refused_or_a_failed_job() {
    let tables = people().await;

    let (status, refused) =
        tables.call(Method::POST, "jobs", query_job("bad", "SELECT name\nFROM d.t WHRE 1")).await;
    let (_, failed) =
        tables.call(Method::POST, "jobs", query_job("lost", "SELECT * FROM d.none")).await;

    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    assert_eq!(refused["error"]["errors"][0]["reason"], "invalidQuery");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("at [2:15]"), "{message}");
    assert_eq!(tables.call(Method::GET, "jobs/bad", json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(failed["status"]["errorResult"]["reason"], "notFound", "{failed}");
    let (status, _) = tables.call(Method::GET, "queries/lost", json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_default_dataset_is_for_names_without_one_alone() {
    let tables = people().await;
    let count = async |query: &str, project: &str| {
        let dataset = json!({ "projectId": project, "datasetId": "d" });
        let body = json!({ "query": query, "defaultDataset": dataset });
        tables.call(Method::POST, "queries", body).await.0
    };

    assert_eq!(count("SELECT COUNT(*) FROM t", "p").await, StatusCode::OK);
    assert_eq!(count("SELECT COUNT(*) FROM t", "q").await, StatusCode::NOT_FOUND);
    assert_eq!(count("SELECT COUNT(*) FROM d.t", "q").await, StatusCode::OK);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let tables = people().await;
    let mut job = query_job("dry", "DELETE d.t WHERE TRUE");
    job["configuration"]["dryRun"] = true.into();

    let (_, answer) = tables.call(Method::POST, "jobs", job).await;

    assert_eq!(answer["statistics"]["query"]["statementType"], "DELETE");
    assert_eq!(tables.query("SELECT COUNT(*) FROM d.t").await, json!([["3"]]));
    assert_eq!(tables.call(Method::GET, "jobs/dry", json!({})).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn statements_count_the_rows_that_they_change() {
    let tables = people().await;
    let merge = "MERGE d.t AS t USING (SELECT 'a' AS name, 10 AS age UNION ALL SELECT 'z', 26) AS s
                 ON t.name = s.name
                 WHEN MATCHED AND s.age > 100 THEN DELETE
                 WHEN MATCHED THEN UPDATE SET age = s.age
                 WHEN NOT MATCHED THEN INSERT (name, age) VALUES (name, CASE WHEN TRUE THEN age END)
                 WHEN NOT MATCHED BY SOURCE AND t.age = 3 THEN DELETE";
    let statements = [
        ("INSERT INTO d.t (name) SELECT CONCAT(name, '2') FROM d.t WHERE age = 1", (1, 0, 0)),
        ("UPDATE d.t SET age = age * 2, at = CURRENT_TIMESTAMP() WHERE age > 1", (0, 2, 0)),
        ("UPDATE d.t SET age = age - 3 WHERE name = 'c'", (0, 1, 0)),
        ("DELETE FROM d.t WHERE name = 'b'", (0, 0, 1)),
        (merge, (1, 1, 1)),
    ];

    for (query, (inserted, updated, deleted)) in statements {
        let body = json!({ "query": query, "useLegacySql": false });
        let (_, answer) = tables.call(Method::POST, "queries", body).await;
        let counts = json!({
            "insertedRowCount": inserted.to_string(),
            "updatedRowCount": updated.to_string(),
            "deletedRowCount": deleted.to_string(),
        });
        assert_eq!(answer["dmlStats"], counts, "{query}: {answer}");
    }

    let rows = tables.query("SELECT name, age FROM d.t ORDER BY name").await;
    assert_eq!(rows, json!([["a", "10"], ["a2", null], ["z", "26"]]));
    // Pages of a table use row ids, so these must have no gaps.
    let (_, page) =
        tables.call(Method::GET, "datasets/d/tables/t/data?startIndex=2", json!({})).await;
    assert_eq!((values(&page)[0][0].clone(), &page["totalRows"]), (json!("z"), &json!("3")));
}

#[tokio::test]
async fn statements_that_would_damage_rows_are_refused() {
    let tables = people().await;
    let refused = [
        "DELETE FROM d.t",
        "UPDATE d.t SET age = 1",
        "INSERT d.t (age) VALUES (1)",
        "INSERT d.t (name, age) VALUES ('x')",
        "INSERT d.t (name, age) VALUES ('x', 'y')",
        "UPDATE d.t SET none = 1 WHERE TRUE",
        "UPDATE d.t SET age = s.x FROM (SELECT 1 AS x UNION ALL SELECT 2) AS s WHERE TRUE",
    ];

    for query in refused {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = tables.call(Method::POST, "queries", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {answer}");
    }

    let rows = tables.query("SELECT name, age FROM d.t ORDER BY name").await;
    assert_eq!(rows, json!([["a", "1"], ["b", "2"], ["c", "3"]]));
}

#[tokio::test]
async fn tables_are_made_filled_and_dropped_by_statements() {
    let tables = people().await;

    tables.query("CREATE TABLE d.made (x INT64 NOT NULL, y ARRAY<STRING>)").await;
    tables.query("INSERT d.made VALUES (1, ['a'])").await;
    tables.query("CREATE OR REPLACE TABLE d.copy AS SELECT x, y FROM d.made").await;

    assert_eq!(tables.query("SELECT * FROM d.copy").await, json!([["1", [{ "v": "a" }]]]));
    let columns = "SELECT column_name, data_type, is_nullable FROM d.INFORMATION_SCHEMA.COLUMNS
                   WHERE table_name = 'made' ORDER BY ordinal_position";
    let expected = json!([["x", "INT64", "NO"], ["y", "ARRAY<STRING>", "YES"]]);
    assert_eq!(tables.query(columns).await, expected);
    tables.query("TRUNCATE TABLE d.copy").await;
    assert_eq!(tables.query("SELECT COUNT(*) FROM d.copy").await, json!([["0"]]));
    tables.query("DROP TABLE d.copy").await;
    tables.query("DROP TABLE IF EXISTS d.copy").await;
    let left = "SELECT table_name FROM d.INFORMATION_SCHEMA.TABLES ORDER BY 1";
    assert_eq!(tables.query(left).await, json!([["made"], ["t"]]));
}

#[tokio::test]
async fn what_is_not_supported_is_named() {
    let tables = people().await;
    let named = [
        ("SELECT * EXCEPT (age) FROM d.t", "SELECT * EXCEPT"),
        ("SELECT [1, 2][OFFSET(0)]", "subscripts of arrays"),
        ("SELECT 1; SELECT 2", "scripts of several statements"),
        ("CREATE FUNCTION d.f() AS (1)", "the statement CREATE FUNCTION"),
        ("EXPORT DATA AS SELECT 1", "the statement EXPORT"),
        ("SELECT name FROM d.t QUALIFY TRUE", "QUALIFY"),
        ("SELECT * FROM d.INFORMATION_SCHEMA.VIEWS", "INFORMATION_SCHEMA.VIEWS"),
    ];

    for (query, name) in named {
        let body = json!({ "query": query, "useLegacySql": false });
        let (status, answer) = tables.call(Method::POST, "queries", body).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{query}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(name), "{answer}");
    }
}

#[tokio::test]
async fn objects_are_loaded_unless_too_many_rows_are_bad() {
    let tables = people().await;
    let url = tables.emulator.url();
    let bucket = tables.client.post(format!("{url}/storage/v1/b?project=p"));
    bucket.json(&json!({ "name": "bucket" })).send().await.unwrap();
    let files = [
        ("x/1.json", "{\"name\":\"d\",\"age\":\"4\"}\n"),
        ("x/2.json", "{\"age\":1}\n\n{\"name\":\"e\"}"),
    ];
    for (name, body) in files {
        let name = name.replace('/', "%2F");
        let upload = format!("{url}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}");
        let answer = tables.client.post(upload).body(body).send().await.unwrap();
        assert!(answer.status().is_success());
    }
    let load = |bad: usize, uri: &str| {
        json!({ "configuration": { "load": {
            "sourceUris": [uri],
            "sourceFormat": "NEWLINE_DELIMITED_JSON",
            "destinationTable": { "projectId": "p", "datasetId": "d", "tableId": "t" },
            "maxBadRecords": bad,
        }}})
    };

    let (_, failed) = tables.call(Method::POST, "jobs", load(0, "gs://bucket/x/*")).await;
    let count = tables.query("SELECT COUNT(*) FROM d.t").await;
    let (_, loaded) = tables.call(Method::POST, "jobs", load(1, "gs://bucket/x/*")).await;
    let (_, missing) = tables.call(Method::POST, "jobs", load(1, "gs://bucket/none")).await;

    assert_eq!(failed["status"]["errorResult"]["reason"], "invalid", "{failed}");
    assert_eq!(count, json!([["3"]]), "nothing of a failed load is there");
    assert_eq!(loaded["status"].get("errorResult"), None, "{loaded}");
    let statistics = &loaded["statistics"]["load"];
    assert_eq!((&statistics["outputRows"], &statistics["badRecords"]), (&json!("2"), &json!("1")));
    let told = loaded["status"]["errors"][0]["message"].as_str().unwrap();
    assert!(told.contains("Missing required field: name") && told.contains("x/2.json"), "{told}");
    assert_eq!(missing["status"]["errorResult"]["reason"], "notFound", "{missing}");
    let rows = tables.query("SELECT name, age FROM d.t WHERE name > 'c' ORDER BY name").await;
    assert_eq!(rows, json!([["d", "4"], ["e", null]]));
}

#[tokio::test]
async fn data_comes_in_pieces_with_a_resumable_upload() {
    let tables = people().await;
    let url = format!(
        "{}/upload/bigquery/v2/projects/p/jobs?uploadType=resumable",
        tables.emulator.url()
    );
    let job = json!({ "jobReference": { "jobId": "pieces" }, "configuration": { "load": {
        "sourceFormat": "CSV",
        "destinationTable": { "datasetId": "d", "tableId": "made" },
        "schema": { "fields": [{ "name": "a", "type": "STRING" }, { "name": "b", "type": "INTEGER" }] },
    }}});
    let begun = tables.client.post(url).json(&job).send().await.unwrap();
    let place = begun.headers()["location"].to_str().unwrap().to_owned();
    let put = |range: &'static str, body: &'static str| {
        tables.client.put(&place).header("content-range", range).body(body).send()
    };

    let first = put("bytes 0-3/*", "x,1\n").await.unwrap();
    let last = put("bytes 4-*/*", "\"y,\n\",2\n").await.unwrap();

    assert_eq!(first.status().as_u16(), 308);
    assert_eq!(first.headers()["range"], "bytes=0-3");
    assert_eq!(last.status(), StatusCode::OK);
    assert_eq!(last.json::<Value>().await.unwrap()["jobReference"]["jobId"], "pieces");
    assert_eq!(tables.query("SELECT a, b FROM d.made").await, json!([["x", "1"], ["y,\n", "2"]]));
}

#[tokio::test]
async fn an_upload_whose_job_was_refused_or_whose_answer_was_lost_goes_on() {
    let tables = people().await;
    let url = format!(
        "{}/upload/bigquery/v2/projects/p/jobs?uploadType=resumable",
        tables.emulator.url()
    );
    let job = json!({ "configuration": { "load": {
        "sourceFormat": "CSV",
        "destinationTable": { "datasetId": "d", "tableId": "made" },
        "schema": { "fields": [{ "name": "a", "type": "STRING" }] },
    }}});
    let begun = tables.client.post(&url).json(&job).send().await.unwrap();
    let place = begun.headers()["location"].to_str().unwrap().to_owned();
    let put = async |range: &str| {
        let put = tables.client.put(&place).header("content-range", range).body("x\n");
        put.send().await.unwrap().status().as_u16()
    };
    tables.emulator.faults().refuse("bigquery.jobs.insert", 1, tonic::Code::Unavailable);
    tables.emulator.faults().lose_reply("bigquery.jobs.insert", 1);

    let told = [put("bytes 0-1/2").await, put("bytes 0-1/2").await, put("bytes 0-1/2").await];

    assert_eq!(told, [503, 503, 200]);
    assert_eq!(tables.query("SELECT a FROM d.made").await, json!([["x"]]));
}

#[tokio::test]
async fn an_upload_that_is_cancelled_runs_no_job() {
    let tables = people().await;
    let url = format!(
        "{}/upload/bigquery/v2/projects/p/jobs?uploadType=resumable",
        tables.emulator.url()
    );
    let job = json!({ "configuration": { "load": {
        "sourceFormat": "CSV",
        "writeDisposition": "WRITE_TRUNCATE",
        "destinationTable": { "datasetId": "d", "tableId": "t" },
    }}});
    let begun = tables.client.post(&url).json(&job).send().await.unwrap();
    let place = begun.headers()["location"].to_str().unwrap().to_owned();

    let cancelled = tables.client.delete(&place).send().await.unwrap();
    let after = tables.client.put(&place).body("x,1,\n").send().await.unwrap();

    assert_eq!((cancelled.status().as_u16(), after.status()), (499, StatusCode::NOT_FOUND));
    assert_eq!(tables.query("SELECT COUNT(*) FROM d.t").await, json!([["3"]]));
}

#[tokio::test]
async fn columns_that_statements_and_loads_leave_out_have_their_defaults() {
    let tables = Tables::start().await;
    tables
        .create(json!([{ "name": "a", "type": "INTEGER" },
            { "name": "b", "type": "STRING", "mode": "REQUIRED", "defaultValueExpression": "'x'" }]))
        .await;
    let url = format!(
        "{}/upload/bigquery/v2/projects/p/jobs?uploadType=multipart",
        tables.emulator.url()
    );
    let load = async |schema: Value, data: &str| {
        let mut job = json!({ "configuration": { "load": {
            "sourceFormat": "NEWLINE_DELIMITED_JSON",
            "destinationTable": { "datasetId": "d", "tableId": "t" },
        }}});
        job["configuration"]["load"]["schema"] = schema;
        let body = format!(
            "--b\r\ncontent-type: application/json\r\n\r\n{job}\r\n--b\r\n\
             content-type: */*\r\n\r\n{data}\r\n--b--"
        );
        let sent = tables.client.post(&url).header("content-type", "multipart/related; boundary=b");
        let answer = sent.body(body).send().await.unwrap().json::<Value>().await.unwrap();
        assert_eq!(answer["status"].get("errorResult"), None, "{answer}");
    };

    tables.query("INSERT d.t (a) VALUES (1)").await;
    load(Value::Null, "{\"a\":2}").await;
    load(json!({ "fields": [{ "name": "a", "type": "INTEGER" }] }), "{\"a\":3}").await;

    let rows = tables.query("SELECT a, b FROM d.t ORDER BY a").await;
    assert_eq!(rows, json!([["1", "x"], ["2", "x"], ["3", "x"]]));
}

#[tokio::test]
async fn statements_and_jobs_are_changes_of_a_table_too() {
    let tables = people().await;
    let profile =
        emulator::Profile { table_updates_per_10_seconds: Some(2), ..emulator::Profile::default() };
    tables.emulator.set_profile(profile);

    tables.query("CREATE TABLE d.made AS SELECT 1 AS a").await;
    tables.query("CREATE OR REPLACE TABLE d.made AS SELECT 2 AS a").await;
    let (status, answer) = tables.refused("CREATE OR REPLACE TABLE d.made AS SELECT 3 AS a").await;

    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"]["errors"][0]["reason"], "rateLimitExceeded");
    assert_eq!(tables.query("SELECT a FROM d.made").await, json!([["2"]]));
}
