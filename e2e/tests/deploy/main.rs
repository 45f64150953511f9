//! Checks deployment files with the tools that read them: manifests, images, alerts and dashboards.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod features;
mod manifests;
mod monitoring;
mod reasons;
mod scripts;
mod trial;
mod variables;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use figment::Figment;
use figment::providers::{Format as _, YamlExtended};
use serde_json::Value;

const SERVICES: [&str; 4] = ["ingestion", "enrich", "bigqueries", "icestore"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Reads a file of the project.
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the part of a link that leads to a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

/// Finds a tool in `target/tools/bin` or on the PATH. If it is missing, prints that and returns
/// `None`.
fn tool(name: &str) -> Option<Command> {
    let own = root().join("target/tools/bin").join(name);
    let program = if own.is_file() { own } else { name.into() };
    let mut command = Command::new(program);
    command.current_dir(root());
    if Command::new(command.get_program()).arg("--help").output().is_ok() {
        return Some(command);
    }
    // Writes to stderr directly, because the test runner captures printed output.
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

/// Renders the manifests of a folder with `kubectl`.
fn kustomized(folder: &str) -> Option<String> {
    let mut kubectl = tool("kubectl")?;
    kubectl.args(["kustomize", folder]);
    Some(String::from_utf8(succeed(kubectl).stdout).unwrap())
}

/// Renders the manifests of an overlay with `kubectl`.
fn rendered(overlay: &str) -> Option<String> {
    kustomized(&format!("deploy/kubernetes/overlays/{overlay}"))
}

/// Copies the files of a folder and changes their text. The copy is below `target`, so relative
/// paths of kustomize can reach the repository.
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
fn the_image_file_and_the_composition_are_read_by_their_tools() {
    if let Some(mut hadolint) = tool("hadolint") {
        hadolint.arg("Dockerfile");
        succeed(hadolint);
    }
    if let Some(mut compose) = tool("docker-compose") {
        compose.args(["--profile", "engine", "config", "--quiet"]);
        succeed(compose);
    }
}

#[test]
fn the_build_of_images_has_every_crate_of_the_workspace() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (manifest, ignored) = (read("Cargo.toml"), read(".dockerignore"));
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    let kept: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();

    assert!(members.contains(&"services/ingestion"), "{members:?}");
    for member in members {
        let is_kept = kept.iter().any(|folder| Path::new(member).starts_with(folder));
        assert!(is_kept, "cargo needs {member}, which .dockerignore leaves out");
    }
}

#[test]
fn the_profile_engine_takes_messages_and_answers_on_this_machine_alone() {
    let text = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    let composition = yaml(&text);
    let file = root().join("deploy/engine/ingestion.yaml");
    let settings = yaml(&std::fs::read_to_string(file).unwrap());

    for (service, port) in [("http-ingest", "8088"), ("query", "8089"), ("postgresql", "5432")] {
        let service = &composition["services"][service];
        assert_eq!(service["profiles"], serde_json::json!(["engine"]));
        let ports = service["ports"].as_array().unwrap();
        assert!(ports.contains(&format!("127.0.0.1:{port}:{port}").into()), "{ports:?}");
        let is_near = |port: &Value| port.as_str().unwrap().starts_with("127.0.0.1:");
        assert!(ports.iter().all(is_near), "{ports:?}");
    }
    assert_eq!(settings["http_ingest"]["port"], 8088);
    let keys = settings["http_ingest"]["auth"]["api_keys_file"].as_str().unwrap();
    let of_query = &composition["services"]["query"]["environment"];
    assert_eq!(of_query["DATAFLOW__AUTH__API_KEYS_FILE"], keys);
    for service in ["http-ingest", "query"] {
        let volumes = composition["services"][service]["volumes"].as_array().unwrap();
        let folder = keys.strip_suffix("/api-keys").unwrap();
        assert!(volumes.contains(&format!("api-keys:{folder}:ro").into()), "{volumes:?}");
    }
}

#[test]
fn the_settings_of_the_profile_engine_are_right() {
    // Only the container has the file of the keys.
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "0123456789abcdef0123456789abcdef").unwrap();
    let keys = keys.path().display().to_string();
    let file = root().join("deploy/engine/ingestion.yaml");
    let example = root().join("services/query/example.yaml");
    let set = |name: &str, text: &str| (name.to_owned(), text.to_owned());

    let ingestion: ingestion::config::Settings = service::settings::load(
        Some(&file),
        [set("DATAFLOW__HTTP_INGEST__AUTH__API_KEYS_FILE", &keys)],
    )
    .unwrap();
    let of_query = [
        set("DATAFLOW__AUTH__API_KEYS_FILE", &keys),
        set("DATAFLOW__API__HOST", "0.0.0.0"),
        set("POSTGRES_HOST", "postgresql"),
        set("POSTGRES_SSLMODE", "disable"),
    ];
    let query: query::config::Settings = service::settings::load(Some(&example), of_query).unwrap();

    assert!(!ingestion.has_mqtt());
    assert_eq!(query.postgres.unwrap().host, "postgresql");
}

#[test]
fn dependencies_have_licences_and_sources_that_we_take_and_reasons_for_duplicates() {
    let Some(mut deny) = tool("cargo-deny") else { return };
    deny.args(["check", "licenses", "sources", "bans"]);
    succeed(deny);
}
