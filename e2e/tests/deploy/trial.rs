//! Tests of `deploy/try-on-gcp.sh` with fake tools that record their calls and fail on demand.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::root;
use crate::scripts::install;

/// Fake gcloud and bq in a project with resources of this run, of another run and of other people.
/// A call that matches the pattern `$BREAKS` fails.
const GOOGLE: &str = r#"#!/bin/sh
call="$(basename "$0") $*"
echo "$call" >>"$CALLS"
case $call in
    $BREAKS) echo "the fake refuses this" >&2; exit 1 ;;
esac
run=$(cat "$RUN")
names() {
    for of in "$run-0123456789ab" 0123456789ab "fedcba987654-0123456789ab" "$run" "$run-0123456789ab-x"; do
        echo "$1-$of"
    done
    echo "$1"
}
case $call in
    *" --limit "*) ;;
    *"subscriptions list"*) names projects/p/subscriptions/int64 ;;
    *"topics list"*) names projects/p/topics/raw ;;
    *"buckets list"*) names bucket ;;
    *" ls --max_results 100000") echo ' datasetId '; names '  dataset' | tr - _ ;;
esac
"#;

/// Fake cargo. As the tests, it prints `$OUTPUT`, hangs if `$HANGS` is set, and exits with `$FAILS`.
const CARGO: &str = r#"#!/bin/sh
echo "cargo $*" >>"$CALLS"
case "cargo $*" in
    $BREAKS) echo "the fake refuses this" >&2; exit 1 ;;
    *--nocapture*) ;;
    *) exit 0 ;;
esac
echo "$DATAFLOW_E2E_RUN" >"$RUN"
echo "$OUTPUT"
if [ -n "$HANGS" ]; then
    trap 'echo "cargo has ended" >>"$CALLS"' EXIT
    trap 'exit 1' TERM
    sleep 600 &
    echo "cargo hangs" >>"$CALLS"
    wait
fi
exit "$FAILS"
"#;

/// Output of a test process with one test.
const PASSES: &str = "test chain::a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored";

/// A trial with fake tools.
struct Trial {
    folder: TempDir,
    command: Command,
}

/// Result of a trial.
struct Tried {
    code: Option<i32>,
    /// Output without errors.
    out: String,
    err: String,
    /// Calls of the tools, in their order.
    calls: Vec<String>,
    /// Identifier that the tests were given.
    run: String,
}

