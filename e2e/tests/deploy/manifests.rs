//! Tests of the Kubernetes manifests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use service::Settings as _;

use crate::{SERVICES, copied, kustomized, manifests, named, rendered, root, succeed, tool, yaml};

const OVERLAYS: [&str; 2] = ["local", "gcp"];

#[test]
fn every_overlay_is_valid_for_kubernetes() {
    for overlay in OVERLAYS {
        let Some(text) = rendered(overlay) else { return };
        validate(&text);
    }
}

/// Validates manifests against the Kubernetes schemas.
fn validate(text: &str) {
    let Some(mut validate) = tool("kubernetes-validate") else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    validate.arg("--strict").arg(file.path());
    succeed(validate);
}

/// Returns the images of the four services.
fn images(manifests: &[Value]) -> Vec<&str> {
    let image = |service: &&str| {
        let workload = named(manifests, &["StatefulSet", "Deployment"], service);
        workload["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap()
    };
    SERVICES.iter().map(image).collect()
}

#[test]
fn the_project_of_the_overlay_is_set_in_one_place() {
    if tool("kubectl").is_none() {
        return;
    }
    let copy = copied("deploy/kubernetes/overlays/gcp", |text| {
        text.replace("- ../../", "- ../../deploy/kubernetes/")
            .replace("project: my-project", "project: other")
            .replace("registry: europe-docker.pkg.dev", "registry: registry.example.com:5000")
            .replace("tag: 0.1.0", "tag: 0.2.0")
            .replace("bucket: my-archive", "bucket: other-archive")
    });
    let text = kustomized(copy.path().to_str().unwrap()).unwrap();
    // The settings are the example files. Environment variables override some values.
    let other: Vec<_> = text.lines().filter(|line| line.contains("my-")).map(str::trim).collect();
    assert!(
        other.iter().all(|line| ["project: my-project", "bucket: my-archive"].contains(line)
            || line.starts_with('#')),
        "{other:?}"
    );

    let manifests = manifests(&text);
    for service in SERVICES {
        let account = &named(&manifests, &["ServiceAccount"], service)["metadata"]["annotations"];
        let google = account["iam.gke.io/gcp-service-account"].as_str().unwrap();
        assert_eq!(google, format!("dataflow-{service}@other.iam.gserviceaccount.com"));
        assert_eq!(environment(&manifests, service)["DATAFLOW__PROJECT"], "other", "{service}");
    }
    assert_eq!(environment(&manifests, "icestore")["DATAFLOW__STORAGE__BUCKET"], "other-archive");
    let wanted = SERVICES.map(|service| {
        format!("registry.example.com:5000/other/dataflow/dataflow-{service}:0.2.0")
    });
    assert_eq!(images(&manifests), wanted);
}

/// Returns the environment variables of the pods of a service.
fn environment<'a>(manifests: &'a [Value], service: &str) -> &'a Value {
    let workload = named(manifests, &["StatefulSet", "Deployment"], service);
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let name = container["envFrom"][0]["configMapRef"]["name"].as_str().unwrap();
    &named(manifests, &["ConfigMap"], name)["data"]
}

#[test]
fn the_overlay_has_the_images_of_this_version() {
    let Some(text) = rendered("gcp") else { return };
    for image in images(&manifests(&text)) {
        assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{image}");
    }
}

#[test]
fn a_folder_of_ones_own_deploys_settings_of_ones_own() {
    if tool("kubectl").is_none() {
        return;
    }
    // The same folder, with this source tree instead of the remote one.
    let copy = copied("deploy/kubernetes/example-remote", |text| {
        text.replace("https://git.example.com/dataflow.git//", "../../").replace("?ref=v0.1.0", "")
    });
    let text = kustomized(copy.path().to_str().unwrap()).unwrap();
    validate(&text);
    let manifests = manifests(&text);
    for service in ["ingestion", "bigqueries"] {
        let file = root().join(format!("deploy/kubernetes/example-remote/{service}.yaml"));
        let settings = std::fs::read_to_string(file).unwrap();
        assert_eq!(settings_of(&manifests, service), settings, "{service}");
    }
    let prefix = &environment(&manifests, "icestore")["DATAFLOW__ARCHIVE__PREFIX"];
    assert_eq!(prefix, "plant-1");
    assert_eq!(named(&manifests, &["StatefulSet"], "ingestion")["spec"]["replicas"], 3);
}

