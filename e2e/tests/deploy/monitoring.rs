//! Tests of alerts, their runbook, and dashboards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::{copied, kustomized, manifests, named, read, root, slug, succeed, tool, yaml};

/// Number of dashboards: the four services of the chain, postgres, query, and one for the chain.
const BOARDS: usize = 7;

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
    let runbook = read("docs/runbook.md");
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
    assert_eq!(boards["data"].as_object().unwrap().len(), BOARDS);
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

    // The label of the pod becomes the label `job`, which the alerts use.
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

/// Finds the names of this project's metrics in a text: words that begin with `dataflow_`.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("dataflow_"))
        .map(str::to_owned)
        .collect()
}

/// Returns the sample names of all metrics that the services register.
fn exported() -> BTreeSet<String> {
    let mut registry = prometheus_client::registry::Registry::default();
    let families = pipeline::metrics::Families::default();
    families.register(&mut registry);
    let _metrics = families.of("ingestion", &ingestion::REASONS);
    enrich::metrics::Metrics::default().register(&mut registry);
    let ingestion = ingestion::metrics::Metrics::default();
    ingestion.register(&mut registry);
    ingestion.register_http(&mut registry);
    icestore::objects::Objects::default().register(&mut registry);
    postgres::metrics::Metrics::default().register(&mut registry);
    pipeline::hops::Hops::default().register(&mut registry);
    pubsub::SourceMetrics::default().register(&mut registry);
    web::Metrics::default().register(&mut registry, &["admin"]);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let of_the_host =
        ["dataflow_service_ready", "dataflow_service_lost_log_lines_total", "dataflow_build_info"];
    let mut names: BTreeSet<_> = of_the_host.map(str::to_owned).into();
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
            // Gauges and other kinds have one sample with the name of the metric.
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
    assert_eq!(paths.len(), BOARDS, "one for each service and one for the chain");
    paths.push(folder.join("alerts.yml"));
    paths.push(folder.join("alerts.test.yml"));
    paths.push(folder.join("rules/prometheus-rule.yaml"));
    paths.push(folder.join("prometheus-adapter.yaml"));
    paths.push(root().join("docs/runbook.md"));
    paths.push(root().join("docs/metrics.md"));
    paths.push(root().join("deploy/kubernetes/components/scale-by-age/kustomization.yaml"));
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
