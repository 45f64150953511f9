//! Tests of the timings of tests: the file of an environment, and the program that shows all files.

use std::path::Path;
use std::process::Output;

use e2e::timings::{self, Phase, Record, Timings};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;
use tokio::time::timeout;

use crate::examples::text;
use crate::flow_env::{FlowEnv, PATIENCE};

/// Runs the program on a folder of timings.
async fn run(folder: &Path, options: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_timings"));
    program.arg("--folder").arg(folder).args(options).kill_on_drop(true);
    timeout(PATIENCE, program.output()).await.unwrap().unwrap()
}

/// Reads the file that the program has written.
fn written(file: &Path) -> Vec<Record> {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Leaves the timings of this test in a folder, and those of a test that failed.
fn leave(folder: &Path) -> [Record; 2] {
    let timings = Timings::start_in(folder.to_owned(), timings::RESOURCES);
    timings::phase(timings::SEND);
    drop(timings);
    let own = timings::read(folder).unwrap().remove(0);
    let phase = |name: &str, seconds| Phase { name: name.into(), seconds };
    let failed = Record {
        test: "flows::a".into(),
        has_passed: false,
        seconds: 3.5,
        phases: vec![phase(timings::SEND, 1.25), phase("restart", 2.25)],
        ..own.clone()
    };
    let file = folder.join(&failed.program).join("flows.a.json");
    std::fs::write(file, serde_json::to_vec(&failed).unwrap()).unwrap();
    [failed, own]
}

#[tokio::test]
async fn the_program_shows_all_timings_in_a_table_and_writes_them_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let records = leave(folder.path());
    let elsewhere = folder.path().join("all.json");

    let first = run(folder.path(), &[]).await;
    let option = format!("--json={}", elsewhere.display());
    let second = run(folder.path(), &[&option]).await;

    for ended in [&first, &second] {
        assert!(ended.status.success(), "{}", text(ended));
    }
    assert_eq!(first.stdout, second.stdout);
    let table = String::from_utf8(first.stdout).unwrap();
    let [head, failed, own] = &*table.lines().collect::<Vec<_>>() else { panic!("{table}") };
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = "seconds total resources services send settle verify teardown other";
    assert_eq!(words(head), expected);
    let expected = "e2e flows::a (failed) 3.500 0.000 0.000 1.250 0.000 0.000 0.000 2.250";
    assert_eq!(words(failed), expected);
    assert!(words(own).starts_with(&format!("e2e {} ", records[1].test)), "{own}");
    assert_eq!(written(&folder.path().join("summary.json")), records);
    assert_eq!(written(&elsewhere), records);
}

#[tokio::test]
async fn the_program_says_what_makes_timings_if_there_are_none() {
    let folder = tempfile::tempdir().unwrap();

    let ended = run(folder.path(), &[]).await;

    assert_eq!(ended.status.code(), Some(1));
    let said = "has no timings: run cargo test --test e2e";
    assert!(text(&ended).contains(said), "{}", text(&ended));
    assert!(!folder.path().join("summary.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_leaves_a_file_with_its_phases() {
    let begun = OffsetDateTime::now_utc();
    let env = FlowEnv::start().await;

    env.teardown().await;

    let thread = std::thread::current();
    // With one test at a time, the place of the start is the name.
    let name = thread.name().filter(|name| *name != "main").unwrap_or("timings:");
    let files = std::fs::read_dir(timings::folder().join("e2e")).unwrap();
    // Other tests write at the same time, so not every file is whole.
    let mut records = files.filter_map(|file| {
        let json = std::fs::read(file.ok()?.path()).ok()?;
        serde_json::from_slice::<Record>(&json).ok()
    });
    let is_own = |record: &Record| {
        let ended = OffsetDateTime::parse(&record.ended_at, &Rfc3339).unwrap();
        record.test.starts_with(name) && ended >= begun
    };
    let own = records.find(is_own).expect("a file of this test");
    let phases: Vec<_> = own.phases.iter().map(|phase| &*phase.name).collect();
    assert_eq!(phases, [timings::RESOURCES, timings::TEARDOWN]);
    assert!(own.has_passed);
}
