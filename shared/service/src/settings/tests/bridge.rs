//! Tests of sections in files of their own, and of variables of other programs that need more than a
//! key.

use super::*;

/// Settings with sections that have free names.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Bridge {
    #[schemars(flatten)]
    process: ProcessSettings,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    wait: Duration,
    password: Password,
    tls: bool,
    routes: BTreeMap<String, Route>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct Route {
    source: RouteSource,
    to: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct RouteSource {
    topic: String,
    other: String,
}

impl Settings for Bridge {
    const SECTION_FILES: &'static [SectionFile] =
        &[SectionFile { section: "routes", variable: "BRIDGE_ROUTES", help: "Routes." }];

    fn check(&self, faults: &mut Faults) {
        faults.require(!self.routes.is_empty(), "routes", "required");
        for (name, route) in &self.routes {
            let key = format!("routes.{name}.to");
            faults.require(!route.to.is_empty(), &key, "required");
        }
        if self.password.text().is_some() && faults.is_from_file("password") {
            faults.add("password", "must not be here");
        }
    }

    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn variables() -> Vec<Variable> {
        let variable = |name, key, kind| Variable { name, key, kind };
        vec![
            variable("WAIT_SECONDS", "wait", VariableKind::Seconds),
            variable("PASSWORD", "password", VariableKind::Value),
            variable("SKIP_VERIFY", "tls", VariableKind::Refused("is refused, set tls")),
            variable("TOPIC", "routes.*.source.topic", VariableKind::Value),
        ]
    }
}

const ROUTE: &str = "routes: { a: { source: { topic: t }, to: x } }";

fn bridge(yaml: &str, variables: &[(&str, &str)]) -> Result<Bridge, String> {
    let file = file(yaml);
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let loaded = load(Some(file.path()), variables);
    loaded.map_err(|faults| faults.to_string().replace(&file.path().display().to_string(), "FILE"))
}

/// Reads settings of a file, and routes of another one.
fn with_routes(yaml: Option<&str>, routes: &str, own: &[(&str, &str)]) -> Result<Bridge, String> {
    let (all, section) = (yaml.map(file), file(routes));
    let files = Files {
        settings: all.as_ref().map(|file| file.path().to_owned()),
        sections: BTreeMap::from([("routes", section.path().to_owned())]),
    };
    let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_files(&files, &own.collect(), Demand::AsSet).map_err(|faults| {
        let told = faults.to_string().replace(&section.path().display().to_string(), "ROUTES");
        all.map_or(told.clone(), |all| told.replace(&all.path().display().to_string(), "FILE"))
    })
}

#[test]
fn a_section_may_be_in_a_file_of_its_own() {
    let alone = with_routes(None, ROUTE, &[]).unwrap();
    let beside = with_routes(Some("wait: 1s\nroutes:\n"), ROUTE, &[]).unwrap();
    let own = [("DATAFLOW__ROUTES__A__TO", "y"), ("TOPIC", "u")];
    let overridden = with_routes(Some("wait: 1s"), ROUTE, &own).unwrap();

    assert_eq!(alone.routes["a"].to, "x");
    assert_eq!((beside.wait, &beside.routes), (Duration::from_secs(1), &alone.routes));
    let route = &overridden.routes["a"];
    assert_eq!((&*route.to, &*route.source.topic), ("y", "u"));
}

#[test]
fn faults_of_a_section_name_the_file_that_they_are_in() {
    let routes = "routes:\n  a: { source: { topik: t }, to: 7 }\n  b: { to: '' }\nwait: 1s\n";

    let faults = with_routes(Some("colour: red"), routes, &[]).unwrap_err();
    let twice = with_routes(Some("wait: 1s"), "routes: { a: {}, a: {} }", &[]).unwrap_err();
    let nothing = with_routes(Some("wait: 1s"), "hunter2", &[]).unwrap_err();

    let expected = [
        "wait: must not be here, only `routes` (from ROUTES)",
        "routes.a.to: must be a text, is 7, a number where a text belongs: put it in quotes (from ROUTES)",
        "colour: unknown key (from FILE)",
        "routes.a.source.topik: unknown key, did you mean `routes.a.source.topic`? (from ROUTES)",
        "routes.b.to: required (from ROUTES)",
    ];
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected);
    assert_eq!(twice, "ROUTES: line 1: `a` is set twice in its section\n");
    assert!(nothing.starts_with("ROUTES: must hold keys with values"), "{nothing}");
}

#[test]
fn a_section_in_two_files_or_in_none_is_a_fault() {
    let twice = with_routes(Some(ROUTE), ROUTE, &[]).unwrap_err();
    let none = with_routes(Some("wait: 1s"), "{}", &[]).unwrap_err();
    let files =
        Files { settings: None, sections: BTreeMap::from([("routes", "/nowhere/r".into())]) };
    let missing = load_files::<Bridge>(&files, &Environment::default(), Demand::AsSet).unwrap_err();

    assert_eq!(twice, "routes: is in FILE and in ROUTES: leave it out of one of them\n");
    assert_eq!(none, "routes: is missing in ROUTES\n");
    assert!(missing.to_string().starts_with("/nowhere/r: "), "{missing}");
}

#[test]
fn seconds_become_a_duration() {
    let wait = |text| bridge(ROUTE, &[("WAIT_SECONDS", text)]).map(|bridge| bridge.wait);
    let own = bridge(ROUTE, &[("WAIT_SECONDS", "7"), ("DATAFLOW__WAIT", "1m")]).unwrap();

    assert_eq!(wait("90"), Ok(Duration::from_secs(90)));
    assert_eq!(wait(""), Ok(Duration::ZERO));
    assert_eq!(own.wait, Duration::from_secs(60));
    for wrong in ["60s", "1.5", "-1", "not-a-number", "99999999999"] {
        let right = "WAIT_SECONDS: must be a whole number of seconds, such as 60\n";
        assert_eq!(wait(wrong), Err(right.to_owned()), "{wrong}");
    }
}

