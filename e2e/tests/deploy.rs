//! What is deployed, read by the tools that will read it: manifests, images, alerts, dashboards.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, YamlExtended};
use serde_json::Value;

const SERVICES: [&str; 4] = ["ingestion", "enrich", "bigqueries", "icestore"];
const OVERLAYS: [&str; 2] = ["local", "gcp"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A tool by its name on the PATH, or below the tools that the set-up installed; `None`, loudly, where
/// it is missing.
fn tool(name: &str) -> Option<Command> {
    let own = root().join("target/tools/bin").join(name);
    let program = if own.is_file() { own } else { name.into() };
    let mut command = Command::new(program);
    command.current_dir(root());
    if Command::new(command.get_program()).arg("--help").output().is_ok() {
        return Some(command);
    }
    // Past the test runner's capture, which would hide it.
    let text = format!("SKIPPED: {name} is missing\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    None
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    output
}

fn yaml(text: &str) -> Value {
    Figment::from(YamlExtended::string(text)).extract().unwrap()
}

/// The manifests of a folder as `kubectl` makes them.
fn kustomized(folder: &str) -> Option<String> {
    let mut kubectl = tool("kubectl")?;
    kubectl.args(["kustomize", folder]);
    Some(String::from_utf8(succeed(kubectl).stdout).unwrap())
}

/// An overlay's manifests as `kubectl` makes them.
fn rendered(overlay: &str) -> Option<String> {
    kustomized(&format!("deploy/kubernetes/overlays/{overlay}"))
}

/// A copy of a folder's files, changed. It lies below `target`, so that kustomize may leave it by relative paths.
fn copied(folder: &str, change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let copy = tempfile::tempdir_in(root().join("target")).unwrap();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        std::fs::write(copy.path().join(entry.file_name()), change(&text)).unwrap();
    }
    copy
}

fn manifests(rendered: &str) -> Vec<Value> {
    rendered.split("\n---\n").map(yaml).collect()
}

fn named<'a>(manifests: &'a [Value], kinds: &[&str], name: &str) -> &'a Value {
    let is_it = |manifest: &&Value| {
        kinds.iter().any(|kind| manifest["kind"] == *kind) && manifest["metadata"]["name"] == name
    };
    manifests.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kinds:?} {name}"))
}

#[test]
fn every_overlay_is_valid_for_kubernetes() {
    for overlay in OVERLAYS {
        let (Some(text), Some(mut validate)) = (rendered(overlay), tool("kubernetes-validate"))
        else {
            return;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        validate.arg("--strict").arg(file.path());
        succeed(validate);
    }
}

/// A duration of the settings, in whole seconds.
fn seconds(text: &str) -> u64 {
    let count = text.trim_end_matches('s').parse().unwrap();
    Duration::from_secs(count).as_secs()
}

#[test]
fn a_pod_has_the_time_that_its_service_needs_to_drain() {
    let Some(text) = rendered("gcp") else { return };
    let manifests = manifests(&text);
    for service in SERVICES {
        let workload = named(&manifests, &["StatefulSet", "Deployment"], service);
        let pod = &workload["spec"]["template"]["spec"];
        let example =
            std::fs::read_to_string(root().join("services").join(service).join("example.yaml"));
        let grace = seconds(yaml(&example.unwrap())["grace_period"].as_str().unwrap());
        let pause = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];

        assert_eq!(
            pod["terminationGracePeriodSeconds"].as_u64().unwrap(),
            grace + pause.as_u64().unwrap() + 5,
            "{service}"
        );
    }
}

#[test]
fn pods_have_no_rights_that_they_do_not_need() {
    let Some(text) = rendered("gcp") else { return };
    let manifests = manifests(&text);
    for service in SERVICES {
        let workload = named(&manifests, &["StatefulSet", "Deployment"], service);
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];

        assert_eq!(pod["enableServiceLinks"], false, "{service}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{service}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{service}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{service}");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{service}");
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{service}");
        let account = named(&manifests, &["ServiceAccount"], service);
        let annotations = &account["metadata"]["annotations"];
        let google = annotations["iam.gke.io/gcp-service-account"].as_str().unwrap();
        assert!(google.starts_with(&format!("dataflow-{service}@")), "{google}");
    }
}

