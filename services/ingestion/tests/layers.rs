//! Tests of the layers of settings: variables that other programs know, and a file of routes.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ingestion::Ingestion;
use ingestion::config::Settings;
use serde_json::Value;
use service::settings::{load, to_value};
use service::{Hosted, install_crypto};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

/// Reads the example with these variables.
fn with(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(EXAMPLE.as_ref()), variables).map_err(|faults| faults.to_string())
}

/// Settings in a folder, split into those of the service and its routes.
struct Split {
    folder: TempDir,
    settings: PathBuf,
    routes: PathBuf,
}

impl Split {
    /// Splits the example.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(EXAMPLE).unwrap();
        let (before, section) = text.split_once("\nroutes:\n").unwrap();
        let (section, after) = section.split_once("\nproducers:\n").unwrap();
        let (settings, routes) =
            (folder.path().join("own.yaml"), folder.path().join("routes.yaml"));
        std::fs::write(&settings, format!("{before}\nproducers:\n{after}")).unwrap();
        std::fs::write(&routes, format!("routes:\n{section}\n")).unwrap();
        Self { folder, settings, routes }
    }

    /// Runs the binary in the folder.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingestion"));
        command.args(arguments).env_clear().envs(variables.iter().copied());
        let Output { status, stdout, stderr } = command.current_dir(&self.folder).output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }
}

#[test]
fn each_variable_sets_its_key() {
    let settings = with(&[
        ("MQTT_BROKER_URL", "tls://broker.example"),
        ("MQTT_USERNAME", "007"),
        ("MQTT_PASSWORD", "'p4ss' "),
        ("MQTT_CLIENT_ID_PREFIX", "gateway"),
        ("MQTT_TOPIC", "plants/{device_id}/data"),
        ("MQTT_KEEP_ALIVE_SECONDS", "30"),
        ("MQTT_CONNECT_TIMEOUT_SECONDS", "5"),
        ("MQTT_INSECURE_SKIP_VERIFY", "false"),
    ])
    .unwrap();

    let mqtt = &settings.mqtt;
    let broker = mqtt.broker().unwrap();
    assert_eq!((broker.host(), broker.port(), broker.is_tls()), ("broker.example", 8883, true));
    assert_eq!(mqtt.username.as_deref(), Some("007"));
    assert_eq!(mqtt.password.text(), Some("'p4ss' "));
    assert!(mqtt.client_id(0).starts_with("gateway-"), "{}", mqtt.client_id(0));
    assert_eq!(settings.routes["uplinks"].source.mqtt_topic, "plants/{device_id}/data".into());
    assert_eq!(mqtt.keep_alive, Duration::from_secs(30));
    assert_eq!(mqtt.connect_timeout, Duration::from_secs(5));
}

#[test]
fn each_form_of_the_brokers_url_is_taken_or_told() {
    let broker = |url: &str| with(&[("MQTT_BROKER_URL", url)]);

    for (url, port, is_tls) in [
        ("tcp://b:1884", 1884, false),
        ("tcp://b", 1883, false),
        ("mqtt://b", 1883, false),
        ("ssl://b", 8883, true),
        ("tls://b:8884", 8884, true),
        ("mqtts://b", 8883, true),
    ] {
        let settings = broker(url).unwrap();
        let broker = settings.mqtt.broker().unwrap();
        assert_eq!((broker.host(), broker.port(), broker.is_tls()), ("b", port, is_tls), "{url}");
    }
    for (url, right) in [
        ("ws://b:8083/mqtt", "mqtt.url: MQTT over WebSocket is not spoken here"),
        ("wss://b", "mqtt.url: MQTT over WebSocket is not spoken here"),
        ("http://b", "mqtt.url: must begin with mqtt:// or mqtts://"),
        ("b:1883", "mqtt.url: must begin with mqtt:// or mqtts://"),
        ("tcp://user:hunter2@b", "mqtt.url: must not have a user or password: set mqtt.username"),
    ] {
        let told = broker(url).unwrap_err();
        assert!(told.starts_with(right) && !told.contains("hunter2"), "{url}: {told}");
        assert!(told.ends_with("(from variable MQTT_BROKER_URL)\n"), "{url}: {told}");
    }
    let tls = ("DATAFLOW__MQTT__TLS__CA_FILE", "/nowhere/ca.pem");
    let told = with(&[("MQTT_BROKER_URL", "ssl://b"), tls]).unwrap_err();
    assert!(told.starts_with("mqtt.tls: cannot read /nowhere/ca.pem"), "{told}");
}

#[test]
fn a_broker_whose_certificate_is_not_verified_is_refused() {
    let told = with(&[("MQTT_INSECURE_SKIP_VERIFY", "true")]).unwrap_err();

    let right = "MQTT_INSECURE_SKIP_VERIFY: the broker's certificate is always verified";
    assert!(told.starts_with(right) && told.contains("mqtt.tls.ca_file"), "{told}");
}

#[test]
fn a_password_needs_a_user_and_has_one_place() {
    let user = ("MQTT_USERNAME", "u");
    let password = ("MQTT_PASSWORD", "hunter2");
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().display().to_string();
    let file = ("DATAFLOW__MQTT__PASSWORD_FILE", file.as_str());

    for (variables, right) in [
        (&[password][..], "mqtt.username: required with a password"),
        (&[file], "mqtt.username: required with a password"),
        (
            &[user, password, file],
            "mqtt.password: must not be set together with mqtt.password_file",
        ),
    ] {
        let told = with(variables).unwrap_err();
        assert!(told.starts_with(right) && !told.contains("hunter2"), "{told}");
    }
    assert!(with(&[user, password]).is_ok() && with(&[user, file]).is_ok());
}

