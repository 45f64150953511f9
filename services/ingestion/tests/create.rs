//! Tests of the setting `create`.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::process::{Command, Stdio};
use std::time::Duration;

use emulator::{Emulator, Options, Profile};
use tokio::time::{sleep, timeout};

const SETTINGS: &str = "
project: p
create: true
http_ingest: { port: 0 }
routes: { r: { source: { http_source: '{device_id}' }, destination: { route_name: out } } }
producers: { out: { topic_id: raw } }
dead_letters: { topic_id: letters }
";

fn command(emulator: &Emulator, folder: &std::path::Path) -> Command {
    let file = folder.join("ingestion.yaml");
    std::fs::write(&file, SETTINGS).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
    command.env_clear().arg("--config").arg(file).stderr(Stdio::piped());
    command.env("PUBSUB_EMULATOR_HOST", emulator.address().to_string()).env("PORT", "0");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_topics_are_created() {
    let (emulator, folder) =
        (Emulator::start(Options::default()).await.unwrap(), tempfile::tempdir().unwrap());
    let exists = async |path: &str| {
        let url = format!("{}/v1/projects/p/{path}", emulator.url());
        reqwest::get(url).await.unwrap().status().is_success()
    };

    let checked = command(&emulator, folder.path()).arg("check").output().unwrap();
    let before = exists("topics/raw").await;
    let mut child = command(&emulator, folder.path()).spawn().unwrap();
    let created = async {
        while !exists("subscriptions/letters").await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(Duration::from_secs(60), created).await;
    child.kill().unwrap();
    let log = child.wait_with_output().unwrap().stderr;

    assert!(waited.is_ok(), "{}", String::from_utf8_lossy(&log));
    assert!(exists("topics/raw").await && !before);
    assert!(String::from_utf8(checked.stdout).unwrap().contains("create is on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_ends_the_start() {
    let (emulator, folder) =
        (Emulator::start(Options::default()).await.unwrap(), tempfile::tempdir().unwrap());
    let denied = ["pubsub.topics.create".to_owned()].into();
    emulator.set_profile(Profile { denied, ..Profile::default() });

    let ended = command(&emulator, folder.path()).output().unwrap();

    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{text}");
    let expected =
        "create: topic projects/p/topics/raw cannot be created: we lack pubsub.topics.create";
    assert!(text.contains(expected), "{text}");
}