#[test]
fn the_settings_of_the_example_are_right() {
    service::install_crypto();
    let folder = root().join("deploy/kubernetes/example-remote");
    let variables = |more: &[(&str, &str)]| {
        let mut variables = BTreeMap::from([("DATAFLOW__PROJECT".to_owned(), "p".to_owned())]);
        variables.extend(more.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        variables
    };
    let password = tempfile::NamedTempFile::new().unwrap();
    let broker = [
        ("DATAFLOW__MQTT__URL", "mqtts://broker.example.com:8883"),
        ("DATAFLOW__MQTT__PASSWORD_FILE", password.path().to_str().unwrap()),
    ];
    service::settings::load::<ingestion::config::Settings>(
        Some(&folder.join("ingestion.yaml")),
        variables(&broker),
    )
    .unwrap();
    service::settings::load::<bigqueries::config::Settings>(
        Some(&folder.join("bigqueries.yaml")),
        variables(&[]),
    )
    .unwrap();
}

#[test]
fn replicas_are_scaled_by_what_every_cluster_can_measure() {
    for overlay in OVERLAYS {
        let Some(text) = rendered(overlay) else { return };
        let manifests = manifests(&text);
        for service in ["enrich", "bigqueries", "icestore"] {
            let scaler = named(&manifests, &["HorizontalPodAutoscaler"], service);
            let metrics = scaler["spec"]["metrics"].as_array().unwrap();
            let kinds: Vec<_> = metrics.iter().map(|metric| &metric["type"]).collect();
            assert_eq!(kinds, ["Resource"], "a metric that is missing stops scaling in");
        }
    }
}

#[test]
fn what_waits_can_scale_replicas_too() {
    if tool("kubectl").is_none() {
        return;
    }
    for (component, kind) in [("scale-by-age", "Pods"), ("scale-by-backlog", "External")] {
        let copy = copied("deploy/kubernetes/overlays/gcp", |text| {
            text.replace(
                &format!("# - ../../components/{component}\n"),
                &format!("- ../../components/{component}\n"),
            )
            .replace("- ../../", "- ../../deploy/kubernetes/")
        });
        let text = kustomized(copy.path().to_str().unwrap()).unwrap();
        validate(&text);
        let manifests = manifests(&text);
        for service in ["enrich", "bigqueries", "icestore"] {
            let scaler = named(&manifests, &["HorizontalPodAutoscaler"], service);
            let metrics = scaler["spec"]["metrics"].as_array().unwrap();
            let kinds: Vec<_> = metrics.iter().map(|metric| &metric["type"]).collect();
            assert_eq!(kinds, [kind, "Resource"], "{service}");
        }
    }
}

/// Returns the manifests of the local overlay with the component `engine`.
fn with_engine() -> Option<Vec<Value>> {
    tool("kubectl")?;
    let copy = copied("deploy/kubernetes/overlays/local", |text| {
        text.replace(
            "configMapGenerator:",
            "components: [../../components/engine]\nconfigMapGenerator:",
        )
        .replace("../../", "../../deploy/kubernetes/")
    });
    let text = kustomized(copy.path().to_str().unwrap()).unwrap();
    validate(&text);
    Some(manifests(&text))
}

#[test]
fn the_engine_component_adds_query() {
    service::install_crypto();
    let Some(manifests) = with_engine() else { return };

    let example = std::fs::read_to_string(root().join("services/query/example.yaml")).unwrap();
    assert_eq!(settings_of(&manifests, "query"), example);
    let pod = &named(&manifests, &["Deployment"], "query")["spec"]["template"]["spec"];
    let grace = seconds(yaml(&example)["grace_period"].as_str().unwrap());
    assert_eq!(pod["terminationGracePeriodSeconds"].as_u64().unwrap(), grace + 2 + 5);
    named(&manifests, &["ServiceAccount"], "query");
    let policy = named(&manifests, &["NetworkPolicy"], "query");
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["port"], 5432);
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], 8089);
    let variables = environment(&manifests, "query").as_object().unwrap();
    let variables = variables.iter().map(|(name, value)| {
        let is_file = name.ends_with("_FILE");
        // Files of a secret, which only a pod has.
        let value = if is_file { "" } else { value.as_str().unwrap() };
        (name.clone(), value.to_owned())
    });
    let file = root().join("services/query/example.yaml");
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "k".repeat(32)).unwrap();
    let keys = ("DATAFLOW__AUTH__API_KEYS_FILE".to_owned(), keys.path().display().to_string());
    let variables = variables.filter(|(_, value)| !value.is_empty()).chain([keys]);
    let settings: query::config::Settings =
        service::settings::load(Some(&file), variables).unwrap();
    let needed = service::Settings::memory_bytes(&settings);
    let limit = pod["containers"][0]["resources"]["limits"]["memory"].as_str().unwrap();
    let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
    assert!(needed <= limit * 1024 * 1024, "it may take {needed} bytes of {limit} MiB");
}

