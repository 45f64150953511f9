//! Tests of archives: what icestore wrote is sent again.

use std::io::Write as _;
use std::path::Path;

use e2e::hosted::HostedService;
use e2e::metrics::SENT;
use e2e::names::ARCHIVE;
use flate2::Compression;
use flate2::write::GzEncoder;
use icestore::Icestore;
use tokio::time::{sleep, timeout};

use crate::env::{Env, Messages, PATIENCE, ended, planned, run, start};

/// Template of the archived payloads.
const TEMPLATE: &str = r#"--template={"device":"{{device}}","seq":{{seq}}}"#;

/// Archives messages of devices, and returns them.
async fn archive(env: &Env) -> Messages {
    let mut settings = env.env.settings().icestore;
    // Icestore reads what ingestion publishes.
    settings.intake.subscription.id = e2e::names::ENRICH.into();
    settings.pipeline.batch.max_age = std::time::Duration::from_millis(200);
    let icestore = HostedService::start(Icestore::new(settings)).await.unwrap();
    icestore.ready(PATIENCE).await.unwrap();
    let options = [&*env.broker(), "--messages=300", "--devices=5", TEMPLATE];
    run(&options).await.assert(0, &[("confirmed", 300)]);
    let archived = async {
        while icestore.metrics().count(SENT) < 300 {
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, archived).await.unwrap();
    icestore.shutdown(PATIENCE).await.unwrap();
    planned(&options).await
}

/// Copies all objects of the archive into a folder.
async fn download(env: &Env, folder: &Path) {
    for name in env.env.cloud.list(ARCHIVE, "").await.unwrap() {
        let file = folder.join(&name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, env.env.cloud.read(ARCHIVE, &name).await.unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_sent_again_with_its_topics_and_payloads() {
    let env = Env::usual().await;
    let expected = archive(&env).await;
    let folder = env.env.folder.path().join("archive");
    download(&env, &folder).await;
    let broker = env.broker();

    let from_folder = format!("--archive={}", folder.display());
    let sent = run(&[&broker, &from_folder, "--speed=max", "--devices=3"]).await;
    sent.assert(0, &[("expected", 300), ("confirmed", 300)]);
    assert_eq!(env.arrived(300).await, expected);
    // The same from the bucket.
    let report = env.env.folder.path().join("report.json");
    let option = format!("--report={}", report.display());
    let bucket = format!("--archive=gs://{ARCHIVE}/archive/");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_load"));
    command.args([&broker, &bucket, "--speed=max", &option]).kill_on_drop(true);
    command.env("STORAGE_EMULATOR_HOST", env.env.server.url());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let sent = ended(command.spawn().unwrap(), Some(&report)).await;
    sent.assert(0, &[("expected", 300), ("confirmed", 300)]);
    assert_eq!(env.arrived(300).await, expected);
    // And over HTTP, where the device is the source.
    let sent = run(&[&env.ingest(), &from_folder, "--speed=max", "--batch=20"]).await;
    sent.assert(0, &[("confirmed", 300)]);
    let arrived = env.arrived(300).await;
    let source = |topic: &str| topic.split('/').nth(1).unwrap().to_owned();
    let by_source = expected.iter().map(|(topic, payload)| (source(topic), payload.clone()));
    assert_eq!(arrived, by_source.collect());
    env.stop().await;
}

/// Writes an object whose messages have these seconds.
fn write(file: &Path, seconds: &[u32]) {
    let mut object = GzEncoder::new(Vec::new(), Compression::fast());
    for second in seconds {
        let line = format!(
            r#"{{"id":"{second}","originalPubSubPayload":"eyJhIjoxfQ==","batchKey":"","archivedAt":"","publishTime":"2026-11-30T10:00:{second:02}Z","attributes":{{"mqtt_topic":"devices/d/up"}}}}"#
        );
        writeln!(object, "{line}").unwrap();
    }
    std::fs::write(file, object.finish().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_keeps_its_pace_or_has_a_faster_one() {
    let env = Env::usual().await;
    let folder = tempfile::tempdir().unwrap();
    // Objects are by location, so the times of one are between those of another.
    write(&folder.path().join("a.jsonl.gz"), &[0, 4]);
    write(&folder.path().join("b.jsonl.gz"), &[2, 10]);
    let (broker, archive) = (env.broker(), format!("--archive={}", folder.path().display()));

    let fast = run(&[&broker, &archive, "--speed=20"]).await;
    let first = run(&[&broker, &archive, "--speed=10", "--messages=3"]).await;

    fast.assert(0, &[("expected", 4), ("confirmed", 4)]);
    assert_eq!(fast.report["planned_rate"], 6.0, "three steps in half a second");
    assert!(fast.report["seconds"].as_f64().unwrap() >= 0.5, "{}", fast.report);
    first.assert(0, &[("expected", 3), ("confirmed", 3)]);
    assert!(first.report["seconds"].as_f64().unwrap() >= 0.4, "{}", first.report);
    let wrong = start(&[&broker, "--archive=/", "--speed=0"]);
    assert_eq!(ended(wrong, None).await.code, Some(2));
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_speed_an_archive_keeps_its_original_pace() {
    let env = Env::usual().await;
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.jsonl.gz"), &[0, 1]);
    let (broker, archive) = (env.broker(), format!("--archive={}", folder.path().display()));

    let sent = run(&[&broker, &archive]).await;

    sent.assert(0, &[("expected", 2), ("confirmed", 2)]);
    assert_eq!(sent.report["planned_rate"], 1.0, "one step in a second");
    assert!(sent.report["seconds"].as_f64().unwrap() >= 1.0, "{}", sent.report);
    env.stop().await;
}
