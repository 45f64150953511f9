use std::io::Write as _;

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Example {
    http: Http,
    project: String,
    topic: Topic,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Topic {
    id: String,
    endpoint: Option<String>,
}

impl Settings for Example {
    fn check(&self, faults: &mut Faults) {
        faults.require(!self.project.is_empty(), "project", "required");
        faults.require(self.topic.id.len() < 5, "topic.id", "must be short");
    }

    fn project(&self) -> &str {
        &self.project
    }

    fn http(&self) -> &Http {
        &self.http
    }

    fn grace_period(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn variables() -> &'static [Variable] {
        const EMULATOR: Variable = Variable {
            name: "PUBSUB_EMULATOR_HOST",
            key: "topic.endpoint",
            kind: VariableKind::EmulatorHost,
        };
        &[PORT, PROJECT, EMULATOR]
    }
}

fn file(yaml: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    file
}

fn read(yaml: &str, variables: &[(&str, &str)]) -> Result<Example, Vec<String>> {
    let file = file(yaml);
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(file.path()), variables).map_err(|faults| {
        let path = file.path().display().to_string();
        faults.lines().iter().map(|line| line.replace(&path, "FILE")).collect()
    })
}

#[test]
fn later_layers_win() {
    let yaml = "project: of-file\ntopic: {id: a}\nhttp: {port: 1}\n";

    let settings = read(
        yaml,
        &[
            ("DATAFLOW__TOPIC__ID", "b"),
            ("DATAFLOW__HTTP__PORT", "2"),
            ("DATAFLOW_PORT", "tcp://10.0.0.1:80"),
            ("PORT", "3"),
            ("GOOGLE_CLOUD_PROJECT", "of-variable"),
            ("PUBSUB_EMULATOR_HOST", "localhost:8085"),
        ],
    )
    .unwrap();

    assert_eq!(settings.topic.id, "b");
    assert_eq!(settings.http.port, 3);
    assert_eq!(settings.project, "of-file");
    assert_eq!(settings.topic.endpoint.as_deref(), Some("http://localhost:8085"));
}

#[test]
fn all_faults_come_together_with_their_origins() {
    let faults = read("topic: {id: too-long, name: x}\nextra: 1\n", &[("DATAFLOW__MORE", "1")]);

    let expected = [
        "extra: unknown key (from FILE)",
        "more: unknown key (from variable DATAFLOW__MORE)",
        "topic.name: unknown key (from FILE)",
        "project: required",
        "topic.id: must be short (from FILE)",
    ];
    assert_eq!(faults.unwrap_err(), expected);
}

#[test]
fn a_wrong_type_names_its_key_and_file() {
    let faults = read("http: {port: many}\n", &[]).unwrap_err();

    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("http.port: invalid type"), "{faults:?}");
    assert!(faults[0].ends_with("(from FILE)"), "{faults:?}");
}

#[test]
fn a_duplicate_key_and_a_missing_file_are_faults() {
    assert!(read("project: a\nproject: b\n", &[]).unwrap_err()[0].contains("duplicate"));

    let missing = load::<Example>(Some(Path::new("/nowhere/at/all.yaml")), []).unwrap_err();
    assert!(missing.lines()[0].contains("/nowhere/at/all.yaml"), "{missing}");
}
