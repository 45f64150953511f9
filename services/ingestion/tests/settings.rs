//! Tests of the binary: the example settings are valid, and all faults of settings are reported
//! together.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Write as _;
use std::process::{Command, Output};

use ingestion::Ingestion;
use ingestion::config::{RouteSettings, Settings};
use serde_json::Value;
use service::settings::load;
use service::{Hosted, Settings as _, WrongSettings};

fn ingestion(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
    command.args(arguments).env_clear().output().unwrap()
}

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

    let settings: Settings = load(Some(example.as_ref()), []).unwrap();
    let checked = ingestion(&["check", "--config", example]);

    let defaults = Settings::default();
    assert_eq!(settings.pipeline, defaults.pipeline);
    assert_eq!(settings.identity, defaults.identity);
    assert_eq!(ingestion::config::Mqtt { url: "".into(), ..settings.mqtt }, defaults.mqtt);
    assert_eq!(checked.status.code(), Some(0));
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.contains("settings are right") && said.contains("at least once"), "{said}");
}

#[test]
fn a_plan_estimates_the_month_of_its_own_part() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
    command.args(["plan", "--offline", "--json", "--rate", "1000", "--bytes", "300", "--config"]);
    let planned = command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml"))
        .env_clear()
        .output()
        .unwrap();

    let json: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    let items = json["estimate"]["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Pub/Sub: publishing"], "{json}");
    assert!(json["estimate"]["total"].as_f64().unwrap() > 80.0, "{json}");
}

#[test]
fn a_strict_start_and_a_strict_check_name_each_setting_that_may_lose_messages() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    let strict = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
        command.args(arguments).args(["--config", example]).env_clear();
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let weak = [
        ("DATAFLOW__ROUTES__UPLINKS__SOURCE__QOS", "0"),
        ("DATAFLOW__MQTT__SESSION_EXPIRY", "1m"),
        ("DATAFLOW__DEAD_LETTERS", "drop"),
    ];

    let started = strict(&["--strict"], &weak);
    let checked = strict(&["check", "--strict", "--json"], &weak);
    let right = strict(&["check", "--strict"], &[("DATAFLOW__DEAD_LETTERS__BUCKET", "letters")]);
    let lenient = strict(&["check"], &weak);

    assert_eq!((started.status.code(), checked.status.code()), (Some(2), Some(2)));
    let said = String::from_utf8(started.stderr).unwrap();
    let keys: Vec<_> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        ["routes.uplinks.source.qos", "mqtt.session_expiry", "dead_letters"],
        "{said}"
    );
    assert!(said.contains("(from variable DATAFLOW__MQTT__SESSION_EXPIRY)"), "{said}");
    let json: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let faults: Vec<_> = json["faults"].as_array().unwrap().iter().collect();
    assert_eq!(faults, said.lines().collect::<Vec<_>>());
    assert_eq!((right.status.code(), lenient.status.code()), (Some(0), Some(0)));
    let promised = String::from_utf8(right.stdout).unwrap();
    assert!(promised.contains("strict: no setting may lose messages"), "{promised}");
}

#[test]
fn settings_that_nobody_has_checked_promise_nothing() {
    let mut settings = Settings::default();
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "devices/#/up".into();
    settings.routes.insert("a".into(), route);

    let wrong = settings.explain().unwrap_err();

    let text = "routes.a.source.mqtt_topic: `#` must be the last level";
    assert_eq!(wrong.to_string(), text);
}

#[test]
fn programs_read_whether_settings_are_right() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    let json = |checked: &Output| serde_json::from_slice::<Value>(&checked.stdout).unwrap();

    let right = ingestion(&["check", "--json", "--config", example]);
    let wrong = ingestion(&["check", "--json"]);

    assert_eq!((right.status.code(), wrong.status.code()), (Some(0), Some(2)));
    let (right, faults) = (json(&right), json(&wrong));
    assert_eq!((&right["service"], &right["settings"]), (&"ingestion".into(), &"right".into()));
    assert!(right["guarantees"][0].as_str().unwrap().contains("at least once"), "{right}");
    assert!(right["memory"]["needed_bytes"].as_u64().unwrap() > 0, "{right}");
    assert_eq!(faults["settings"], "wrong");
    let lines = faults["faults"].as_array().unwrap();
    assert!(lines.iter().any(|line| line.as_str().unwrap().starts_with("mqtt.url: required")));
    assert_eq!(wrong.stderr, b"");
}

