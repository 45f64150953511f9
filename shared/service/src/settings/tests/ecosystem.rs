//! Tests of variables that other programs know, too.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;

#[test]
fn a_value_overrides_the_file_and_not_our_own_variables() {
    let yaml = "project: p\ntopic: { id: file, endpoint: 'http://file' }\nhttp: { port: 1 }\n";
    let of_others = [("TOPIC_PORT", "007"), ("TOPIC_ADDR", "h:1"), ("EXAMPLE_SERVICE_PORT", "2")];

    let above_file = read(yaml, &of_others).unwrap();
    let own = [("DATAFLOW__TOPIC__ID", "own"), ("DATAFLOW__HTTP__PORT", "3")];
    let below_own = read(yaml, &[&of_others[..], &own].concat()).unwrap();
    let empty = read(yaml, &[("TOPIC_PORT", ""), ("EXAMPLE_SERVICE_PORT", "")]).unwrap();

    assert_eq!((&*above_file.topic.id, above_file.process.http.port), ("007", 2));
    assert_eq!(above_file.topic.endpoint, Some("http://h:1".into()));
    assert_eq!((&*below_own.topic.id, below_own.process.http.port), ("own", 3));
    assert_eq!((&*empty.topic.id, empty.process.http.port), ("file", 1));
}

#[test]
fn an_address_may_be_a_url_and_a_wrong_one_names_its_variable() {
    let url = read("project: p", &[("TOPIC_ADDR", "https://h")]).unwrap();
    let wrong = read("project: p", &[("TOPIC_ADDR", "u:hunter2@h")]).unwrap_err();
    let port = read("project: p", &[("EXAMPLE_SERVICE_PORT", "many")]).unwrap_err();

    assert_eq!(url.topic.endpoint, Some("https://h".into()));
    assert!(wrong[0].ends_with("(from variable TOPIC_ADDR)"), "{wrong:?}");
    assert!(!wrong.concat().contains("hunter2"), "{wrong:?}");
    assert!(port[0].ends_with("(from variable EXAMPLE_SERVICE_PORT)"), "{port:?}");
}

#[test]
fn a_variable_of_the_file_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    std::fs::write(&path, "TOPIC_PORT=too-long\nDATAFLOW__MORE=1\nDATAFLOW_PROJECT=p\n").unwrap();
    let environment = Environment::with_file(&path, []).unwrap();

    let faults = load_in::<Example>(None, &environment).unwrap_err();

    let expected = [
        "DATAFLOW_PROJECT in .env: sets nothing; DATAFLOW__PROJECT sets project",
        "more: unknown key (from variable DATAFLOW__MORE in .env)",
        "project: required",
        "topic.id: must be short (from variable TOPIC_PORT in .env)",
    ];
    assert_eq!(faults.lines(), expected);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads settings with these variables, and returns them with the log lines.
fn logged(variables: &[(&str, &str)]) -> (Example, String) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    let settings = tracing::subscriber::with_default(subscriber, || {
        read("project: p\nhttp: { port: 1 }", variables).unwrap()
    });
    let lines = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (settings, lines)
}

#[test]
fn variables_of_kubernetes_are_ignored_with_a_line() {
    let of_services = [
        ("TOPIC_PORT", "tcp://10.0.0.1:5432"),
        ("EXAMPLE_PORT", "tcp://10.0.0.2:80"),
        ("EXAMPLE_SERVICE_HOST", "10.0.0.2"),
        ("EXAMPLE_SERVICE_PORT", "80"),
    ];

    let (settings, lines) = logged(&of_services);

    assert_eq!((&*settings.topic.id, settings.process.http.port), ("", 1));
    let told = |name: &str, own: &str| {
        let is_told = |line: &str| line.contains(name) && line.contains(own);
        assert_eq!(lines.lines().filter(|line| is_told(line)).count(), 1, "{name}: {lines}");
    };
    told("TOPIC_PORT", "DATAFLOW__TOPIC__ID sets topic.id");
    told("EXAMPLE_SERVICE_PORT", "DATAFLOW__HTTP__PORT sets http.port");
}

#[test]
fn a_port_that_only_looks_like_one_of_kubernetes_is_set() {
    for others in [&[][..], &[("EXAMPLE_SERVICE_HOST", "h")], &[("EXAMPLE_PORT", "tcp://h:1")]] {
        let set = [("EXAMPLE_SERVICE_PORT", "80"), ("TOPIC_PORT", "5432")];

        let (settings, lines) = logged(&[&set[..], others].concat());

        assert_eq!((&*settings.topic.id, settings.process.http.port), ("5432", 80), "{others:?}");
        assert_eq!(lines, "");
    }
}
