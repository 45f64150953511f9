//! Compares the table of variables in the documentation with what the services take.

use std::path::Path;

use serde_json::{Value, json};
use service::Settings;
use service::settings::{VariableKind, load, to_value};

use crate::root;

/// Line of the table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    variable: String,
    service: String,
    key: String,
}

/// Returns the lines of the table, one for each service.
fn documented() -> Vec<Line> {
    let page = std::fs::read_to_string(root().join("docs/settings.md")).unwrap();
    let (_, table) = page.split_once("| variable | service | key |").unwrap();
    let mut lines = Vec::new();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        lines.extend(cells[2].split(", ").map(|service| Line {
            variable: cells[1].clone(),
            service: service.to_owned(),
            key: cells[3].clone(),
        }));
    }
    lines
}

/// Returns a text for a variable, and the value that it sets.
fn sample(variable: &str) -> (&'static str, Value) {
    match variable {
        "POSTGRES_HOST" => ("db.example", json!("db.example")),
        "POSTGRES_PORT" => ("5433", json!(5433)),
        "POSTGRES_USER" => ("0123", json!("0123")),
        "MQTT_PASSWORD" | "POSTGRES_PASSWORD" | "REDIS_PASSWORD" => ("hunter2", json!("***")),
        "POSTGRES_DB" => ("readings", json!("readings")),
        "POSTGRES_SSLMODE" => ("disable", json!("disable")),
        "MQTT_BROKER_URL" => ("tcp://broker.example", json!("tcp://broker.example")),
        "MQTT_USERNAME" | "MQTT_CLIENT_ID_PREFIX" => ("0123", json!("0123")),
        "MQTT_TOPIC" => ("plants/+/data", json!("plants/+/data")),
        "MQTT_KEEP_ALIVE_SECONDS" => ("30", json!("30s")),
        "MQTT_CONNECT_TIMEOUT_SECONDS" => ("5", json!("5s")),
        "REDIS_ADDR" => ("cache.example:6380", json!("redis://cache.example:6380")),
        "REDIS_DB" => ("3", json!(3)),
        "INGESTION_SERVICE_PORT" | "PROCESSOR_SERVICE_PORT" | "API_SERVICE_PORT" => {
            ("8091", json!(8091))
        }
        other => panic!("{other} has no sample"),
    }
}

/// Returns variables that another one needs.
fn needed(variable: &str) -> Option<(String, String)> {
    (variable == "MQTT_PASSWORD").then(|| ("MQTT_USERNAME".to_owned(), "user".to_owned()))
}

/// Checks the lines of one service. Each variable must work with one of the files.
fn check<T: Settings>(service: &str, files: &[&Path]) {
    let mut of_service: Vec<_> =
        documented().into_iter().filter(|line| line.service == service).collect();
    let is_above_file = |kind| {
        use VariableKind::{Address, Seconds, Value, ValueUnless};
        matches!(kind, Value | ValueUnless(_) | Address(_) | Seconds)
    };
    let known = T::variables().into_iter().filter(|variable| is_above_file(variable.kind));
    let line = |variable: service::settings::Variable| Line {
        variable: variable.name.to_owned(),
        service: service.to_owned(),
        key: variable.key.to_owned(),
    };
    let mut known: Vec<_> = known.map(line).collect();
    known.sort();
    of_service.sort();
    assert_eq!(of_service, known, "{service}");

    for Line { variable, key, .. } in of_service {
        let (text, expected) = sample(&variable);

        let set = || needed(&variable).into_iter().chain([(variable.clone(), text.to_owned())]);
        let loaded = files.iter().map(|file| load::<T>(Some(*file), set())).reduce(Result::or);

        let settings = to_value(&loaded.unwrap().unwrap()).unwrap();
        // The example has one route.
        let pointer = format!("/{}", key.replace('*', "uplinks").replace('.', "/"));
        assert_eq!(settings.pointer(&pointer), Some(&expected), "{variable}");
    }
}

#[test]
fn every_line_of_the_table_of_variables_is_true() {
    let services: std::collections::BTreeSet<_> =
        documented().into_iter().map(|line| line.service).collect();
    assert_eq!(Vec::from_iter(services), ["enrich", "ingestion", "postgres", "query"]);

    // A route over HTTP, without the section that the variable adds.
    let over_http = tempfile::NamedTempFile::new().unwrap();
    let text = std::fs::read_to_string(root().join("deploy/engine/ingestion.yaml")).unwrap();
    let (before, section) = text.split_once("\nhttp_ingest:\n").unwrap();
    let (_, after) = section.split_once("\nroutes:\n").unwrap();
    std::fs::write(over_http.path(), format!("{before}\nroutes:\n{after}")).unwrap();
    let example = |service: &str| root().join("services").join(service).join("example.yaml");

    let over_mqtt = example("ingestion");
    check::<ingestion::config::Settings>("ingestion", &[over_http.path(), &over_mqtt]);
    check::<enrich::config::Settings>("enrich", &[&example("enrich")]);
    check::<postgres::config::Settings>("postgres", &[&example("postgres")]);
    check::<query::config::Settings>("query", &[&example("query")]);
    check::<bigqueries::config::Settings>("bigqueries", &[&example("bigqueries")]);
    check::<icestore::config::Settings>("icestore", &[&example("icestore")]);
}