/// Returns the write end of a pipe without a reader.
fn closed_pipe() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    for arguments in [
        &["schema"][..],
        &["check", "--config", example],
        &["check", "--json", "--config", example],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
        let unread = command.args(arguments).env_clear().stdout(closed_pipe()).output().unwrap();

        assert_eq!(unread.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&unread.stderr), "", "{arguments:?}");
    }

    let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
    let faulty = command.arg("check").env_clear().stderr(closed_pipe()).output().unwrap();
    assert_eq!(faulty.status.code(), Some(2));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = std::fs::File::create("/dev/full").unwrap();

    let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
    let unwritten = command.arg("schema").env_clear().stdout(full).output().unwrap();

    assert_eq!(unwritten.status.code(), Some(1));
    let said = String::from_utf8(unwritten.stderr).unwrap();
    assert!(said.contains("write standard output: No space left"), "{said}");
}

#[test]
fn the_url_of_the_broker_is_told_with_what_would_be_right() {
    let told = |url: &str| {
        let variable = ("DATAFLOW__MQTT__URL".to_owned(), url.to_owned());
        let faults = load::<Settings>(None, [variable]).unwrap_err();
        faults.lines().iter().find(|line| line.starts_with("mqtt.url")).unwrap().clone()
    };

    for (url, right) in [
        ("", "required, as mqtt://host:port"),
        ("http://broker:1883", "must begin with mqtt:// or mqtts://"),
        ("broker:1883", "must begin with mqtt:// or mqtts://"),
        ("mqtt://broker/path", "must be mqtt://host:port, or mqtts://host:port for TLS"),
        ("mqtt://bro ker", "its host must be"),
        ("mqtt://127.1:1883", "its host must be"),
        ("mqtt://a:hunter2@b", "must not have a user"),
    ] {
        let told = told(url);
        assert!(told.contains(right), "{url}: {told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn what_follows_from_a_section_that_cannot_be_read_is_no_fault() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let yaml = "
project: p
mqtt: { url: 'mqtt://h' }
routes: { a: { source: { mqtt_topic: 'x', qos: '1' }, destination: { route_name: raw } } }
producers: [raw]
dead_letters: { topic: dead-letters }
";
    file.write_all(yaml.as_bytes()).unwrap();

    let faults = load::<Settings>(Some(file.path()), []).unwrap_err();

    let expected = [
        "dead_letters: must be `{topic_id: ...}`, or `subscription`, or `drop` (messages may be lost); \
         `topic` is unknown, did you mean `topic_id`?",
        "producers: must be a section with keys, is a list",
        "routes.a.source.qos: must be 0, 1 or 2, is `1`, a text where a number belongs: leave the \
         quotes out",
    ];
    assert_eq!(faults.lines().len(), expected.len(), "{faults}");
    for (line, expected) in faults.lines().iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let yaml = "
mqtt: { url: 'http://x', keep_alive: 1s, receive_maximum: 0, colour: red }
routes:
  a: { source: { mqtt_topic: 'x/#/y', qos: 3 }, destination: { route_name: nowhere } }
  b: { source: { mqtt_topic: 'd/+' }, destination: { route_name: known } }
  c: { source: { mqtt_topic: 'd/{id}' }, destination: { route_name: known }, attributes: { t: '{u}' } }
producers: { known: { topic_id: '' }, unused: { topic_id: t } }
dead_letters: subscription
";
    file.write_all(yaml.as_bytes()).unwrap();

    let checked = ingestion(&["check", "--config", file.path().to_str().unwrap()]);

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "mqtt.colour: unknown key",
        "project: required",
        "mqtt.url: must begin with mqtt:// or mqtts://, as mqtt://host:port",
        "mqtt.keep_alive: must be 5s to 18h 12m 15s, is 1s",
        "mqtt.receive_maximum: must be 1 to 65535",
        "routes.a.source.mqtt_topic: `#` must be the last level",
        "routes.a.source.qos: must be 0, 1 or 2, is 3",
        "routes.a.destination.route_name: `nowhere` is not a key of producers",
        "routes.b.source.mqtt_topic: overlaps with routes.c",
        "routes.c.attributes.t: `{u}` is not a capture",
        "producers.known.topic_id: required",
        "producers.unused: no route leads here",
        "dead_letters: `subscription` is refused here",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    assert!(said.lines().filter(|line| line.contains("(from ")).count() >= 10, "{said}");
}

#[test]
fn a_certificate_that_cannot_be_read_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let no_pem = folder.path().join("no.pem");
    std::fs::write(&no_pem, "-----BEGIN CERTIFICATE-----\nnone\n").unwrap();
    let with_ca = |ca: &std::path::Path| {
        let ca = ca.display().to_string();
        let variables =
            [("DATAFLOW__MQTT__URL", "mqtts://h"), ("DATAFLOW__MQTT__TLS__CA_FILE", &ca)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        load::<Settings>(None, variables).unwrap_err().to_string()
    };

    let missing = with_ca("/nowhere/ca.pem".as_ref());
    let broken = with_ca(&no_pem);

    assert!(missing.contains("mqtt.tls: cannot read /nowhere/ca.pem: No such file"), "{missing}");
    assert!(broken.contains("no certificates in PEM"), "{broken}");
    assert!(broken.contains("no.pem"), "{broken}");
}

#[test]
fn a_url_with_a_user_is_refused_and_its_password_is_not_shown() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"mqtt: { url: 'mqtt://someone:hunter2@broker:1883' }").unwrap();

    for arguments in [&["check", "--config"][..], &["--config"]] {
        let arguments = [arguments, &[file.path().to_str().unwrap()]].concat();
        let refused = ingestion(&arguments);

        assert_eq!(refused.status.code(), Some(2));
        let said = [refused.stdout, refused.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        let right = "mqtt.url: must not have a user or password: set mqtt.username and";
        assert!(said.contains(right), "{said}");
        assert!(!said.contains("hunter2") && !said.contains("someone"), "{said}");
    }
}

#[test]
fn retire_does_not_guess_which_replica_goes() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

    let refused = ingestion(&["retire", "--config", example]);

    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("give --ordinal N"), "{said}");
}

