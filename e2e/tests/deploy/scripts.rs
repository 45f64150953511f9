//! Tests of the deployment scripts: the make targets of images, and the set-up of Google Cloud.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use std::process::{Command, Output};

use crate::{SERVICES, root, succeed, tool};

#[test]
fn the_shell_scripts_have_no_fault_that_shellcheck_sees() {
    let Some(mut shellcheck) = tool("shellcheck") else { return };
    shellcheck.args([
        "deploy/gcp.sh",
        "deploy/try-on-gcp.sh",
        ".ci/run",
        ".ci/setup",
        ".ci/summary",
    ]);
    succeed(shellcheck);
}

/// Builds a make command for some targets, with an engine that only prints its arguments. Returns
/// `None` if make is missing.
fn made(goals: &[&str]) -> Option<Command> {
    let mut make = tool("make")?;
    make.args(["--silent", "ENGINE=echo", "ENGINE_ARGS="]).args(goals);
    Some(make)
}

#[test]
fn images_are_built_and_pushed_under_the_names_of_the_overlay() {
    let registry = "europe-docker.pkg.dev/my-project/dataflow";
    let version = env!("CARGO_PKG_VERSION");
    let [tag, place] = [format!("TAG={version}"), format!("REGISTRY={registry}")];
    let Some(make) = made(&["images", "push", &tag, &place]) else { return };
    let calls = String::from_utf8(succeed(make).stdout).unwrap();
    for service in SERVICES {
        let name = format!("{registry}/dataflow-{service}:{version}");
        assert!(calls.contains(&format!("build --target {service} --tag {name} .\n")), "{calls}");
        assert!(calls.contains(&format!("push {name}\n")), "{calls}");
    }
}

#[test]
fn images_are_not_pushed_without_a_registry() {
    let Some(mut make) = made(&["push"]) else { return };
    let output = make.env_remove("REGISTRY").output().unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "nothing is built in vain");
    assert!(String::from_utf8_lossy(&output.stderr).contains("push needs REGISTRY"));
}

/// Fake Google tools in a project without resources. They refuse each role binding `$REFUSALS`
/// times.
const GOOGLE: &str = r#"#!/bin/sh
call="$(basename "$0") $*"
echo "$call" >>"$CALLS"
case $call in
    *" --format "*) ;;
    *" describe "* | *" show "*) exit 1 ;;
    *add-iam-policy-binding* | *GRANT*)
        tried=$(grep -cxF -- "$(echo "$call" | head -n 1)" "$CALLS")
        [ "$tried" -gt "$REFUSALS" ] || { echo "the account does not exist" >&2; exit 1; } ;;
esac
"#;

/// Writes a script as a tool into a folder.
fn install(folder: &Path, name: &str, script: &str) {
    let file = folder.join(name);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
}

/// Runs the set-up with the fake tools and without waiting. Returns its output and the recorded
/// calls.
fn set_up(refusals: usize) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let install = |name: &str, text: &str| install(folder.path(), name, text);
    install("gcloud", GOOGLE);
    install("bq", GOOGLE);
    install("sleep", "#!/bin/sh\n");
    let path = std::env::var("PATH").unwrap();
    let calls = folder.path().join("calls");
    let output = Command::new("bash")
        .arg(root().join("deploy/gcp.sh"))
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .env("CALLS", &calls)
        .env("REFUSALS", refusals.to_string())
        .envs([("PROJECT", "p"), ("REGION", "europe-west1"), ("BUCKET", "b")])
        .envs([("DEAD_LETTER_BUCKET", "d"), ("NODE_ACCOUNT", "nodes@p")])
        .output()
        .unwrap();
    (output, std::fs::read_to_string(calls).unwrap())
}

#[test]
fn the_set_up_waits_for_accounts_that_google_does_not_know_yet() {
    let (output, calls) = set_up(3);

    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    for service in SERVICES {
        let account = format!("dataflow-{service}@p.iam.gserviceaccount.com");
        let binding = format!("service-accounts add-iam-policy-binding {account} ");
        let tries = calls.lines().filter(|call| call.contains(&binding)).count();
        assert_eq!(tries, 4, "{service}");
    }
    assert!(
        calls.contains("buckets update gs://d --lifecycle-file"),
        "letters are kept for a time"
    );
    assert!(calls.contains("artifacts repositories create dataflow"), "images have a place");
}