#[test]
fn a_variable_of_a_setting_that_is_refused_is_a_fault_unless_it_says_no() {
    let read = |text| bridge(ROUTE, &[("SKIP_VERIFY", text)]);

    for harmless in ["", "false", "0"] {
        assert!(read(harmless).is_ok(), "{harmless}");
    }
    for refused in ["true", "1", "yes"] {
        assert_eq!(read(refused).unwrap_err(), "SKIP_VERIFY: is refused, set tls\n", "{refused}");
    }
}

#[test]
fn a_key_of_any_name_is_that_of_the_only_section() {
    let routes = |yaml: &str, own: &[(&str, &str)]| {
        let set = [&[("TOPIC", "t")], own].concat();
        bridge(yaml, &set).map(|bridge| bridge.routes)
    };
    let topic = |yaml: &str, name: &str| routes(yaml, &[]).unwrap()[name].source.topic.clone();

    assert_eq!(topic("routes: { a: { source: { topic: other }, to: x } }", "a"), "t");
    assert_eq!(topic("routes: { a: { to: x } }", "a"), "t");
    let second =
        "routes: { a: { source: { other: o }, to: x }, b: { source: { topic: o }, to: x } }";
    assert_eq!(topic(second, "b"), "t");
    assert_eq!(topic(second, "a"), "");
    let own = [("DATAFLOW__ROUTES__NEW__TO", "x")];
    assert_eq!(routes("wait: 1s", &own).unwrap()["new"].source.topic, "t");
    let own = [("DATAFLOW__ROUTES__A__SOURCE__TOPIC", "own")];
    assert_eq!(routes(ROUTE, &own).unwrap()["a"].source.topic, "own");
    assert_eq!(routes("wait: 1s", &[]).unwrap_err(), "routes.default.to: required\n");
}

#[test]
fn a_key_of_any_name_that_several_sections_have_is_a_fault() {
    let topics =
        "routes: { a: { source: { topic: t }, to: x }, b: { source: { topic: u }, to: x } }";
    let others = "routes: { a: { to: x }, b: { to: x } }";

    for yaml in [topics, others] {
        let fault = bridge(yaml, &[("TOPIC", "t")]).unwrap_err();

        let right = "TOPIC: sets source.topic of the only one of routes, and there are several: a, b; leave \
                     it out, or set DATAFLOW__ROUTES__A__SOURCE__TOPIC instead\n";
        assert_eq!(fault, right);
    }
}

#[test]
fn the_file_env_is_below_the_environment_and_that_below_our_own_variables() {
    let folder = tempfile::tempdir().unwrap();
    let env = folder.path().join(".env");
    std::fs::write(&env, "WAIT_SECONDS=1\nTOPIC=of-env\n").unwrap();
    let yaml = file(&format!("{ROUTE}\nwait: 9s"));
    let read = |process: &[(&str, &str)]| {
        let process = process.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let environment = Environment::with_file(&env, process).unwrap();
        let bridge: Bridge = load_in(Some(yaml.path()), &environment).unwrap();
        (bridge.wait.as_secs(), bridge.routes["a"].source.topic.clone())
    };
    let process = [("WAIT_SECONDS", "2"), ("TOPIC", "of-process")];
    let own = [("DATAFLOW__WAIT", "3s"), ("DATAFLOW__ROUTES__A__SOURCE__TOPIC", "own")];

    assert_eq!(read(&[]), (1, "of-env".into()));
    assert_eq!(read(&process), (2, "of-process".into()));
    assert_eq!(read(&[&process[..], &own].concat()), (3, "own".into()));
    assert_eq!(read(&own), (3, "own".into()));
}

#[test]
fn a_password_from_a_variable_is_taken_as_it_is() {
    for name in ["PASSWORD", "DATAFLOW__PASSWORD"] {
        for text in
            ["\"quoted\"", "'x'", " spaces ", "[list]", "{a=b}", "007", "1.50", "true", "a,b"]
        {
            let bridge = bridge(ROUTE, &[(name, text)]).unwrap();

            assert_eq!(bridge.password.text(), Some(text), "{name}");
        }
    }
}

#[test]
fn a_value_knows_whether_a_file_has_set_it() {
    let of_file = bridge(&format!("{ROUTE}\npassword: hunter2"), &[]).unwrap_err();
    let empty = bridge(&format!("{ROUTE}\npassword: ''"), &[]);
    let of_variable = bridge(ROUTE, &[("PASSWORD", "hunter2")]);

    assert_eq!(of_file, "password: must not be here (from FILE)\n");
    assert!(empty.is_ok() && of_variable.is_ok());
    let shown = to_value(&of_variable.unwrap()).unwrap();
    assert_eq!(shown["password"], "***");
}

#[test]
fn the_project_has_two_variables_and_the_file_wins() {
    let project = |yaml: &str, own: &[(&str, &str)]| {
        let bridge = bridge(&format!("{ROUTE}\n{yaml}"), own).unwrap();
        bridge.process.project
    };
    let (go, google) = (("GCP_PROJECT_ID", "go"), ("GOOGLE_CLOUD_PROJECT", "google"));

    assert_eq!(project("", &[go]), "go");
    assert_eq!(project("", &[google, go]), "google");
    assert_eq!(project("project: file", &[google, go]), "file");
}