#[test]
fn pods_have_the_settings_that_the_tests_read() {
    let Some(text) = rendered("local") else { return };
    let manifests = manifests(&text);
    for service in SERVICES {
        let workload = named(&manifests, &["StatefulSet", "Deployment"], service);
        let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let settings = volumes.iter().find(|volume| volume["name"] == "settings").unwrap();
        let name = settings["configMap"]["name"].as_str().unwrap();
        let map = named(&manifests, &["ConfigMap"], name);
        let file = root().join("services").join(service).join("example.yaml");

        assert_eq!(
            yaml(map["data"]["settings.yaml"].as_str().unwrap()),
            yaml(&std::fs::read_to_string(file).unwrap()),
            "{service}"
        );
    }
}

#[test]
fn the_image_file_and_the_composition_are_read_by_their_tools() {
    if let Some(mut hadolint) = tool("hadolint") {
        hadolint.arg("Dockerfile");
        succeed(hadolint);
    }
    if let Some(mut compose) = tool("docker-compose") {
        compose.args(["config", "--quiet"]);
        succeed(compose);
    }
}

#[test]
fn every_alert_fires_when_it_should_and_has_its_page_in_the_runbook() {
    let alerts = std::fs::read_to_string(root().join("deploy/monitoring/alerts.yml")).unwrap();
    let runbook = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let tests = std::fs::read_to_string(root().join("deploy/monitoring/alerts.test.yml")).unwrap();
    for rule in yaml(&alerts)["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(runbook.contains(&format!("### {name}\n")), "the runbook has no page on {name}");
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is not tested");
        let page = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], page, "{name}");
    }
    for args in [
        ["check", "rules", "deploy/monitoring/alerts.yml"],
        ["check", "config", "deploy/monitoring/prometheus.yml"],
        ["test", "rules", "deploy/monitoring/alerts.test.yml"],
    ] {
        let Some(mut promtool) = tool("promtool") else { return };
        promtool.args(args);
        succeed(promtool);
    }
}

#[test]
fn the_links_inside_the_runbook_lead_to_its_sections() {
    let runbook = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let slug =
        |heading: &str| heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    let sections: BTreeSet<_> =
        runbook.lines().filter(|line| line.starts_with('#')).map(slug).collect();
    for link in runbook.split("](#").skip(1) {
        let (section, _) = link.split_once(')').unwrap();
        assert!(sections.contains(section), "there is no section {section}");
    }
}

#[test]
fn the_operator_of_prometheus_gets_the_same_alerts_and_dashboards() {
    let folder = root().join("deploy/monitoring");
    let read = |name: &str| yaml(&std::fs::read_to_string(folder.join(name)).unwrap());
    assert_eq!(read("rules/prometheus-rule.yaml")["spec"], read("alerts.yml"));

    let Some(text) = kustomized("deploy/monitoring") else { return };
    let manifests = manifests(&text);
    let boards = manifests.iter().find(|manifest| manifest["kind"] == "ConfigMap").unwrap();
    assert_eq!(boards["data"].as_object().unwrap().len(), 5);
    for kind in ["PrometheusRule", "ServiceMonitor"] {
        let labels = &named(&manifests, &[kind], "dataflow")["metadata"]["labels"];
        assert_eq!(labels["release"], "kube-prometheus-stack", "{kind}");
    }
}

#[test]
fn managed_prometheus_gets_the_same_alerts_and_labels() {
    let Some(text) = kustomized("deploy/monitoring/gke") else { return };
    let manifests = manifests(&text);
    let rules = named(&manifests, &["Rules"], "dataflow");
    let of_the_operator = kustomized("deploy/monitoring/rules").unwrap();
    assert_eq!(rules["spec"], yaml(&of_the_operator)["spec"]);
    assert_eq!(rules["apiVersion"], "monitoring.googleapis.com/v1");

    // Its name becomes the label `job`, which the alerts ask for.
    let pods = named(&manifests, &["PodMonitoring"], "dataflow");
    let from_pod = &pods["spec"]["targetLabels"]["fromPod"][0];
    assert_eq!(from_pod["from"], "app.kubernetes.io/name");
    assert_eq!(from_pod["to"], "service");
}

#[test]
fn the_address_of_the_runbook_is_set_in_one_place() {
    if tool("kubectl").is_none() {
        return;
    }
    let address = "https://git.example.com/dataflow/docs/runbook.md";
    let copy = copied("deploy/monitoring/rules", |text| {
        text.replace("url=docs/runbook.md", &format!("url={address}"))
    });
    let rules = yaml(&kustomized(copy.path().to_str().unwrap()).unwrap());
    for rule in rules["spec"]["groups"][0]["rules"].as_array().unwrap() {
        let page = rule["alert"].as_str().unwrap().to_lowercase();
        assert_eq!(rule["annotations"]["runbook_url"], format!("{address}#{page}"));
    }
}

