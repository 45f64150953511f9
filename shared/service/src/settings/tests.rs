use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::google::EndpointUrl;

mod bridge;
mod ecosystem;

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Example {
    #[schemars(flatten)]
    process: ProcessSettings,
    topic: Topic,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    wait: Duration,
    columns: Vec<Column>,
    labels: BTreeMap<String, Label>,
    letters: Option<Letters>,
    version: Version,
}

impl Default for Example {
    fn default() -> Self {
        Self {
            process: ProcessSettings {
                grace_period: Duration::from_secs(300),
                ..ProcessSettings::default()
            },
            topic: Topic::default(),
            wait: Duration::ZERO,
            columns: Vec::new(),
            labels: BTreeMap::new(),
            letters: None,
            version: Version::default(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
enum Version {
    #[default]
    #[serde(rename = "5")]
    Five,
    #[serde(rename = "3.1.1")]
    Three,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Topic {
    id: String,
    endpoint: Option<Parsed<EndpointUrl>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Column {
    name: String,
    size: u8,
    fields: Vec<Column>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Label {
    text: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(untagged, expecting = "must be a word or a section")]
enum Letters {
    Section { topic_id: String },
    Word(Word),
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Drop,
}

impl Settings for Example {
    fn check(&self, faults: &mut Faults) {
        faults.require(!self.process.project.is_empty(), "project", "required");
        faults.require(self.topic.id.len() < 5, "topic.id", "must be short");
        faults.duration("wait", self.wait, Duration::ZERO..=Duration::from_secs(3600));
        self.topic.endpoint.as_ref().map(|url| url.check("topic.endpoint", faults));
        for (index, column) in self.columns.iter().enumerate() {
            let right = !column.name.is_empty();
            faults.require(right, &format!("columns[{index}].name"), "required");
            let (key, size) = (format!("columns[{index}].size"), column.size);
            faults.require(size <= 9, &key, format!("must be at most 9, is {size}"));
        }
        for (name, label) in &self.labels {
            let right = !label.text.is_empty();
            faults.require(right, &format!("labels.{name}.text"), "required");
        }
    }

    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn variables() -> Vec<Variable> {
        const EMULATOR: Variable = Variable {
            name: "PUBSUB_EMULATOR_HOST",
            key: "topic.endpoint",
            kind: VariableKind::EmulatorHost,
        };
        const PORT: Variable =
            Variable { name: "EXAMPLE_SERVICE_PORT", key: "http.port", kind: VariableKind::Value };
        const URL: Variable = Variable {
            name: "TOPIC_ADDR",
            key: "topic.endpoint",
            kind: VariableKind::Address("http"),
        };
        const ID: Variable =
            Variable { name: "TOPIC_PORT", key: "topic.id", kind: VariableKind::Value };
        vec![EMULATOR, PORT, URL, ID]
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
    assert_eq!(settings.process.http.port, 3);
    assert_eq!(settings.process.project, "of-file");
    assert_eq!(settings.topic.endpoint, Some("http://localhost:8085".into()));
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
fn values_of_a_wrong_type_come_with_all_other_faults() {
    let yaml = "
http: { port: many, host: [] }
wait: 60
topic: { id: too-long, colour: red }
columns: [{ name: 7 }, 8, { size: 300, fields: [{ name: {} }] }]
labels: { a: 1, b: { text: [] }, c: {} }
letters: elsewhere
";
    let faults = read(yaml, &[]).unwrap_err();

    let expected = [
        "columns[0].name: must be a text, is 7, a number where a text belongs: put it in quotes (from FILE)",
        "columns[1]: must be a section with keys, is 8 (from FILE)",
        "columns[2].fields[0].name: must be a text, is a section (from FILE)",
        "columns[2].size: must be at most 9, is 300 (from FILE)",
        "http.host: must be a text, is a list (from FILE)",
        "http.port: must be a whole number from 0 to 65535, is `many`, a text where a number belongs (from FILE)",
        "labels.a: must be a section with keys, is 1 (from FILE)",
        "labels.b.text: must be a text, is a list (from FILE)",
        "letters: must be a word or a section, is `elsewhere` (from FILE)",
        "wait: must be 0s to 1h, is 60, a number where a duration belongs: add its unit, as in 60s (from FILE)",
        "topic.colour: unknown key (from FILE)",
        "project: required",
        "topic.id: must be short (from FILE)",
        "columns[2].name: required (from FILE)",
        "labels.c.text: required (from FILE)",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_file_that_holds_something_else_than_settings_is_not_shown() {
    for content in [
        "hunter2",
        "- hunter2\n",
        "'hunter2'\n",
        "!hunter2 hunter2\n",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        "7734",
        "77347734773477347734773477347734",
    ] {
        let faults = read(content, &[]).unwrap_err();

        let right = "FILE: must hold keys with values, such as `project: my-project`";
        assert_eq!(faults, [right], "{content}");
    }
    for broken in ["\"hunter2", "{hunter2", "a: b: hunter2", "*hunter2", "@hunter2"] {
        let faults = read(broken, &[]).unwrap_err().concat();
        assert!(!faults.contains("hunter2"), "{faults}");
    }
}

#[test]
fn a_secret_in_place_of_its_section_is_not_shown() {
    for secret in ["hunter2", "redis://h?password=hunter2"] {
        let faults = read(&format!("project: p\ntopic: {secret}\nlabels: {secret}\n"), &[]);

        let right =
            "must be a section with keys, is a text where keys with values belong (from FILE)";
        assert_eq!(faults.unwrap_err(), [format!("labels: {right}"), format!("topic: {right}")]);
    }
    // Where a word or a number belongs, only a URL is hidden.
    let faults = read("project: p\nwait: redis://h?password=hunter2\n", &[]).unwrap_err();
    assert!(!faults.concat().contains("hunter2"), "{faults:?}");
}

#[test]
fn an_unknown_key_is_named_in_full_with_the_nearest_one() {
    let yaml =
        "topik: { id: a }\ncolumns: [{ nmae: a, name: a }]\nletters: { topic_id: a, topicid: b }\n";
    let variables = [
        ("DATAFLOW__PROJECT", "p"),
        ("DATAFLOW__TPOIC__ENDPOINT", "x"),
        ("DATAFLOW__TPOIC__ID", "y"),
        ("DATAFLOW__HTTP__PASSWORD", "hunter2"),
    ];

    let faults = read(yaml, &variables).unwrap_err();

    let expected = [
        "columns[0].nmae: unknown key, did you mean `columns[0].name`? (from FILE)",
        "http.password: unknown key (from variable DATAFLOW__HTTP__PASSWORD)",
        "letters.topicid: unknown key, did you mean `letters.topic_id`? (from FILE)",
        "topik: unknown key, did you mean `topic`? (from FILE)",
        "tpoic.endpoint: unknown key, did you mean DATAFLOW__TOPIC__ENDPOINT, which sets \
         `topic.endpoint`? (from variable DATAFLOW__TPOIC__ENDPOINT)",
        "tpoic.id: unknown key, did you mean DATAFLOW__TOPIC__ID, which sets `topic.id`? \
         (from variable DATAFLOW__TPOIC__ID)",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_variable_alone_is_named() {
    let emulator = ("PUBSUB_EMULATOR_HOST", "localhost:8085");
    for (port, shown) in [("abc", "`abc`, a text where a number belongs"), ("70000", "70000")] {
        let faults = read("project: p", &[emulator, ("PORT", port)]).unwrap_err();

        let expected = format!(
            "http.port: must be a whole number from 0 to 65535, is {shown} (from variable PORT)"
        );
        assert_eq!(faults, [expected]);
    }
}

#[test]
fn a_text_from_a_variable_may_look_like_a_number_or_a_list() {
    let variables =
        [("DATAFLOW__PROJECT", "007"), ("DATAFLOW__TOPIC__ID", "[a]"), ("DATAFLOW__WAIT", "5m")];

    let settings = read("columns: []", &variables).unwrap();

    assert_eq!((&*settings.process.project, &*settings.topic.id), ("007", "[a]"));
    assert_eq!(settings.wait, Duration::from_secs(300));
}

#[test]
fn a_list_is_set_by_a_variable_as_a_whole() {
    let set = ("DATAFLOW__COLUMNS", "[{name=a,size=1}, {name=b}]");
    let settings = read("project: p", &[set]).unwrap();
    let faults = read("project: p", &[("DATAFLOW__COLUMNS__0__NAME", "a")]).unwrap_err();

    assert_eq!(settings.columns.len(), 2);
    let expected = "DATAFLOW__COLUMNS__0__NAME: a list is set as a whole, as \
                    DATAFLOW__COLUMNS='[a, b]' or '[{key=value}]'";
    assert_eq!(faults, [expected]);
}

#[test]
fn a_variable_with_one_underscore_that_means_a_key_is_refused() {
    let strangers = [
        ("DATAFLOW_CONFIG", "x"),
        ("DATAFLOW_PORT", "tcp://10.0.0.1:80"),
        ("DATAFLOW_HTTP_PORT", "tcp://10.0.0.2:80"),
        ("DATAFLOW_SERVICE_HOST", "10.0.0.1"),
    ];
    let meant =
        [("DATAFLOW_PROJECT", "p"), ("DATAFLOW_TOPIC__ID", "a"), ("DATAFLOW_HTTP_PORT", "80")];

    assert!(read("project: p", &strangers).is_ok());
    let expected = [
        "DATAFLOW_PROJECT: sets nothing; DATAFLOW__PROJECT sets project",
        "DATAFLOW_TOPIC__ID: sets nothing; DATAFLOW__TOPIC__ID sets topic.id",
        "DATAFLOW_HTTP_PORT: sets nothing; DATAFLOW__HTTP__PORT sets http.port",
    ];
    assert_eq!(read("project: p", &meant).unwrap_err(), expected);
}

#[test]
fn an_underscore_too_few_is_told_with_the_variable_that_is_meant() {
    let yaml = "project: p\nhttp_port: 80\n";
    let variables = [
        ("DATAFLOW__TOPIC_ENDPOINT", "http://h"),
        ("DATAFLOW__LABELS_A_TEXT", "x"),
        ("DATAFLOW__TOPIC_ENDPIONT", "http://h"),
        ("DATAFLOW__TOPIC_COLOUR_OF_THE_SKY", "x"),
    ];

    let faults = read(yaml, &variables).unwrap_err();

    let meant = |key: &str, meant: &str, sets: &str| {
        let variable = key.to_uppercase().replace('.', "__");
        format!(
            "{key}: unknown key, did you mean DATAFLOW__{meant}, which sets `{sets}`? \
             (from variable DATAFLOW__{variable})"
        )
    };
    let mut expected = vec![
        "http_port: unknown key, did you mean `http.port`? (from FILE)".to_owned(),
        "topic_colour_of_the_sky: unknown key \
         (from variable DATAFLOW__TOPIC_COLOUR_OF_THE_SKY)"
            .to_owned(),
        meant("labels_a_text", "LABELS__A__TEXT", "labels.a.text"),
        meant("topic_endpiont", "TOPIC__ENDPOINT", "topic.endpoint"),
        meant("topic_endpoint", "TOPIC__ENDPOINT", "topic.endpoint"),
    ];
    let mut found = faults;
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_value_of_a_wrong_type_is_told_plainly() {
    let yaml = "project: 42\nversion: 5\nwait: 2h\ncolumns: [{ name: a, size: '7' }, { name: b, size: 07 }]\n\
                http: { port: 'mqtt://u:hunter2@h' }\n";
    let wrong_type = read(yaml, &[]).unwrap_err();
    let out_of_range = read("project: p\ncolumns: [{ name: a, size: 10 }]", &[]).unwrap_err();

    let expected = [
        "columns[0].size: must be at most 9, is `7`, a text where a number belongs: leave the \
         quotes out (from FILE)",
        "columns[1].size: must be at most 9, is `07`, a text where a number belongs (from FILE)",
        "http.port: must be a whole number from 0 to 65535, is a text where a number belongs (from FILE)",
        "project: must be a text, is 42, a number where a text belongs: put it in quotes (from FILE)",
        "version: must be `5` or `3.1.1`, is 5, a number where a text belongs: put it in quotes \
         (from FILE)",
        "wait: must be 0s to 1h, is 2h (from FILE)",
    ];
    assert_eq!(wrong_type, expected);
    assert_eq!(out_of_range, ["columns[0].size: must be at most 9, is 10 (from FILE)"]);
}

#[test]
fn a_section_of_another_form_is_told_with_its_unknown_keys() {
    let misspelt = read("project: p\nletters: { topic: a }\n", &[]).unwrap_err();
    let strange = read("project: p\nletters: { x: a }\n", &[]).unwrap_err();

    let must = "letters: must be a word or a section";
    assert_eq!(
        misspelt,
        [format!("{must}; `topic` is unknown, did you mean `topic_id`? (from FILE)")]
    );
    assert_eq!(strange, [format!("{must}; `x` is unknown (from FILE)")]);
}

#[test]
fn the_address_of_an_emulator_needs_a_port_unless_it_is_a_url() {
    let faults = |address| {
        read("project: p\n", &[("PUBSUB_EMULATOR_HOST", address)]).err().unwrap_or_default()
    };

    for right in ["localhost:8085", "[::1]:8085", "http://localhost", "https://cloud/path"] {
        assert_eq!(faults(right), Vec::<String>::new(), "{right}");
    }
    for wrong in ["localhost", "127.0.0.1", "[::1]"] {
        let expected = "PUBSUB_EMULATOR_HOST: must be host:port, such as localhost:8085, or a URL; \
                        the port is missing";
        assert_eq!(faults(wrong), [expected], "{wrong}");
    }
}

#[test]
fn a_host_to_listen_on_is_an_address_or_a_name() {
    let faults = |host: &str| {
        let variables = ("DATAFLOW__HTTP__HOST", host);
        read("project: p\n", &[variables]).err().unwrap_or_default()
    };

    assert!(faults("::").is_empty());
    assert_eq!(
        faults("999.0.0.1"),
        ["http.host: must be an address or a name, such as 0.0.0.0 or 127.0.0.1 \
          (from variable DATAFLOW__HTTP__HOST)"]
    );
}

#[test]
fn no_fault_repeats_a_secret() {
    let secrets = [
        ("DATAFLOW__TOPIC__ENDPOINT", "http://user:hunter2@h"),
        ("PUBSUB_EMULATOR_HOST", "user:hunter2@h"),
        ("DATAFLOW__HTTP__PASSWORD", "hunter2"),
        ("DATAFLOW__HTTP__PORT", "80"),
    ];
    let yaml = "project: p\ntopic: { endpoint: 'http://user:hunter2@h', secret: hunter2 }\n";

    let faults = read(yaml, &secrets).unwrap_err().join("\n");

    assert!(faults.contains("topic.endpoint: must not hold a user, a password"), "{faults}");
    assert!(!faults.contains("hunter2"), "{faults}");
}

#[test]
fn a_duplicate_key_and_a_missing_file_are_faults() {
    let twice = read("project: a\ntopic:\n  id: a\n  id: b\n", &[]).unwrap_err();
    assert_eq!(twice, ["FILE: line 4: `id` is set twice in its section"]);

    let missing = load::<Example>(Some(Path::new("/nowhere/at/all.yaml")), []).unwrap_err();
    assert!(missing.lines()[0].contains("/nowhere/at/all.yaml"), "{missing}");
}

#[test]
fn a_number_beyond_64_bits_is_named() {
    let faults = read("project: p\nwait: 99999999999999999999999\n", &[]).unwrap_err();

    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("FILE: wait: 99999999999999999999999 is too large"),
        "{faults:?}"
    );
    assert!(faults[0].contains(" at line 2 "), "{faults:?}");
}

#[test]
fn the_keys_of_a_part_are_at_the_top_level() {
    let settings = read("project: p\nhttp: { port: 1 }\n", &[]).unwrap();
    let shown = to_value(&settings).unwrap();
    let faults = read("process: { project: p }\nprocess.project: p\n", &[]).unwrap_err();

    assert_eq!((&shown["project"], &shown["http"]["port"]), (&"p".into(), &1.into()));
    assert_eq!(shown.get("process"), None);
    let expected = [
        "process: unknown key (from FILE)",
        "process.project: unknown key (from FILE)",
        "project: required",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn the_schema_has_the_defaults_of_the_service() {
    let schema = crate::tools::schema::of::<Example>();

    let grace_period = &schema["properties"]["grace_period"];
    assert_eq!(grace_period["default"], "5m");
    assert_eq!(schema["properties"].get("process"), None);
}
