//! The description of the API is right: schemathesis makes requests of it, and checks the answers.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::api::{Api, STORES, with_rows};
use crate::env::Env;

/// Longest run.
const PATIENCE: Duration = Duration::from_secs(600);
/// Checks that do not apply. A valid `next` is the token of an answer, which no schema describes.
const NOT_APPLICABLE: &str = "positive_data_acceptance";

/// Finds the program that `.ci/setup` installs. If it is missing, tells so and returns `None`.
fn schemathesis() -> Option<PathBuf> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/bin/schemathesis");
    let program = PathBuf::from(program);
    if program.is_file() {
        return Some(program);
    }
    // Writes to stderr directly, because the test runner captures printed output.
    let text = b"SKIPPED: schemathesis is missing, .ci/setup installs it\n";
    std::io::stderr().write_all(text).unwrap();
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_description_says() {
    let Some(program) = schemathesis() else { return };
    let env = Env::start().await;
    with_rows(&env, 300).await;
    for store in STORES {
        let api = Api::start(&env, store).await;
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(&program);
        command.arg("run").arg(format!("{}/openapi.json", api.url));
        command.args(["--exclude-checks", NOT_APPLICABLE, "--generation-deterministic"]);
        command.args(["--max-examples", "30", "--continue-on-failure", "--no-color"]);
        // It writes files into its folder.
        command.current_dir(folder.path()).kill_on_drop(true);

        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();

        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{store:?}: {out}\n{err}");
        assert!(out.contains("Tested: 1"), "it has tested nothing: {out}");
        api.shutdown().await;
    }
}