impl Trial {
    /// Prepares a trial in which nothing fails.
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in [("gcloud", GOOGLE), ("bq", GOOGLE), ("cargo", CARGO)] {
            install(folder.path(), name, script);
        }
        for name in ["mosquitto", "redis-server"] {
            install(folder.path(), name, "#!/bin/sh\n");
        }
        for file in ["calls", "run"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let path = std::env::var("PATH").unwrap();
        // A shell cannot catch a signal that its parent ignores.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT", "bash"])
            .arg(root().join("deploy/try-on-gcp.sh"))
            .args(arguments)
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .env("CALLS", folder.path().join("calls"))
            .env("RUN", folder.path().join("run"))
            .env_remove("KEEP_RESOURCES")
            .envs([("PROJECT", "p"), ("YES", "1"), ("BREAKS", ""), ("HANGS", "")])
            .envs([("OUTPUT", PASSES), ("FAILS", "0")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { folder, command }
    }

    /// Changes a variable of the script or of the fake tools.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn run(mut self) -> Tried {
        let output = self.command.output().unwrap();
        self.tried(&output)
    }

    /// Sends a signal to the script while its tests hang.
    fn interrupted_by(mut self, signal: &str) -> Tried {
        let script = self.command.env("HANGS", "1").spawn().unwrap();
        let started = Instant::now();
        while !self.read("calls").contains("cargo hangs") {
            assert!(started.elapsed() < Duration::from_secs(60), "{}", self.read("calls"));
            std::thread::yield_now();
        }
        let pid = script.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let output = script.wait_with_output().unwrap();
        self.tried(&output)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap()
    }

    fn tried(&self, output: &Output) -> Tried {
        Tried {
            code: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
            calls: self.read("calls").lines().map(str::to_owned).collect(),
            run: self.read("run").trim().to_owned(),
        }
    }
}

impl Tried {
    fn last_line(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    /// Returns the number of calls of the tests.
    fn tested(&self) -> usize {
        self.calls.iter().filter(|call| call.contains("--nocapture")).count()
    }

    /// Returns the calls that remove something.
    fn removals(&self) -> Vec<&str> {
        let is_removal = |call: &&str| {
            let is_documents = call.contains("--bin documents") && !call.contains("--list");
            call.contains(" delete ") || call.contains(" rm ") || is_documents
        };
        self.calls.iter().map(String::as_str).filter(is_removal).collect()
    }

    /// Checks that everything of the run was removed, and nothing else.
    fn assert_removed(&self, run: &str) {
        let expected = [
            format!(
                "gcloud --project p --quiet pubsub subscriptions delete \
                 projects/p/subscriptions/int64-{run}-0123456789ab"
            ),
            format!(
                "gcloud --project p --quiet pubsub topics delete projects/p/topics/raw-{run}-0123456789ab"
            ),
            format!(
                "gcloud --project p --quiet storage rm --recursive gs://bucket-{run}-0123456789ab"
            ),
            format!(
                "bq --headless --project_id p rm --recursive --force --dataset p:dataset_{run}_0123456789ab"
            ),
            format!("cargo run --quiet --package e2e --bin documents -- p {run}"),
        ];
        assert_eq!(run.len(), 12, "{run}");
        assert_eq!(self.removals(), expected, "{}", self.err);
    }
}

#[test]
fn a_trial_runs_every_check_and_removes_what_is_its_own() {
    let tried = Trial::new(&[]).run();
    let again = Trial::new(&[]).run();

    assert_eq!(tried.code, Some(0), "{}", tried.err);
    assert_eq!(tried.tested(), 8, "{:?}", tried.calls);
    tried.assert_removed(&tried.run);
    assert_ne!(tried.run, again.run);
    let ends = "8 passed, 0 failed, 0 skipped; 0 commands of the removal failed";
    assert_eq!(tried.last_line(), ends);
    assert!(tried.out.contains("It does not have storage"), "{}", tried.out);
    let built = tried.calls.iter().position(|call| call == "cargo build --workspace --bins");
    let tested = tried.calls.iter().position(|call| call.contains("--nocapture"));
    assert!(built.is_some() && built < tested, "{:?}", tried.calls);
}

#[test]
fn only_the_checks_that_were_started_are_paid_for() {
    let [one, all] = [&["quiet"][..], &[]].map(|arguments| Trial::new(arguments).run());

    assert_eq!((one.code, one.tested()), (Some(0), 1));
    assert!(one.out.contains("at most 4000 messages: 0.02 USD"), "{}", one.out);
    assert!(all.out.contains("at most 332000 messages"), "{}", all.out);
}

#[test]
fn a_removal_that_fails_is_listed_and_the_others_go_on() {
    for (breaks, step) in [
        ("*subscriptions delete*", "gcloud --project p --quiet pubsub subscriptions delete"),
        ("*topics list --format*", "gcloud --project p --quiet pubsub topics list"),
        ("*buckets list --format*", "gcloud --project p --quiet storage buckets list"),
        ("*rm --recursive gs*", "gcloud --project p --quiet storage rm --recursive gs://bucket-"),
        ("bq * rm *", "bq --headless --project_id p rm"),
        ("*documents -- p *", "cargo run --quiet --package e2e --bin documents -- p"),
    ] {
        let tried = Trial::new(&["quiet"]).with("BREAKS", breaks).run();

        assert_eq!(tried.code, Some(1), "{breaks}");
        let is_listed = |line: &str| line.starts_with("left: ") && line.contains(step);
        assert_eq!(tried.err.lines().filter(|line| is_listed(line)).count(), 1, "{}", tried.err);
        let again = format!("PROJECT=p deploy/try-on-gcp.sh --remove {}", tried.run);
        assert!(tried.err.contains(&again), "{}", tried.err);
        // A list that fails hides one name. A removal that fails was tried.
        let expected = if breaks.contains("list") { 4 } else { 5 };
        assert_eq!(tried.removals().len(), expected, "{breaks}: {:?}", tried.calls);
        assert!(tried.last_line().ends_with("; 1 commands of the removal failed"), "{}", tried.out);
    }
}

#[test]
fn a_missing_login_ends_it_before_anything_is_created() {
    for (breaks, named) in [
        ("*topics list --limit*", "gcloud auth login, and the role Pub/Sub Editor"),
        ("*buckets list --limit*", "the role Storage Admin"),
        ("bq * ls *", "the role BigQuery Data Editor"),
        ("*print-access-token*", "gcloud auth application-default login"),
        ("cargo build *", "a build without errors"),
        ("*documents -- --list*", "the role Cloud Datastore User"),
    ] {
        let tried = Trial::new(&[]).with("BREAKS", breaks).run();

        assert_eq!(tried.code, Some(2), "{breaks}: {}", tried.out);
        assert!(tried.err.contains("nothing was created") && tried.err.contains(named), "{breaks}");
        assert_eq!((tried.tested(), tried.removals().len()), (0, 0), "{breaks}");
    }
}

#[test]
fn tests_that_fail_or_crash_are_told_and_cleaned_up_after() {
    let fails = "test chain::a ... ok\ntest chain::b ... FAILED\n\
                 test result: FAILED. 3 passed; 2 failed; 0 ignored";
    let crashes = "test chain::a ... ok\nerror: test failed";
    let nothing = "test result: ok. 0 passed; 0 failed; 0 ignored";
    for (output, code, line) in [
        (fails, "101", "3 passed, 2 failed, 0 skipped"),
        (crashes, "101", "0 passed, 1 failed, 0 skipped"),
        (PASSES, "101", "1 passed, 1 failed, 0 skipped"),
        (nothing, "0", "0 passed, 1 failed, 0 skipped"),
    ] {
        let tried = Trial::new(&["view"]).with("OUTPUT", output).with("FAILS", code).run();

        assert_eq!(tried.code, Some(1), "{output}");
        assert!(tried.last_line().starts_with(line), "{}", tried.out);
        tried.assert_removed(&tried.run);
    }
}

#[test]
fn a_skipped_test_has_not_passed() {
    let output = "test chain::a ... SKIPPED: the faults need the embedded cloud\nok\n\
                  test chain::b ... FOUND: 3 s\nSKIPPED: duckdb is missing\nSKIPPED: pyarrow\nok\n\
                  test chain::c ... ok\ntest result: ok. 3 passed; 0 failed; 0 ignored";
    let tried = Trial::new(&["view"]).with("OUTPUT", output).run();
    let alone = "test chain::a ... SKIPPED: x\nok\ntest result: ok. 1 passed; 0 failed; 0 ignored";
    let alone = Trial::new(&["view"]).with("OUTPUT", alone).run();

    assert_eq!(tried.code, Some(0));
    assert!(tried.last_line().starts_with("1 passed, 0 failed, 2 skipped"), "{}", tried.out);
    let told =
        "\nSKIPPED: the faults need the embedded cloud\nFOUND: 3 s\nSKIPPED: duckdb is missing";
    assert!(tried.out.contains(told), "{}", tried.out);
    assert_eq!(alone.code, Some(1), "nothing has passed");
}

#[test]
fn a_signal_ends_the_tests_and_everything_is_removed() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let tried = Trial::new(&[]).interrupted_by(signal);

