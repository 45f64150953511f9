//! The archive is read by other people's programs, as its page in the documentation says.

use std::io::Write as _;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::place::root;
use crate::stage::{Stage, start_icestore, until};

/// The first block of code below a heading of the page.
fn example(heading: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/archive.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, code) = section.split_once("```sql\n").unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

/// Python with this package; none, loudly, where it is missing.
fn python_with(package: &str) -> Option<Command> {
    let program = root().join("target/tools/bin/python3");
    let probe = Command::new(&program).args(["-c", &format!("import {package}")]).output();
    if probe.is_ok_and(|probe| probe.status.success()) {
        return Some(Command::new(program));
    }
    // Past the test runner's capture, which would hide it.
    let text = format!("SKIPPED: the Python package {package} is missing, .ci/setup installs it\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_the_archive_as_its_page_says() {
    const PROGRAM: &str = "import duckdb, json, sys\n\
        rows = duckdb.sql(sys.stdin.read()).fetchall()\n\
        print(json.dumps(rows, default=str))";
    let Some(mut python) = python_with("duckdb") else { return };
    let stage = Stage::set().await;
    let icestore = start_icestore(stage.icestore()).await;
    let topic = stage.cloud.name("raw");
    for (id, temperature) in [("i-1", 21.5), ("i-2", 22.5)] {
        let payload = STANDARD.encode(json!({ "temperature": temperature }).to_string());
        let envelope = json!({
            "id": id, "payload": payload, "publishTime": "2025-06-15T10:00:00.123456789Z",
            "enrichmentData": { "location": "hall-a" },
        });
        let attributes = json!({ "ingest_id": id, "device_id": "device-1" });
        // The second one comes twice, as Pub/Sub may do.
        for _ in 0..if id == "i-2" { 2 } else { 1 } {
            let data = envelope.to_string();
            stage.cloud.publish(&topic, data.as_bytes(), attributes.clone()).await.unwrap();
        }
    }
    let bucket = stage.cloud.name("bucket");
    let folder = "archive/2025/06/15/hall-a";
    let lines = async || e2e::archive::read(&stage.cloud, &bucket, folder).await.unwrap();
    until(async || lines().await.len() == 3).await;
    icestore.shutdown(crate::stage::GRACE).await.unwrap();
    std::fs::create_dir_all(stage.folder.path().join(folder)).unwrap();
    for object in stage.cloud.list(&bucket, folder).await.unwrap() {
        let content = stage.cloud.read(&bucket, &object).await.unwrap();
        std::fs::write(stage.folder.path().join(&object), content).unwrap();
    }

    let home = stage.folder.path().display().to_string();
    let query = example("DuckDB").replace("gs://my-archive", &home);
    let file = stage.folder.path().join("query.sql");
    std::fs::write(&file, query).unwrap();
    python.args(["-c", PROGRAM]).stdin(std::fs::File::open(file).unwrap());
    let output = python.output().unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let published = "2025-06-15 10:00:00.123456";
    let expected =
        json!([["i-1", published, "device-1", 21.5], ["i-2", published, "device-1", 22.5],]);
    assert_eq!(rows, expected);
    stage.strike().await;
}
