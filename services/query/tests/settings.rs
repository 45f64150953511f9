//! Tests that the example is valid, and that all faults of settings are named at once.

use std::process::Command;

use query::config::Settings;
use service::settings::load;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let settings: Settings = load(Some(EXAMPLE.as_ref()), []).unwrap();

    let defaults = Settings::default();
    assert_eq!(settings.api, defaults.api);
    assert_eq!(settings.timeout, defaults.timeout);
    assert_eq!(settings.max_answer_bytes, defaults.max_answer_bytes);
    assert_eq!(settings.process, defaults.process);
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_query"));
    command.arg("check").env_clear();
    command.env("DATAFLOW__API__HOST", "0.0.0.0");
    command.env("DATAFLOW__API__CORS", "[example.org]");
    command.env("DATAFLOW__TIMEOUT", "1ms");
    command.env("DATAFLOW__MAX_ANSWER_BYTES", "1");

    let checked = command.output().unwrap();

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "api.host: ",
        "api.cors[0]: ",
        "postgres: required, or the section bigquery",
        "table.source_column: required",
        "max_answer_bytes: ",
        "timeout: ",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
}

/// Loads the settings of a store, and of a table. Returns the faults.
fn faults(variables: &[(&str, &str)]) -> Vec<String> {
    let table = [("DATAFLOW__TABLE__NAME", "t"), ("DATAFLOW__TABLE__SOURCE_COLUMN", "s")];
    let variables = table.iter().chain(variables);
    let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match load::<Settings>(None, variables) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn exactly_one_store_is_asked() {
    let postgres = [
        ("DATAFLOW__POSTGRES__USER", "u"),
        ("DATAFLOW__POSTGRES__DATABASE", "d"),
        ("DATAFLOW__POSTGRES__SSLMODE", "disable"),
    ];
    let bigquery = [("DATAFLOW__BIGQUERY__DATASET", "d"), ("DATAFLOW__PROJECT", "my-project")];
    let emulator = ("BIGQUERY_EMULATOR_HOST", "localhost:8085");

    assert_eq!(faults(&postgres), [""; 0]);
    assert_eq!(faults(&[&postgres[..], &[emulator]].concat()), [""; 0], "it may be set for others");
    assert_eq!(faults(&bigquery), [""; 0]);
    assert_eq!(faults(&[&bigquery[..], &[emulator]].concat()), [""; 0]);
    let shared =
        [("POSTGRES_HOST", "db"), ("POSTGRES_PASSWORD", "p"), ("POSTGRES_SSLMODE", "disable")];
    assert_eq!(faults(&[&bigquery[..], &shared].concat()), [""; 0], "they may be set for others");
    assert_eq!(faults(&[&postgres[..], &shared, &[emulator]].concat()), [""; 0]);
    let by_others = [("POSTGRES_USER", "u"), ("POSTGRES_DB", "d"), ("POSTGRES_SSLMODE", "disable")];
    assert_eq!(faults(&[&by_others[..], &[emulator]].concat()), [""; 0], "they make the section");
    let both = faults(&[&postgres[..], &bigquery].concat());
    assert!(both[0].starts_with("postgres: must not be there together with bigquery"), "{both:?}");
    let neither = faults(&[]);
    assert!(neither[0].starts_with("postgres: required, or the section bigquery"), "{neither:?}");
}

#[test]
fn faults_of_bigquery_are_named_at_once() {
    let said = faults(&[
        ("DATAFLOW__BIGQUERY__DATASET", "d`"),
        ("DATAFLOW__BIGQUERY__MAX_QUERIES", "0"),
        ("DATAFLOW__BIGQUERY__MAX_BYTES_BILLED", "1"),
        ("DATAFLOW__BIGQUERY__ENDPOINT", "localhost"),
        ("DATAFLOW__TABLE__NAME", "t`; DROP"),
    ]);

    let expected = [
        "project: required",
        "bigquery.dataset: must be letters",
        "bigquery.max_queries: must be 1 to 1000",
        "bigquery.max_bytes_billed: ",
        "bigquery.endpoint: ",
        "table.name: must be letters",
    ];
    for fault in expected {
        assert!(said.iter().any(|line| line.starts_with(fault)), "{fault} is not among: {said:?}");
    }
}