#[test]
fn addresses_are_read_from_urls() {
    let address = |url: &str| {
        let mqtt = ingestion::config::Mqtt { url: url.into(), ..Default::default() };
        mqtt.broker().ok().map(|broker| format!("{} {}", broker.host(), broker.port()))
    };

    assert_eq!(address("mqtt://broker").as_deref(), Some("broker 1883"));
    assert_eq!(address("mqtts://broker/").as_deref(), Some("broker 8883"));
    assert_eq!(address("mqtt://10.0.0.7:1884").as_deref(), Some("10.0.0.7 1884"));
    assert_eq!(address("mqtt://[::1]").as_deref(), Some("::1 1883"));
    assert_eq!(address("mqtts://[fd00::7]:8884/").as_deref(), Some("fd00::7 8884"));
    for wrong in ["", "broker:1883", "mqtt://", "mqtt://:1883", "mqtt://b:x", "mqtt://[::1]1883"] {
        assert_eq!(address(wrong), None, "{wrong}");
    }
    assert_eq!(address("mqtt://broker/path"), None);
    assert_eq!(address("mqtt://u:p@broker:1883"), None);
}

#[test]
fn the_memory_of_mqtt_follows_from_the_settings() {
    let mqtt = ingestion::config::Mqtt {
        connections: 2,
        max_bytes_in_flight: 1_000_000,
        max_packet_bytes: 10_000,
        ..Default::default()
    };
    let settings = ingestion::config::Settings { mqtt, ..Default::default() };

    let shares = settings.memory();

    let shares: Vec<_> = shares.iter().map(|share| (share.setting, share.bytes)).collect();
    // The allocator's overhead adds a quarter.
    let expected = [
        ("mqtt.max_bytes_in_flight", 2 * 4 * 1_000_000 * 5 / 4),
        ("mqtt.max_packet_bytes", 2 * 3 * 10_000 * 5 / 4),
        ("mqtt.connections", 2 * 10_000 * 128 * 5 / 4),
    ];
    assert_eq!(shares[1..], expected);
}