#[test]
fn services_may_see_who_listens_to_what_they_publish() {
    let (_, calls) = set_up(0);

    let listeners: [(&str, &[&str]); 4] = [
        ("ingestion", &["enrich", "dead-letters"]),
        ("enrich", &["bigqueries", "archive", "dead-letters"]),
        ("bigqueries", &["dead-letters"]),
        ("icestore", &["dead-letters"]),
    ];
    for (service, subscriptions) in listeners {
        for subscription in subscriptions {
            let member = format!("serviceAccount:dataflow-{service}@p.iam.gserviceaccount.com");
            let binding = format!(
                "subscriptions add-iam-policy-binding {subscription} --member {member} --role roles/pubsub.viewer"
            );
            assert!(calls.contains(&binding), "{binding}");
        }
    }
}

#[test]
fn the_set_up_gives_up_where_a_binding_is_always_refused() {
    let (output, calls) = set_up(usize::MAX >> 1);

    assert!(!output.status.success());
    let tries = calls.lines().filter(|call| call.contains("add-iam-policy-binding")).count();
    assert_eq!(tries, 8, "the first binding ends it");
}

/// Fake Google tool in a project with left-over resources of an earlier trial and with other
/// resources.
const LEFT_OVER: &str = r#"#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case $* in
    *"subscriptions list"*) printf '%s\n' projects/p/subscriptions/rows-0123456789ab projects/p/subscriptions/rows ;;
    *"topics list"*) echo projects/p/topics/raw ;;
    *"buckets list"*) printf '%s\n' bucket-0123456789ab my-archive ;;
    *" ls "*) printf '%s\n' '  datasetId  ' ' ----------- ' '  dataset_0123456789ab  ' '  dataflow  ' ;;
esac
"#;

/// Runs the trial with tools that only record their calls. With `fails`, its tests fail.
fn try_on_google(arguments: &[&str], fails: bool) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let install = |name: &str, text: &str| install(folder.path(), name, text);
    install("gcloud", LEFT_OVER);
    install("bq", LEFT_OVER);
    install("cargo", "#!/bin/sh\necho \"cargo $*\" >>\"$CALLS\"\nexit \"$FAILS\"\n");
    for tool in ["mosquitto", "redis-server"] {
        install(tool, "#!/bin/sh\n");
    }
    let calls = folder.path().join("calls");
    std::fs::write(&calls, "").unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .arg(root().join("deploy/try-on-gcp.sh"))
        .args(arguments)
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .env("CALLS", &calls)
        .env("FAILS", if fails { "1" } else { "0" })
        .envs([("PROJECT", "p"), ("YES", "1")])
        .output()
        .unwrap();
    (output, std::fs::read_to_string(calls).unwrap())
}

#[test]
fn a_trial_runs_every_check_removes_what_is_left_and_tells_the_cost() {
    let (output, calls) = try_on_google(&[], false);

    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}");
    assert_eq!(calls.lines().filter(|call| call.starts_with("cargo test")).count(), 4, "{calls}");
    assert!(
        calls.contains("subscriptions delete projects/p/subscriptions/rows-0123456789ab\n"),
        "{calls}"
    );
    assert!(calls.contains("storage rm --recursive gs://bucket-0123456789ab\n"), "{calls}");
    assert!(calls.contains("rm --recursive --force --dataset p:dataset_0123456789ab\n"), "{calls}");
    let removals = calls.matches(" delete ").count() + calls.matches(" rm ").count();
    assert_eq!(removals, 3, "nothing of others: {calls}");
    assert!(words.contains("messages: at most about 0."), "{words}");
}

#[test]
fn a_trial_that_fails_says_so_and_an_unknown_check_is_refused() {
    let (failed, calls) = try_on_google(&["quiet"], true);
    let (unknown, nothing) = try_on_google(&["loud"], false);

    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("failed: quiet"));
    assert_eq!(calls.lines().filter(|call| call.starts_with("cargo test")).count(), 1, "{calls}");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(nothing.is_empty(), "{nothing}");
}

/// Guards against a renamed test: the trial would then run a check without any test.
#[test]
fn each_check_of_the_trial_names_tests_that_are_there() {
    let script = std::fs::read_to_string(root().join("deploy/try-on-gcp.sh")).unwrap();
    let flows = root().join("e2e/tests/e2e");
    let checks = script.lines().filter_map(|line| line.split_once("?|"));
    let names: Vec<_> = checks.flat_map(|(_, tests)| tests.split(' ')).collect();

    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let (module, test) = name.split_once("::").unwrap();
        let source = std::fs::read_to_string(flows.join(format!("{module}.rs"))).unwrap();
        assert!(source.contains(&format!("fn {test}")), "{name}");
    }
}