#[test]
fn the_engine_component_adds_postgres() {
    let Some(manifests) = with_engine() else { return };

    let example = std::fs::read_to_string(root().join("services/postgres/example.yaml")).unwrap();
    assert_eq!(settings_of(&manifests, "postgres"), example);
    assert_eq!(environment(&manifests, "postgres")["DATAFLOW__POSTGRES__HOST"], "postgresql");
    let pod = &named(&manifests, &["Deployment"], "postgres")["spec"]["template"]["spec"];
    let grace = seconds(yaml(&example)["grace_period"].as_str().unwrap());
    assert_eq!(pod["terminationGracePeriodSeconds"].as_u64().unwrap(), grace + 2 + 5);
    let query = &named(&manifests, &["Deployment"], "query")["spec"]["template"]["spec"];
    // Without keys, query refuses to listen at an address that others reach.
    let variables = environment(&manifests, "query");
    assert_eq!(variables["DATAFLOW__API__HOST"], "0.0.0.0");
    let keys = variables["DATAFLOW__AUTH__API_KEYS_FILE"].as_str().unwrap();
    let mounts = &query["containers"][0]["volumeMounts"].as_array().unwrap();
    let folder = keys.strip_suffix("/api-keys").unwrap();
    assert!(mounts.iter().any(|mount| mount["mountPath"] == folder), "{mounts:?}");
    let api = &named(&manifests, &["Service"], "query")["spec"]["ports"][1];
    assert_eq!((&api["name"], &api["port"]), (&"api".into(), &8089.into()));
    let answers = named(&manifests, &["NetworkPolicy"], "query");
    assert_eq!(answers["spec"]["ingress"][0]["ports"][0]["port"], 8089);
    let limit = query["containers"][0]["resources"]["limits"]["memory"].as_str().unwrap();
    let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
    let needed_by_query = query::config::Settings::default().memory_bytes();
    assert!(needed_by_query <= limit * 1024 * 1024, "it may take {needed_by_query} bytes");
    for service in ["postgres", "query"] {
        named(&manifests, &["ServiceAccount"], service);
    }
    let policy = named(&manifests, &["NetworkPolicy"], "postgres");
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["port"], 5432);
    let limit = pod["containers"][0]["resources"]["limits"]["memory"].as_str().unwrap();
    let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
    let needed = needed(|settings: &mut postgres::config::Settings| &mut settings.pipeline);
    assert!(needed <= limit * 1024 * 1024, "it may take {needed} bytes of {limit} MiB");
}

#[test]
fn with_googles_services_postgres_gets_the_project_and_its_account() {
    if tool("kubectl").is_none() {
        return;
    }
    let copy = copied("deploy/kubernetes/overlays/gcp", |text| {
        text.replace("components:\n", "components:\n  - ../../components/engine\n")
            .replace("../../", "../../deploy/kubernetes/")
            .replace("my-project", "other-project")
    });
    let text = kustomized(copy.path().to_str().unwrap()).unwrap();
    validate(&text);
    let manifests = manifests(&text);

    assert_eq!(environment(&manifests, "postgres")["DATAFLOW__PROJECT"], "other-project");
    let account = &named(&manifests, &["ServiceAccount"], "postgres")["metadata"]["annotations"];
    assert_eq!(
        account["iam.gke.io/gcp-service-account"],
        "dataflow-postgres@other-project.iam.gserviceaccount.com"
    );
    let registry = "europe-docker.pkg.dev/other-project/dataflow";
    for service in SERVICES.iter().chain(&["postgres", "query"]) {
        let workload = named(&manifests, &["StatefulSet", "Deployment"], service);
        let image = &workload["spec"]["template"]["spec"]["containers"][0]["image"];
        assert_eq!(*image, format!("{registry}/dataflow-{service}:0.1.0"));
    }
}

