//! Tests with Google's own clients of other languages: the programs in `e2e/clients`.
//!
//! `.ci/setup` installs the clients into `target/google-clients`. A program prints `PASS` or `FAIL`
//! and the name of each point. A call that answers 501 is a separate point.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use emulator::{Emulator, Options};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest run of a program. Most of the time is the start of the interpreter.
const PATIENCE: Duration = Duration::from_secs(300);

/// A language, and the place where its clients are installed.
#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    Node,
}

impl Language {
    /// Returns the interpreter with its variables; `None` if the clients are missing.
    fn command(self) -> Option<Command> {
        let clients = root().join("target/google-clients");
        match self {
            Self::Python => {
                let python = clients.join("bin/python");
                python.exists().then(|| Command::new(python))
            }
            Self::Node => {
                let modules = clients.join("node/node_modules");
                let mut node = Command::new("node");
                let is_there = modules.exists()
                    && std::process::Command::new("node").arg("--version").output().is_ok();
                is_there.then(|| {
                    node.env("NODE_PATH", modules);
                    node
                })
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Writes to stderr directly, because the test runner captures printed output.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Runs a program of `e2e/clients` and checks its points.
async fn judge(language: Language, program: &str) {
    let Some(mut command) = language.command() else {
        say(&format!("SKIPPED: {program}: Google's clients of {language:?} are missing\n"));
        return;
    };
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let (address, url) = (emulator.address().to_string(), emulator.url());
    command
        .arg(root().join("e2e/clients").join(program))
        .env("PUBSUB_EMULATOR_HOST", &address)
        .env("FIRESTORE_EMULATOR_HOST", &address)
        .env("BIGQUERY_EMULATOR_HOST", &url)
        .env("STORAGE_EMULATOR_HOST", &url)
        .env("GOOGLE_CLOUD_PROJECT", "project")
        // Keeps the clients from looking for a metadata server.
        .env("NO_GCE_CHECK", "true")
        .env("METADATA_SERVER_DETECTION", "none")
        .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
        .stdin(Stdio::null())
        .kill_on_drop(true);

    let output = timeout(PATIENCE, command.output()).await.expect("the program ends").unwrap();

    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let count = |word: &str| printed.lines().filter(|line| line.starts_with(word)).count();
    let (passed, failed) = (count("PASS "), count("FAIL "));
    for line in printed.lines() {
        say(&format!("{program}: {line}\n"));
    }
    say(&format!("{program}: {passed} points passed, {failed} failed\n"));
    let is_right = output.status.success() && failed == 0 && passed > 0;
    assert!(is_right, "{program}:\n{printed}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_storage_of_python() {
    judge(Language::Python, "python/storage.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pubsub_of_python() {
    judge(Language::Python, "python/pubsub.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_storage_of_node() {
    judge(Language::Node, "node/storage.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pubsub_of_node() {
    judge(Language::Node, "node/pubsub.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bigquery_of_python() {
    judge(Language::Python, "python/bigquery.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bigquery_storage_of_python() {
    judge(Language::Python, "python/bigquery_storage.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bigquery_of_node() {
    judge(Language::Node, "node/bigquery.js").await;
}
