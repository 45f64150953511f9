//! Tests that other programs can read the archive as `docs/archive.md` describes.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use e2e::archive::{self, Line};
use icestore::format::Format;
use icestore::tools::replay::Arguments as Replay;
use serde_json::{Value, json};
use service::Tool as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::examples::root;
use crate::flow_env::{FlowEnv, start_icestore, until};
use e2e::names::{ENRICHED, RAW, ROWS};

/// Returns the SQL examples below a heading of the page.
pub(crate) fn examples(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/archive.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

/// Finds a Python with this package. If it is missing, prints that and returns `None`.
fn python_with(package: &str) -> Option<PathBuf> {
    let program = root().join("target/tools/bin/python3");
    let probe = Command::new(&program).args(["-c", &format!("import {package}")]).output();
    if probe.is_ok_and(|probe| probe.status.success()) {
        return Some(program);
    }
    // Writes to stderr directly, because the test runner captures printed output.
    let text = format!("SKIPPED: the Python package {package} is missing, .ci/setup installs it\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    None
}

/// Reads the lines of all objects of a format.
pub(crate) async fn lines_of(env: &FlowEnv, format: Format) -> Vec<Line> {
    let bucket = env.bucket();
    let mut lines = Vec::new();
    for name in env.cloud.list(&bucket, "").await.unwrap() {
        if name.ends_with(format.suffix()) {
            lines.extend(
                archive::lines(&name, &env.cloud.read(&bucket, &name).await.unwrap()).unwrap(),
            );
        }
    }
    lines
}

/// Runs icestore until all waiting messages are in objects of this format.
async fn archive_as(env: &FlowEnv, format: Format, messages: usize) {
    let mut settings = env.icestore();
    settings.archive.format = format;
    let icestore = start_icestore(settings).await;
    let distinct =
        |lines: Vec<Line>| lines.into_iter().map(|line| line.id).collect::<BTreeSet<_>>();
    until(async || distinct(lines_of(env, format).await).len() == messages).await;
    icestore.shutdown(crate::flow_env::GRACE).await.unwrap();
}

/// Archives two readings of 2025-06-15 in each format. Pub/Sub delivers one of them twice.
pub(crate) async fn archive_readings(env: &FlowEnv) {
    let topic = env.cloud.name(RAW);
    for format in Format::ALL {
        for (id, temperature) in [("i-1", 21.5), ("i-2", 22.5), ("i-3", 23.5)] {
            let payload = STANDARD.encode(json!({ "temperature": temperature }).to_string());
            // The third message has no location, so its object is not in a folder of its own.
            let location = (id != "i-3").then_some("hall-a");
            let envelope = json!({
                "id": id, "payload": payload, "publishTime": "2025-06-15T10:00:00.123456789Z",
                "enrichmentData": { "location": location },
            });
            let attributes = json!({ "ingest_id": id, "device_id": "device-1" });
            // The second message is sent twice, because Pub/Sub may deliver twice.
            for _ in 0..if id == "i-2" { 2 } else { 1 } {
                let data = envelope.to_string();
                env.cloud.publish(&topic, data.as_bytes(), attributes.clone()).await.unwrap();
            }
        }
        archive_as(env, format, 4).await;
    }
}

/// Downloads all objects into a folder, under their own names.
async fn download(env: &FlowEnv, folder: &Path) {
    let bucket = env.bucket();
    for object in env.cloud.list(&bucket, "").await.unwrap() {
        let content = env.cloud.read(&bucket, &object).await.unwrap();
        let file = folder.join(&object);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_the_archive_as_its_page_says() {
    const PROGRAM: &str = "import duckdb, json, sys\n\
        rows = duckdb.sql(sys.stdin.read()).fetchall()\n\
        print(json.dumps(rows, default=str))";
    let Some(python) = python_with("duckdb") else { return };
    let env = FlowEnv::start().await;
    archive_readings(&env).await;
    download(&env, env.folder.path()).await;

    let home = env.folder.path().display().to_string();
    let [lines, parquet] = &examples("DuckDB")[..] else { panic!("two examples") };
    let published = "2025-06-15 10:00:00.123456";
    let expected = json!([
        ["i-1", published, "device-1", 21.5],
        ["i-2", published, "device-1", 22.5],
        ["i-3", published, "device-1", 23.5],
    ]);
    for query in [lines, &lines.replace(".jsonl.gz", ".jsonl.zst"), parquet] {
        let file = env.folder.path().join("query.sql");
        std::fs::write(&file, query.replace("gs://my-archive", &home)).unwrap();
        let mut python = Command::new(&python);
        python.args(["-c", PROGRAM]).stdin(std::fs::File::open(file).unwrap());
        let output = python.output().unwrap();

        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows, expected, "{query}");
    }
    env.teardown().await;
}

/// Returns messages with data and attributes: text, bytes, empty data, and more than one
/// compression block.
fn messages() -> Vec<(Vec<u8>, Value)> {
    let envelope = json!({
        "id": "i-1", "payload": "/wD+", "publishTime": "2025-06-15T10:00:00.123456789Z",
        "enrichmentData": { "location": "hall-a" },
    });
    let mut messages = vec![
        ((0..=255).collect(), json!({})),
        (envelope.to_string().into(), json!({ "ingest_id": "i-1", "device_id": "device-1" })),
        (Vec::new(), json!({ "empty": "", "escapes": "\"\\\n\u{1}\u{1f600}" })),
        (
            (0..300_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
            json!({}),
        ),
    ];
    messages.extend((0..200).map(|index| {
        let text = format!("{{\"temperature\":{index}.5}}");
        (text.into(), json!({ "device_id": format!("device-{}", index % 7) }))
    }));
    messages
}

/// Sorts messages, so that two lists can be compared.
fn sorted<'a>(all: impl Iterator<Item = (Vec<u8>, &'a HashMap<String, String>)>) -> Vec<Value> {
    let texts = all.map(|(data, attributes)| {
        json!({ "data": STANDARD.encode(data), "attributes": attributes }).to_string()
    });
    let texts: BTreeSet<_> = texts.collect();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Runs a Python reader on the objects of a format, and returns its rows sorted by id.
fn read_by(reader: &str, format: Format, folder: &Path) -> Option<Vec<Value>> {
    let python = python_with(reader)?;
    let program = root().join("e2e/clients/python/archive.py");
    let format = format.suffix().trim_start_matches('.');
    let output = Command::new(python).arg(program).args([reader, format]).arg(folder).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    rows.sort_by_key(place);
    Some(rows)
}

/// Returns the sort key of a row. The time is part of it because a message can appear twice.
fn place(row: &Value) -> (String, Option<i64>) {
    (row["id"].to_string(), row["archivedAt"].as_i64())
}

/// Converts a line to the form that the readers print.
fn row(line: &Line) -> Value {
    let micros = |text: &str| {
        let time = OffsetDateTime::parse(text, &Rfc3339).unwrap();
        (time.unix_timestamp_nanos() / 1_000) as i64
    };
    json!({
        "id": line.id,
        "batchKey": line.batch_key,
        "payload": STANDARD.encode(line.data().unwrap()),
        "archivedAt": micros(&line.archived_at),
        "ingestId": line.ingest_id,
        "publishTime": micros(line.publish_time.as_ref().unwrap()),
        "attributes": line.attributes,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_and_replayed_byte_for_byte() {
    let env = FlowEnv::start().await;
    let messages = messages();
    let texts = |attributes: &Value| serde_json::from_value(attributes.clone()).unwrap();
    let attributes: Vec<HashMap<String, String>> =
        messages.iter().map(|(_, attributes)| texts(attributes)).collect();
    let sent = sorted(messages.iter().map(|(data, _)| data.clone()).zip(&attributes));
    for format in Format::ALL {
        for (data, attributes) in &messages {
            let topic = env.cloud.name(RAW);
            env.cloud.publish(&topic, data, attributes.clone()).await.unwrap();
        }
        archive_as(&env, format, messages.len()).await;
    }
    let files = tempfile::tempdir().unwrap();
    download(&env, files.path()).await;

    for format in Format::ALL {
        let lines = lines_of(&env, format).await;
        let read = lines.iter().map(|line| (line.data().unwrap(), &line.attributes));
        assert_eq!(sorted(read), sent, "{format:?}");
        let mut rows: Vec<_> = lines.iter().map(row).collect();
        rows.sort_by_key(place);
        for reader in ["duckdb", "pyarrow"] {
            if let Some(read) = read_by(reader, format, files.path()) {
                assert!(read == rows, "{reader} reads something else from {format:?}");
            }
        }
    }
    let topic = env.cloud.name(ENRICHED);
    let replay = Replay::parse_from(["replay", "--to-topic", &topic, "--rate", "10000"]);
    replay.run(env.icestore()).await.unwrap();
    let mut back = Vec::new();
    until(async || {
        back.extend(env.cloud.pull(&env.cloud.name(ROWS)).await.unwrap());
        back.len() >= Format::ALL.len() * messages.len()
    })
    .await;
    let replayed = back.iter().map(|message| (message.data.to_vec(), &message.attributes));
    assert_eq!(sorted(replayed), sent, "as often as there are formats");
    env.teardown().await;
}