        assert_eq!(tried.code, Some(code), "{}", tried.err);
        assert_eq!(tried.tested(), 1);
        tried.assert_removed(&tried.run);
        let place = |what: &str| tried.calls.iter().position(|call| call.contains(what)).unwrap();
        assert!(place("cargo has ended") < place("subscriptions list --format"), "{signal}");
        let unfinished =
            "not finished: flows caches types view archive keys columns quiet\n0 passed";
        assert!(tried.out.contains(unfinished), "{}", tried.out);
    }
}

#[test]
fn what_a_run_has_left_is_removed_later_by_its_identifier() {
    let trial = Trial::new(&["--remove", "abcdef012345"]);
    std::fs::write(trial.folder.path().join("run"), "abcdef012345").unwrap();
    let tried = trial.with("KEEP_RESOURCES", "1").run();

    assert_eq!((tried.code, tried.tested()), (Some(0), 0), "{}", tried.err);
    tried.assert_removed("abcdef012345");
    for wrong in [&["--remove"][..], &["--remove", ""], &["--remove", ".*"], &["loud"]] {
        let refused = Trial::new(wrong).run();
        assert_eq!(refused.code, Some(2), "{wrong:?}");
        assert!(refused.calls.is_empty(), "{wrong:?}: {:?}", refused.calls);
    }
}