#[test]
fn the_shell_scripts_have_no_fault_that_shellcheck_sees() {
    let Some(mut shellcheck) = tool("shellcheck") else { return };
    shellcheck.args(["deploy/gcp.sh", ".ci/run", ".ci/setup", ".ci/summary"]);
    succeed(shellcheck);
}

#[test]
fn dependencies_have_licences_and_sources_that_we_take_and_reasons_for_duplicates() {
    let Some(mut deny) = tool("cargo-deny") else { return };
    deny.args(["check", "licenses", "sources", "bans"]);
    succeed(deny);
}

/// The names of our metrics in a text: words that begin with `dataflow_`.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("dataflow_"))
        .map(str::to_owned)
        .collect()
}

/// The metrics that the services register, by what their text format calls samples.
fn exported() -> BTreeSet<String> {
    let mut registry = prometheus_client::registry::Registry::default();
    pipeline::Metrics::new(&ingestion::REASONS).register(&mut registry);
    enrich::metrics::Metrics::default().register(&mut registry);
    ingestion::metrics::Metrics::default().register(&mut registry);
    pubsub::SourceMetrics::default().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let mut names: BTreeSet<_> =
        ["dataflow_service_ready", "dataflow_build_info"].map(str::to_owned).into();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        match kind {
            "counter" => {
                names.insert(format!("{name}_total"));
            }
            "histogram" => {
                names.insert(name.to_owned());
                names.extend(["bucket", "sum", "count"].map(|end| format!("{name}_{end}")));
            }
            // Gauges, and what tells itself only.
            _ => {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn alerts_dashboards_and_documents_name_metrics_that_there_are() {
    let exported = exported();
    let folder = root().join("deploy/monitoring");
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    let dashboards = std::fs::read_dir(folder.join("dashboards")).unwrap();
    let mut paths: Vec<_> = dashboards.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(paths.len(), 5, "one for each service and one for the chain");
    paths.push(folder.join("alerts.yml"));
    paths.push(folder.join("alerts.test.yml"));
    paths.push(folder.join("rules/prometheus-rule.yaml"));
    paths.push(folder.join("prometheus-adapter.yaml"));
    paths.push(root().join("docs/runbook.md"));
    paths.push(root().join("docs/metrics.md"));
    for service in SERVICES {
        paths.push(root().join(format!("deploy/kubernetes/base/{service}.yaml")));
    }
    for path in paths {
        files.insert(path.clone(), std::fs::read_to_string(&path).unwrap());
    }
    for (path, text) in &files {
        let unknown: Vec<_> = metrics_in(text).difference(&exported).cloned().collect();
        assert!(unknown.is_empty(), "{} names {unknown:?}", path.display());
    }
    let documented = metrics_in(&files[&root().join("docs/metrics.md")]);
    let silent: Vec<_> = exported
        .iter()
        .filter(|name| !["_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end)))
        .filter(|name| !documented.contains(*name))
        .collect();
    assert!(silent.is_empty(), "docs/metrics.md does not name {silent:?}");
}

#[test]
fn the_documents_name_every_reason() {
    let [readme, runbook] = ["README.md", "docs/runbook.md"]
        .map(|file| std::fs::read_to_string(root().join(file)).unwrap());
    let all = [ingestion::REASONS, enrich::REASONS, bigqueries::REASONS, icestore::REASONS];
    for reason in all.iter().flat_map(|reasons| reasons.refused) {
        let named = format!("`{reason}`");
        assert!(readme.contains(&named), "README.md does not name {named}");
        assert!(runbook.contains(&named), "docs/runbook.md does not name {named}");
    }
}

#[test]
fn every_expression_of_the_dashboards_is_one_for_prometheus() {
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    for entry in std::fs::read_dir(root().join("deploy/monitoring/dashboards")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let board: Value = serde_json::from_str(&text).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let expression = serde_json::to_string(&target["expr"]).unwrap();
                rules.push_str(&format!("      - {{ record: a:panel, expr: {expression}"));
                rules.push_str(&format!(", labels: {{ of: {} }} }}\n", rules.len()));
            }
        }
    }
    let Some(mut promtool) = tool("promtool") else { return };
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    promtool.args(["check", "rules"]).arg(file.path());
    succeed(promtool);
}
