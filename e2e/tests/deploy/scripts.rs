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
fn make_builds_runs_and_tests_the_whole_workspace() {
    let Some(mut make) = made(&["--dry-run", "build", "run", "test"]) else { return };
    // The tests may run under make themselves.
    make.env_remove("MAKEFLAGS");
    let calls = String::from_utf8(succeed(make).stdout).unwrap();
    for command in
        ["cargo build --release --workspace --bins", "cargo run", "cargo test --workspace"]
    {
        assert!(calls.contains(command), "{calls}");
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
pub(crate) fn install(folder: &Path, name: &str, script: &str) {
    let file = folder.join(name);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
}

/// Runs the set-up with the fake tools and without waiting. Returns its output and the recorded
/// calls.
fn set_up(refusals: usize) -> (Output, String) {
    set_up_with(refusals, &[])
}

/// Runs the set-up like [`set_up`], with more variables.
fn set_up_with(refusals: usize, variables: &[(&str, &str)]) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let install = |name: &str, text: &str| install(folder.path(), name, text);
    install("gcloud", GOOGLE);
    install("bq", GOOGLE);
    install("sleep", "#!/bin/sh\n");
    let path = std::env::var("PATH").unwrap();
    let calls = folder.path().join("calls");
    std::fs::write(&calls, "").unwrap();
    let output = Command::new("bash")
        .arg(root().join("deploy/gcp.sh"))
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .env("CALLS", &calls)
        .env("REFUSALS", refusals.to_string())
        .envs([("PROJECT", "p"), ("REGION", "europe-west1"), ("BUCKET", "b")])
        .envs([("DEAD_LETTER_BUCKET", "d"), ("NODE_ACCOUNT", "nodes@p")])
        .env_remove("WITH_POSTGRES")
        .envs(variables.iter().copied())
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

#[test]
fn postgres_gets_its_subscription_and_account_only_if_asked_for() {
    let (_, without) = set_up(0);
    let (output, with) = set_up_with(0, &[("WITH_POSTGRES", "1")]);

    assert!(!without.contains("postgres"), "{without}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let account = "dataflow-postgres@p.iam.gserviceaccount.com";
    let member = format!("--member serviceAccount:{account}");
    for call in [
        "subscriptions create postgres --topic enriched --ack-deadline 60".to_owned(),
        "service-accounts create dataflow-postgres".to_owned(),
        format!(
            "service-accounts add-iam-policy-binding {account} --role roles/iam.workloadIdentityUser"
        ),
        format!(
            "subscriptions add-iam-policy-binding postgres {member} --role roles/pubsub.subscriber"
        ),
        format!(
            "subscriptions add-iam-policy-binding postgres {member} --role roles/pubsub.viewer"
        ),
        format!(
            "topics add-iam-policy-binding dead-letters {member} --role roles/pubsub.publisher"
        ),
        format!(
            "subscriptions add-iam-policy-binding dead-letters {member} --role roles/pubsub.viewer"
        ),
        format!(
            "buckets add-iam-policy-binding gs://d {member} --role roles/storage.objectCreator"
        ),
        "subscriptions add-iam-policy-binding postgres --member \
         serviceAccount:dataflow-enrich@p.iam.gserviceaccount.com --role roles/pubsub.viewer"
            .to_owned(),
    ] {
        assert!(with.contains(&call), "{call}");
    }
    // A file with a random name is the only other difference.
    let others = |calls: &str| {
        let others = calls.lines().filter(|call| !call.contains("postgres"));
        let others = others.filter(|call| !call.contains("--lifecycle-file"));
        let mut others: Vec<_> = others.map(str::to_owned).collect();
        others.sort_unstable();
        others
    };
    assert_eq!(others(&with), others(&without));
}

#[test]
fn the_set_up_refuses_a_wish_that_it_does_not_understand() {
    let (output, calls) = set_up_with(0, &[("WITH_POSTGRES", "yes")]);

    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("WITH_POSTGRES must be 1 or 0, is yes")
    );
    assert_eq!(calls, "", "nothing is done");
}
