//! Tests of the command-line tools with the binaries and their example settings. The embedded cloud
//! has the resources of `deploy/kubernetes/overlays/local`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use e2e::cloud::{Cloud, Received};
use e2e::process::free_port;
use e2e::process::{Process, binary};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::examples::{root, text};
use crate::flow_env::{FlowEnv, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_dependency_is_looked_at_and_what_is_missing_is_named() {
    let env = FlowEnv::with_resources().await;
    let bare = FlowEnv::for_examples(None).await;

    for (service, kinds) in [
        ("ingestion", vec!["topic", "topic", "mqtt broker"]),
        ("enrich", vec!["subscription", "topic", "topic", "documents", "redis", "redis channel"]),
        ("bigqueries", vec!["subscription", "topic", "table"]),
        ("icestore", vec!["subscription", "topic", "bucket"]),
    ] {
        let found = env.json(service, &["check", "--online", "--json"], b"").await;
        let found = found.as_array().unwrap();
        let seen: Vec<_> = found.iter().map(|need| need["kind"].as_str().unwrap()).collect();
        assert_eq!(seen, kinds, "{service}");
        for need in found {
            let expected = if need["kind"] == "table" { "will_create" } else { "ready" };
            assert_eq!(need["state"], expected, "{service}: {need}");
        }
        // A plan lists all of them, also those that IAM has no role for.
        let plan = env.run(service, &["plan"], b"").await;
        assert!(plan.status.success(), "{}", text(&plan));
        assert!(text(&plan).contains("[roles/"), "{}", text(&plan));
        assert!(kinds.iter().all(|kind| text(&plan).contains(kind)), "{}", text(&plan));
        let plan = env.json(service, &["plan", "--json"], b"").await;
        let planned = plan["dependencies"].as_array().unwrap();
        let seen: Vec<_> = planned.iter().map(|need| need["kind"].as_str().unwrap()).collect();
        assert_eq!(seen, kinds, "{plan}");
        let cloud = plan["cloud"].as_array().unwrap();
        let pubsub =
            json!({ "api": "pubsub", "url": env.emulator().url(), "credentials": "anonymous" });
        assert!(cloud.contains(&pubsub), "{plan}");
        let costs = plan["costs"].as_array().unwrap();
        assert_eq!(costs.is_empty(), service != "icestore", "{plan}");

        let missing = bare.run(service, &["plan"], b"").await;
        assert_eq!(missing.status.code(), Some(1), "{service}: {}", text(&missing));
        assert!(text(&missing).contains("MISSING"), "{service}: {}", text(&missing));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_writes_is_not_ready() {
    let env = FlowEnv::with_resources().await;
    env.redis().command("CONFIG SET maxmemory 1").await.unwrap();

    let checked = env.run("enrich", &["check", "--online"], b"").await;

    assert_eq!(checked.status.code(), Some(1), "{}", text(&checked));
    let refused = "it refuses what is written: ";
    assert!(text(&checked).contains(refused), "{}", text(&checked));
    assert!(text(&checked).contains("OOM"), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_ready_when_it_may_be_written_to() {
    let env = FlowEnv::with_resources().await;
    let example = root().join("services/bigqueries/example.yaml");
    let (log, port) = (env.folder.path().join("log"), free_port().unwrap());
    let variables = env.variables("bigqueries");
    let mut service = Process::start_with("bigqueries", &example, port, &log, &variables).unwrap();
    service.ready().await.unwrap();
    assert!(service.terminate().await.unwrap().success());
    let table = async || {
        let found = env.json("bigqueries", &["check", "--online", "--json"], b"").await;
        found.as_array().unwrap().iter().find(|need| need["kind"] == "table").unwrap().clone()
    };

    assert_eq!(table().await["state"], "ready");
    let refused = "bigquery.tables.testIamPermissions";
    env.emulator().faults().refuse(refused, 1, tonic::Code::PermissionDenied);
    let unchecked = table().await;
    assert_eq!(unchecked["state"], "unchecked", "{unchecked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_explained_from_its_topic_to_its_row_and_its_object() {
    let env = FlowEnv::with_resources().await;
    let payload = br#"{"temperature":21.5,"fan":3}"#;
    let args = ["explain", "devices/device-00001/up", "--json"];

    let ingested = env.json("ingestion", &args, payload).await;
    let next = ["explain", "--pubsub-json", "--json"];
    let enriched = env.json("enrich", &next, ingested.to_string().as_bytes()).await;
    let again = env.json("enrich", &next, ingested.to_string().as_bytes()).await;
    let enriched_text = enriched.to_string();
    let row = env.json("bigqueries", &next, enriched_text.as_bytes()).await;
    let object = env.json("icestore", &next, enriched_text.as_bytes()).await;

    assert_eq!(ingested["route"], "uplinks");
    assert_eq!(ingested["pubsub_topic"], "projects/local/topics/raw");
    assert_eq!(enriched["key"], "device-00001");
    assert_eq!(
        (&enriched["answered_by"], &again["answered_by"]),
        (&json!("source"), &json!("redis"))
    );
    assert_eq!(enriched["envelope"]["enrichmentData"]["location"], "hall-a");
    assert_eq!(row["row"]["location"], "hall-a");
    assert_eq!(row["row"]["temperature"], 21.5);
    assert_eq!(row["insert_id"], ingested["envelope"]["id"]);
    let name = object["object"].as_str().unwrap();
    assert!(name.starts_with("gs://my-archive/archive/") && name.contains("/hall-a/"), "{name}");

    let lost = env.run("ingestion", &["explain", "nobody/listens"], payload).await;
    assert_eq!(lost.status.code(), Some(1));
    assert!(text(&lost).contains("no route matches the topic nobody/listens"), "{}", text(&lost));
}

const LIST_PANICKED: [&str; 7] =
    ["dead-letters", "list", "--reason", "panicked", "--wait", "1", "--json"];

/// Returns the dead letters that `dead-letters list` shows.
async fn dead_letters(env: &FlowEnv, args: &[&str]) -> Vec<Value> {
    let all = [&["dead-letters", "list", "--wait", "1", "--json"], args].concat();
    let listed = env.json("bigqueries", &all, b"").await;
    assert_eq!(listed["complete"], true, "{listed}");
    listed["letters"].as_array().unwrap().clone()
}

/// Waits for rows of the table, and returns their ids.
async fn first_rows(cloud: &Cloud) -> Vec<Value> {
    let mut rows = Vec::new();
    until(async || {
        rows = cloud.rows("dataflow", "readings").await.unwrap();
        !rows.is_empty()
    })
    .await;
    rows.iter().map(|row| row["ingest_id"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_found_explained_mended_and_replayed() {
    let env = FlowEnv::with_resources().await;
    let cloud = &env.cloud;
    let example = root().join("services/bigqueries/example.yaml");
    let log = env.folder.path().join("bigqueries.log");
    let start = |config: &Path| {
        let variables = env.variables("bigqueries");
        Process::start_with("bigqueries", config, free_port().unwrap(), &log, &variables).unwrap()
    };
    let mut service = start(&example);
    service.ready().await.unwrap();
    let warm = br#"{"id":"i-1","payload":"eyJ0ZW1wZXJhdHVyZSI6Indhcm0ifQ==","publishTime":"2025-06-15T10:00:00Z"}"#;
    let attributes = json!({ "ingest_id": "i-1", "device_id": "d1" });
    cloud.publish("enriched", warm, attributes).await.unwrap();

    until(async || dead_letters(&env, &[]).await.len() == 1).await;
    let dead_letter =
        &dead_letters(&env, &["--reason", "row_type_mismatch", "--device", "d1"]).await[0];
    assert_eq!(
        (&dead_letter["id"], &dead_letter["service"]),
        (&json!("i-1"), &json!("bigqueries"))
    );
    assert!(dead_letters(&env, &["--device", "d2"]).await.is_empty());
    let show = ["dead-letters", "show", "i-1", "--wait", "1", "--json"];
    let shown = env.json("bigqueries", &show, b"").await.to_string();
    let explain = ["explain", "--pubsub-json"];
    let why = env.run("bigqueries", &explain, shown.as_bytes()).await;
    assert_eq!(why.status.code(), Some(1));
    assert!(text(&why).contains("expected FLOAT64"), "{}", text(&why));

    // Without a change the row is refused again. That dead letter waits for the next replay.
    let replay = ["dead-letters", "replay", "--wait", "1", "--rate", "10"];
    let refused = env.run("bigqueries", &replay, b"").await;
    assert!(text(&refused).contains("\n1 replayed\n"), "{}", text(&refused));
    until(async || dead_letters(&env, &[]).await.len() == 1).await;

    // A column that reads another field repairs it.
    let mended = env.folder.path().join("mended.yaml");
    let settings = std::fs::read_to_string(&example).unwrap();
    std::fs::write(&mended, settings.replace("from: /temperature", "from: /celsius")).unwrap();
    let explained = env.run_with("bigqueries", &mended, &explain, shown.as_bytes()).await;
    assert!(explained.status.success(), "{}", text(&explained));
    assert!(service.terminate().await.unwrap().success());
    let mut service = start(&mended);
    service.ready().await.unwrap();

    cloud.create_topic("unheard").await.unwrap();
    let unheard = ["dead-letters", "replay", "--wait", "1", "--to", "unheard"];
    let unheard = env.run("bigqueries", &unheard, b"").await;
    assert_eq!(unheard.status.code(), Some(1), "nobody would see it: {}", text(&unheard));
    assert!(text(&unheard).contains("0 replayed, 1 cannot be replayed"), "{}", text(&unheard));
    let dry = ["dead-letters", "replay", "--wait", "1", "--dry-run"];
    let dry = env.run("bigqueries", &dry, b"").await;
    assert!(
        text(&dry)
            .contains("1 letter matches, of 1 read; no more letters came\n1 would be replayed\n"),
        "{}",
        text(&dry)
    );
    let replayed = env.run("bigqueries", &replay, b"").await;
    assert!(replayed.status.success(), "{}", text(&replayed));
    assert!(text(&replayed).contains("no more letters came\n1 replayed\n"), "{}", text(&replayed));

    assert_eq!(first_rows(cloud).await, ["i-1"]);
    assert!(dead_letters(&env, &[]).await.is_empty());
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tool_minds_that_its_reader_has_gone() {
    let env = FlowEnv::with_resources().await;
    let cloud = &env.cloud;
    let attributes =
        json!({ "dl_service": "bigqueries", "dl_reason": "row_missing", "ingest_id": "i-1" });
    cloud.publish("dead-letters", b"data", attributes).await.unwrap();

    for (service, args, code) in [
        ("ingestion", "check --online", 0),
        ("enrich", "plan --json", 0),
        ("icestore", "explain", 0),
        // There are no objects in the archive.
        ("icestore", "replay --prefix 2024 --dry-run", 1),
        ("bigqueries", "view", 0),
        ("bigqueries", "dead-letters list --wait 1", 0),
        ("bigqueries", "dead-letters count --wait 1", 0),
        ("bigqueries", "dead-letters show i-1 --wait 1", 0),
        ("bigqueries", "dead-letters replay --wait 1", 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let config = root().join("services").join(service).join("example.yaml");
        let args: Vec<_> = args.split(' ').collect();
        let mut command = env.command(service, &config, &args);
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let unread = command.spawn().unwrap().wait_with_output().await.unwrap();

        assert_eq!(unread.status.code(), Some(code), "{args:?}: {}", text(&unread));
        assert!(!text(&unread).contains("panic"), "{args:?}: {}", text(&unread));
    }

    // The replay has finished although its output was not read.
    let back = &pulled(cloud, "bigqueries", 1).await[0];
    assert_eq!(&*back.attributes["ingest_id"], "i-1");
    assert!(dead_letters(&env, &[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_pubsub_is_not_a_missing_subscription() {
    let env = FlowEnv::with_resources().await;
    let example = root().join("services/bigqueries/example.yaml");
    let list = ["dead-letters", "list", "--wait", "1"];
    let nowhere = format!("127.0.0.1:{}", free_port().unwrap());

    let mut command = env.command("bigqueries", &example, &list);
    let silent = command.env("PUBSUB_EMULATOR_HOST", &nowhere).output().await.unwrap();
    let other = [&list[..], &["--subscription", "other"]].concat();
    let missing = env.run("bigqueries", &other, b"").await;

    assert_eq!((silent.status.code(), missing.status.code()), (Some(1), Some(1)));
    let (silent, missing) = (text(&silent), text(&missing));
    assert!(silent.contains(&format!("http://{nowhere} must be reached from here")), "{silent}");
    assert!(!silent.contains("--subscription"), "{silent}");
    assert!(missing.contains("does not exist; name another subscription"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_found_among_thousands_in_every_run() {
    let env = FlowEnv::with_resources().await;
    let cloud = &env.cloud;
    let dead_letter = |index: usize, reason: &str| {
        let attributes = json!({
            "dl_service": "bigqueries", "dl_reason": reason, "ingest_id": format!("i-{index}"),
        });
        (index.to_string(), attributes)
    };
    let usual = (0..4000).map(|index| dead_letter(index, "row_type_mismatch"));
    let dead_letters: Vec<_> = usual.chain([dead_letter(4000, "panicked")]).collect();
    cloud.publish_all("dead-letters", &dead_letters).await.unwrap();

    for run in 0..3 {
        let found = env.json("bigqueries", &LIST_PANICKED, b"").await;
        assert_eq!((&found["complete"], &found["read"]), (&json!(true), &json!(4001)), "run {run}");
        assert_eq!(found["letters"][0]["id"], "i-4000", "run {run}");
    }
    let bounded = [&LIST_PANICKED[..], &["--max", "100"]].concat();
    let bounded = env.run("bigqueries", &bounded, b"").await;
    assert_eq!(bounded.status.code(), Some(1), "{}", text(&bounded));
    let told: Value = serde_json::from_slice(&bounded.stdout).unwrap();
    assert_eq!(
        (&told["complete"], &told["what_to_do"]),
        (&json!(false), &json!("give a larger --max"))
    );

    let count = ["dead-letters", "count", "--wait", "1", "--json"];
    let counted = env.json("icestore", &count, b"").await;
    let counts = json!([
        { "service": "bigqueries", "reason": "panicked", "letters": 1 },
        { "service": "bigqueries", "reason": "row_type_mismatch", "letters": 4000 },
    ]);
    assert_eq!(counted["counts"], counts, "of all services");

    let replay = ["dead-letters", "replay", "--reason", "panicked", "--wait", "1"];
    let replayed = env.run("bigqueries", &replay, b"").await;
    assert!(replayed.status.success(), "{}", text(&replayed));
    let back = &pulled(cloud, "bigqueries", 1).await[0];
    assert_eq!((&back.data[..], &*back.attributes["ingest_id"]), (&b"4000"[..], "i-4000"));
    let left = env.json("bigqueries", &LIST_PANICKED, b"").await;
    assert_eq!((&left["read"], &left["matching"]), (&json!(4000), &json!(0)));

    let misspelt = ["dead-letters", "list", "--reason", "row_tpye"];
    let misspelt = env.run("bigqueries", &misspelt, b"").await;
    assert_eq!(misspelt.status.code(), Some(2), "{}", text(&misspelt));
    assert!(text(&misspelt).contains("row_type_mismatch"), "{}", text(&misspelt));
}

/// Pulls messages of a subscription of the local project until `count` have arrived.
async fn pulled(cloud: &Cloud, subscription: &str, count: usize) -> Vec<Received> {
    let mut pulled = Vec::new();
    until(async || {
        pulled.extend(cloud.pull(subscription).await.unwrap());
        pulled.len() >= count
    })
    .await;
    pulled
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_comes_back_over_pubsub_and_over_mqtt() {
    let env = FlowEnv::with_resources().await;
    let cloud = &env.cloud;
    let log = env.folder.path().join("log");
    let start = |service: &str, more: &[(&'static str, String)]| {
        let config = root().join("services").join(service).join("example.yaml");
        let variables = [env.variables(service), more.to_vec()].concat();
        Process::start_with(service, &config, free_port().unwrap(), &log, &variables).unwrap()
    };
    let soon = [("DATAFLOW__PIPELINE__BATCH__MAX_AGE", "100ms".to_owned())];
    let mut icestore = start("icestore", &soon);
    icestore.ready().await.unwrap();
    // A payload that is not text.
    let data = br#"{"id":"i-1","payload":"/wD+","publishTime":"2025-06-15T10:00:00Z"}"#;
    let attributes = json!({
        "ingest_id": "i-1",
        "mqtt_topic": "devices/d1/up",
        "mqtt_content_type": "text/plain",
        "mqtt_correlation_data": "/wA=",
        "mqtt_repeated": "[\"color\"]",
        "color": "[\"red\",\"blue\"]",
        "mqtt_property_device_id": "forged",
    });
    cloud.publish("enriched", data, attributes.clone()).await.unwrap();
    until(async || !cloud.list("my-archive", "archive/").await.unwrap().is_empty()).await;
    assert!(icestore.terminate().await.unwrap().success());

    let nowhere = env.run("icestore", &["replay", "--prefix", "2024"], b"").await;
    assert_eq!(nowhere.status.code(), Some(2), "it must be told where to: {}", text(&nowhere));
    let dry = ["replay", "--prefix", "2025/06/15", "--dry-run"];
    let dry = env.run("icestore", &dry, b"").await;
    assert!(
        text(&dry).contains("messages that would be sent: 1, outside --since and --until: 0"),
        "{}",
        text(&dry)
    );
    let late = ["replay", "--since", "2025-06-16T00:00:00Z", "--to-topic", "raw"];
    let late = env.run("icestore", &late, b"").await;
    assert!(
        text(&late).contains("messages sent: 0, outside --since and --until: 1"),
        "{}",
        text(&late)
    );

    let replay = env.run("icestore", &["replay", "--to-topic", "raw"], b"").await;
    assert!(replay.status.success(), "{}", text(&replay));
    let back = &pulled(cloud, "enrich", 1).await[0];
    assert_eq!(&back.data[..], data);
    assert_eq!(back.attributes["ingest_id"], "i-1");

    let mut ingestion = start("ingestion", &[]);
    ingestion.ready().await.unwrap();
    let url = format!("mqtt://127.0.0.1:{}", env.broker.port());
    let replay = env.run("icestore", &["replay", "--to-mqtt", &url], b"").await;
    assert!(replay.status.success(), "{}", text(&replay));
    let back = &pulled(cloud, "enrich", 1).await[0];
    let envelope: Value = serde_json::from_slice(&back.data).unwrap();
    assert_eq!(envelope["payload"], "/wD+", "the original bytes");
    assert_eq!(back.attributes["device_id"], "d1");
    for (name, value) in attributes.as_object().unwrap() {
        let is_same = back.attributes[name] == *value;
        assert_eq!(is_same, name != "ingest_id", "{name}: {value}");
    }
    assert!(ingestion.terminate().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_whether_the_service_beside_it_is_ready() {
    let env = FlowEnv::with_resources().await;
    let port = free_port().unwrap();
    let example = root().join("services/icestore/example.yaml");
    let log = env.folder.path().join("icestore.log");
    let probe = async || {
        let mut command = Command::new(binary("icestore").unwrap());
        command.arg("probe").arg("--config").arg(&example).env("PORT", port.to_string());
        command.output().await.unwrap()
    };

    assert_eq!(probe().await.status.code(), Some(1), "nobody is there");
    let variables = env.variables("icestore");
    let mut service = Process::start_with("icestore", &example, port, &log, &variables).unwrap();
    service.ready().await.unwrap();

    let ready = probe().await;
    assert!(ready.status.success(), "{}", text(&ready));
    assert!(service.terminate().await.unwrap().success());
}

/// Checks that the schema has every key of `value`, at every level with fixed names.
fn assert_known(root: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(path) => root.pointer(path.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        if let Some(property) = schema["properties"].get(name) {
            assert!(
                property.get("description").is_some() || property.get("$ref").is_some(),
                "{at} has no description"
            );
            let inner = property["allOf"].get(0).unwrap_or(property);
            assert_known(root, inner, value, &at);
        } else {
            let is_free =
                schema["additionalProperties"].is_object() || schema.get("anyOf").is_some();
            assert!(is_free, "{at} is not in the schema: {schema}");
            assert_known(root, &schema["additionalProperties"], value, &at);
        }
    }
}

/// Returns the names of all settings, at every level.
fn names(schema: &Value) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    match schema {
        Value::Object(fields) => {
            let properties = fields.get("properties").and_then(Value::as_object);
            names.extend(properties.into_iter().flatten().map(|(name, _)| name.as_str()));
            names.extend(fields.values().flat_map(self::names));
        }
        Value::Array(items) => names.extend(items.iter().flat_map(self::names)),
        _ => {}
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_and_the_example_know_the_same_settings() {
    for service in ["ingestion", "enrich", "bigqueries", "icestore", "postgres", "query"] {
        let output = Command::new(binary(service).unwrap()).arg("schema").output().await.unwrap();
        let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(schema["additionalProperties"], false, "{service} refuses unknown keys");
        let file = root().join("services").join(service).join("example.yaml");
        let example: Value = yaml::read(&file);
        assert_known(&schema, &schema, &example, service);
        // Some settings appear in comments only.
        let text = std::fs::read_to_string(&file).unwrap();
        let words: BTreeSet<_> =
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let unsaid: Vec<_> = names(&schema).difference(&words).copied().collect();
        assert!(unsaid.is_empty(), "{service}'s example says nothing of {unsaid:?}");
    }
}

/// Parses YAML with the parser of the settings.
mod yaml {
    use std::path::Path;

    use figment::Figment;
    use figment::providers::{Format as _, YamlExtended};
    use serde_json::Value;

    pub(super) fn read(file: &Path) -> Value {
        Figment::from(YamlExtended::file_exact(file)).extract().unwrap()
    }
}