#[test]
fn resources_are_kept_on_demand() {
    let kept = Trial::new(&["quiet"]).with("KEEP_RESOURCES", "1").run();

    assert_eq!((kept.code, kept.removals().len()), (Some(0), 0));
    assert!(kept.out.contains(&format!("try-on-gcp.sh --remove {}", kept.run)), "{}", kept.out);
}

/// Returns the patterns of the script that select tests, and those that leave tests out.
fn patterns() -> (Vec<String>, Vec<String>) {
    let script = std::fs::read_to_string(root().join("deploy/try-on-gcp.sh")).unwrap();
    let lists = script.lines().filter_map(|line| line.split_once("?|")?.1.split_once('|'));
    let (with, without): (Vec<_>, Vec<_>) = lists.unzip();
    let names = |lists: Vec<&str>| {
        lists.iter().flat_map(|list| list.split_whitespace()).map(str::to_owned).collect()
    };
    (names(with), names(without))
}

/// Returns the flows, each by its full name with its source.
fn flows() -> Vec<(String, String)> {
    let folder = root().join("e2e/tests/e2e");
    let mut flows = Vec::new();
    let files = |folder: &std::path::Path| {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let nested = files(&folder).into_iter().filter(|path| path.is_dir());
    let nested: Vec<_> = nested.flat_map(|folder| files(&folder)).collect();
    for file in files(&folder).into_iter().filter(|path| path.is_file()).chain(nested) {
        let module = file.strip_prefix(&folder).unwrap().with_extension("");
        let module = module.to_str().unwrap().replace('/', "::");
        let source = std::fs::read_to_string(&file).unwrap();
        for test in source.split("#[tokio::test").skip(1) {
            let (_, name) = test.split_once("async fn ").unwrap();
            let (name, _) = name.split_once('(').unwrap();
            flows.push((format!("{module}::{name}"), test.to_owned()));
        }
    }
    flows
}

/// Guards against a renamed test: the trial would then run a check without any test.
#[test]
fn each_check_of_the_trial_names_tests_that_are_there() {
    let (with, without) = patterns();
    let flows = flows();

    assert!(with.len() >= 12 && without.len() >= 4, "{with:?} {without:?}");
    for pattern in with.iter().chain(&without) {
        assert!(flows.iter().any(|(name, _)| name.contains(pattern)), "{pattern}");
    }
}

/// Guards against a test that passes in the trial although nothing of Google's takes part in it.
#[test]
fn each_test_of_the_trial_can_run_on_googles_cloud() {
    let (with, without) = patterns();
    for (name, source) in flows() {
        let has = |patterns: &[String]| patterns.iter().any(|pattern| name.contains(pattern));
        if has(&with) && !has(&without) {
            assert!(source.contains("FlowEnv::start"), "{name} uses no cloud");
            assert!(!source.contains("faulty_cloud()"), "{name} needs the embedded cloud");
            assert!(!source.contains("Emulator::start("), "{name} starts an embedded cloud");
        }
    }
}