#[test]
fn a_missing_file_is_named() {
    let checked = ingestion(&["--config", "/nowhere/x.yaml"]);

    assert_eq!(checked.status.code(), Some(2));
    assert!(String::from_utf8(checked.stderr).unwrap().contains("/nowhere/x.yaml"));
}

#[test]
fn a_taken_port_is_named_with_exit_code_1() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();

    let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
    let ended =
        command.args(["--config", example]).env_clear().env("PORT", &port).output().unwrap();

    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains(&port) && said.contains("http.port"), "{said}");
}

#[tokio::test]
async fn a_service_that_was_not_checked_ends_with_its_wrong_setting() {
    let mut wrong_url = Settings::default();
    wrong_url.mqtt.url = "http://broker".into();
    let mut wrong_filter = Settings::default();
    wrong_filter.mqtt.url = "mqtt://localhost".into();
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "a/#/b".into();
    wrong_filter.routes.insert("up".into(), route);

    for (key, mut settings) in [("mqtt.url", wrong_url), ("mqtt_topic", wrong_filter)] {
        settings.process.http.port = 0;

        let mut hosted = Hosted::start(Ingestion::new(settings)).await.unwrap();
        let ended = hosted.ended().await;

        let text = format!("{ended:#}");
        assert!(ended.is::<WrongSettings>() && text.contains(key), "{text}");
    }
}

/// Loads settings with these sections, beside those that every file needs.
fn with(sections: &str) -> Result<Settings, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let common = "project: p\nproducers: { raw: { topic_id: raw } }\ndead_letters: drop\n";
    file.write_all(format!("{common}{sections}").as_bytes()).unwrap();
    load(Some(file.path()), []).map_err(|faults| faults.to_string())
}

#[test]
fn a_broker_is_not_needed_for_ingest_over_http() {
    let route = "routes: { r: { source: { http_source: '{device_id}' }, destination: { route_name: raw } } }";
    let over_http = with(&format!("http_ingest: {{}}\n{route}")).unwrap();

    assert!(!over_http.has_mqtt());
    let names: Vec<_> = over_http.memory().iter().map(|share| share.setting).collect();
    assert_eq!(names, ["process", "http_ingest.max_waiting_bytes", "http_ingest.max_waiting"]);
    let said = over_http.explain().unwrap().join("\n");
    assert!(said.contains("http {device_id} -> raw: at least once after an answer"), "{said}");
    assert!(!said.contains("broker"), "{said}");
    let with_a_topic = "http_ingest: {}\nroutes: { r: { source: { mqtt_topic: a }, \
                        destination: { route_name: raw } } }";
    assert!(with(with_a_topic).unwrap_err().contains("mqtt.url: required"));
    assert!(with(route).unwrap_err().contains("http_ingest: required"));
}

#[test]
fn every_fault_of_ingest_over_http_is_named() {
    let faults = with(
        "
http_ingest: { host: 0.0.0.0, timeout: 1s, max_waiting: 0, max_waiting_bytes: 1 }
routes:
  a:
    source: { http_source: '{x}', mqtt_topic: t, qos: 1, shared_group: g }
    destination: { route_name: raw }
    ordering_key: '{x}'
    attributes: { tenant: '{y}' }
  b: { source: { http_source: '+' }, destination: { route_name: raw } }
",
    )
    .unwrap_err();

    for fault in [
        "http_ingest.host: must be loopback",
        "http_ingest.timeout: must be 2s to 1h",
        "http_ingest.max_waiting: must be 1 to 100000",
        "http_ingest.max_waiting_bytes: must be 2097152 to",
        "routes.a.source.mqtt_topic: a route has one source",
        "routes.a.source.qos: only for mqtt_topic",
        "routes.a.source.shared_group: only for mqtt_topic",
        "routes.a.ordering_key: requests over HTTP have no order",
        "routes.a.attributes.tenant: `{y}` is not a capture of http_source",
        "routes.b.source.http_source: takes the same sources as routes.a",
    ] {
        assert!(
            faults.lines().any(|line| line.starts_with(fault)),
            "{fault} is not among:\n{faults}"
        );
    }
    let long = with("http_ingest: { timeout: 31s }").unwrap_err();
    assert!(long.contains("http_ingest.timeout: must be at most grace_period"), "{long}");
    assert!(long.contains("http_ingest: no route has an http_source"), "{long}");
}