/// Parses a duration of the settings into whole seconds.
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
fn a_disruption_takes_one_replica_at_a_time_and_pods_are_reached_for_scrapes_alone() {
    let Some(text) = rendered("gcp") else { return };
    let manifests = manifests(&text);
    let policy = named(&manifests, &["NetworkPolicy"], "services");
    let selected = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
    assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    for service in SERVICES {
        let workload = named(&manifests, &["StatefulSet", "Deployment"], service);
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let is_selected = |(name, value): (&String, &Value)| &labels[name] == value;

        let budget = &named(&manifests, &["PodDisruptionBudget"], service)["spec"];
        let budgeted = budget["selector"]["matchLabels"].as_object().unwrap();
        assert_eq!(budget["maxUnavailable"], 1, "{service}");
        assert!(budgeted.iter().all(is_selected), "{service}: {budgeted:?}");
        assert!(selected.iter().all(is_selected), "{service}: {selected:?}");
    }
    let incoming = policy["spec"]["ingress"].as_array().unwrap();
    assert_eq!(incoming.len(), 1, "{incoming:?}");
    assert_eq!(incoming[0]["ports"], serde_json::json!([{ "protocol": "TCP", "port": 8080 }]));
}

#[test]
fn a_restarted_container_finds_what_the_last_one_worked_on() {
    let Some(text) = rendered("gcp") else { return };
    let manifests = manifests(&text);
    for service in SERVICES {
        let workload = named(&manifests, &["StatefulSet", "Deployment"], service);
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let find = |list: &Value, key: &str, value: &str| {
            let found = list.as_array().unwrap().iter().find(|item| item[key] == value);
            found.unwrap_or_else(|| panic!("{service} has no {value}")).clone()
        };
        let file = find(&container["env"], "name", "DATAFLOW__PIPELINE__CRASH_FILE");
        let file = Path::new(file["value"].as_str().unwrap());
        let folder = file.parent().unwrap().to_str().unwrap();
        let mount = find(&container["volumeMounts"], "mountPath", folder);
        assert_ne!(mount["readOnly"], true, "{service}");
        let volume = find(&pod["volumes"], "name", mount["name"].as_str().unwrap());
        assert!(volume["emptyDir"].is_object(), "{service}: {volume}");
    }
}

/// Returns the settings file that the pods of a service mount.
fn settings_of<'a>(manifests: &'a [Value], service: &str) -> &'a str {
    let workload = named(manifests, &["StatefulSet", "Deployment"], service);
    let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let settings = volumes.iter().find(|volume| volume["name"] == "settings").unwrap();
    let name = settings["configMap"]["name"].as_str().unwrap();
    named(manifests, &["ConfigMap"], name)["data"]["settings.yaml"].as_str().unwrap()
}

#[test]
fn pods_have_the_settings_that_the_tests_read() {
    let Some(text) = rendered("local") else { return };
    let manifests = manifests(&text);
    for service in SERVICES {
        let file = root().join("services").join(service).join("example.yaml");

        assert_eq!(
            yaml(settings_of(&manifests, service)),
            yaml(&std::fs::read_to_string(file).unwrap()),
            "{service}"
        );
    }
}

/// Returns the memory that the default settings of a service allow on a machine with many cores.
fn needed<T: service::Settings>(limits: impl FnOnce(&mut T) -> &mut pipeline::Limits) -> u64 {
    let mut settings = T::default();
    limits(&mut settings).lanes = 64;
    settings.memory_bytes()
}

#[test]
fn the_default_settings_fit_into_the_memory_of_their_pods() {
    let needed = [
        needed(|settings: &mut ingestion::config::Settings| &mut settings.pipeline),
        needed(|settings: &mut enrich::config::Settings| &mut settings.pipeline),
        needed(|settings: &mut bigqueries::config::Settings| &mut settings.pipeline),
        // icestore has one lane on any machine.
        service::Settings::memory_bytes(&icestore::config::Settings::default()),
    ];
    for (service, needed) in SERVICES.iter().zip(needed) {
        let file = root().join(format!("deploy/kubernetes/base/{service}.yaml"));
        let text = std::fs::read_to_string(file).unwrap();
        let limit = text.lines().find_map(|line| line.trim().strip_prefix("limits: { memory: "));
        let limit: u64 = limit.unwrap().strip_suffix("Mi }").unwrap().parse().unwrap();

        assert!(needed <= limit * 1024 * 1024, "{service} may take {needed} bytes of {limit} MiB");
    }
}