#[test]
fn a_password_in_a_file_of_settings_is_refused_and_one_in_the_environment_is_not() {
    let split = Split::new();
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let text = text.replacen("\nmqtt:\n", "\nmqtt:\n  username: u\n  password: hunter2\n", 1);
    std::fs::write(&split.settings, text).unwrap();
    let config = split.settings.display().to_string();
    std::fs::write(split.folder.path().join(".env"), "MQTT_PASSWORD='hunter2'\n").unwrap();

    let (code, told) = split.run(&["check", "--config", EXAMPLE], &[("MQTT_USERNAME", "u")]);
    assert_eq!(code, Some(0), "{told}");
    std::fs::remove_file(split.folder.path().join(".env")).unwrap();
    let (code, told) = split.run(&["check", "--config", &config], &[]);

    assert_eq!(code, Some(2), "{told}");
    assert!(told.starts_with("mqtt.password: must not be in a file of settings"), "{told}");
    assert!(told.contains("MQTT_PASSWORD") && !told.contains("hunter2"), "{told}");
}

/// Asks a server for a path, and returns the whole answer.
async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", address.port())).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_password_is_shown_nowhere() {
    install_crypto();
    let secret = [("MQTT_USERNAME", "u"), ("MQTT_PASSWORD", "hunter2")];
    let split = Split::new();
    for arguments in [&["check"][..], &["check", "--json"]] {
        let arguments = [arguments, &["--config", EXAMPLE]].concat();
        let (code, told) = split.run(&arguments, &secret);

        assert_eq!(code, Some(0), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let nobody = ("PUBSUB_EMULATOR_HOST", "127.0.0.1:1");
    let mut settings = with(&[&secret[..], &[nobody]].concat()).unwrap();
    settings.process.http.port = 0;
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(to_value(&settings).unwrap()["mqtt"]["password"], "***");

    let hosted = Hosted::start(Ingestion::new(settings)).await.unwrap();
    let status = get(hosted.address(), "/status").await;
    drop(hosted);

    let (_, body) = status.split_once("\r\n\r\n").unwrap();
    let shown: Value = serde_json::from_str(body).unwrap();
    assert_eq!(shown["settings"]["mqtt"]["password"], "***", "{body}");
    assert!(!status.contains("hunter2"), "{body}");
}

#[test]
fn routes_may_be_in_a_file_of_their_own() {
    let split = Split::new();
    let file = split.routes.display().to_string();
    let config = ["--config", split.settings.to_str().unwrap()];
    let told = |arguments: &[&str], variables: &[(&str, &str)]| {
        split.run(&[&["check"], arguments, &config].concat(), variables)
    };
    let is_right = |(code, told): &(Option<i32>, String)| {
        *code == Some(0) && told.contains("devices/{device_id}/up -> uplinks")
    };

    let without = told(&[], &[]);
    assert_eq!(without.0, Some(2), "{}", without.1);
    for given in [
        told(&["--routes", &file], &[]),
        split.run(&[&["--routes", &file], &config[..], &["check"]].concat(), &[]),
        told(&[], &[("DATAFLOW_ROUTES_FILE", &file)]),
        told(&["--routes", &file], &[("DATAFLOW_ROUTES_FILE", "/nowhere")]),
    ] {
        assert!(is_right(&given), "{given:?}");
    }
    std::fs::write(split.folder.path().join(".env"), "DATAFLOW_ROUTES_FILE=routes.yaml\n").unwrap();
    let given = told(&[], &[]);
    assert!(is_right(&given), "{given:?}");
    let (code, help) = split.run(&["--help"], &[]);
    assert!(code == Some(0) && help.contains("--routes <FILE>"), "{help}");
}

#[test]
fn faults_of_routes_name_their_file() {
    let split = Split::new();
    let (config, file) = (split.settings.to_str().unwrap(), split.routes.to_str().unwrap());
    let check = |config: &str| split.run(&["check", "--config", config, "--routes", file], &[]);

    let (code, told) = check(EXAMPLE);
    assert_eq!(code, Some(2));
    let right = format!("routes: is in {EXAMPLE} and in {file}: leave it out of one of them\n");
    assert_eq!(told, right);

    let wrong = "routes:\n  a: { source: { mqtt_topik: t, qos: 3 }, destination: { route_name: uplinks } }\n\
                 mqtt: { url: 'mqtt://h' }\n";
    std::fs::write(Path::new(file), wrong).unwrap();
    let (code, told) = check(config);

    assert_eq!(code, Some(2));
    let of_file = format!("(from {file})");
    for fault in [
        "mqtt: must not be here, only `routes`",
        "routes.a.source.mqtt_topik: unknown key, did you mean `routes.a.source.mqtt_topic`?",
        "routes.a.source.mqtt_topic: required",
        "routes.a.source.qos: must be 0, 1 or 2, is 3",
    ] {
        let is_told = |line: &str| line.starts_with(fault) && line.ends_with(&of_file);
        assert!(told.lines().any(is_told), "{fault} is not among:\n{told}");
    }
    assert_eq!(told.lines().count(), 4, "{told}");
}
