//! Tests with Google's own clients of Python and Node, on this emulator and, if it is installed, on
//! Google's. The programs in `e2e/clients` must pass on both.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[expect(unused_macros, reason = "contracts are not written in Rust here")]
mod google;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emulator::{Emulator, Options};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest run of a program.
const PATIENCE: Duration = Duration::from_secs(300);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns an interpreter with the clients in `target/google-clients`.
fn interpreter(name: &str) -> Command {
    let clients = repository().join("target/google-clients");
    let own = clients.join("bin").join(name);
    let mut command = if own.exists() { Command::new(own) } else { Command::new(name) };
    command
        .env("NODE_PATH", clients.join("node/node_modules"))
        // Keeps the clients from looking for a metadata server.
        .env("METADATA_SERVER_DETECTION", "none");
    command
}

/// Returns the command of a program. If its client is not installed, prints that and returns
/// `None`.
async fn program(name: &str, import: [&str; 2], file: &str) -> Option<Command> {
    let import = interpreter(name).args(import).output().await;
    if !import.is_ok_and(|import| import.status.success()) {
        // Writes to stderr directly, because the test runner captures printed output.
        let text = format!("SKIPPED: no Firestore client for {name}: run .ci/setup\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return None;
    }
    let mut command = interpreter(name);
    command.arg(repository().join("e2e/clients").join(file));
    Some(command)
}

async fn python() -> Option<Command> {
    let import = ["-c", "import google.cloud.firestore"];
    program("python3", import, "python/firestore_points.py").await
}

async fn node() -> Option<Command> {
    program("node", ["-e", "require('@google-cloud/firestore')"], "node/firestore_points.js").await
}

/// Runs a program whose points must all pass.
async fn run(mut command: Command, url: &str) {
    command.env("FIRESTORE_EMULATOR_HOST", url.trim_start_matches("http://"));
    command.kill_on_drop(true);

    let output = timeout(PATIENCE, command.output()).await.expect("the program ends").unwrap();

    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let passed = printed.lines().filter(|line| line.starts_with("PASS ")).count();
    assert!(output.status.success() && passed > 0, "{printed}\n{errors}");
}

async fn run_on_ours(command: Option<Command>) {
    let Some(command) = command else { return };
    let emulator = Emulator::start(Options::default()).await.unwrap();
    run(command, &emulator.url()).await;
    emulator.shutdown().await;
}

async fn run_on_googles(command: Option<Command>) {
    let Some(command) = command else { return };
    let Some(url) = google::start(&google::FIRESTORE).await else { return };
    run(command, &url).await;
}

#[tokio::test]
async fn the_python_client_works_on_ours() {
    run_on_ours(python().await).await;
}

#[tokio::test]
async fn the_node_client_works_on_ours() {
    run_on_ours(node().await).await;
}

#[tokio::test]
async fn the_python_program_passes_on_googles() {
    let command = python().await.map(|mut command| {
        // Leaves out points that Google's emulator does not support.
        command.arg("common");
        command
    });
    run_on_googles(command).await;
}

#[tokio::test]
async fn the_node_program_passes_on_googles() {
    run_on_googles(node().await).await;
}
