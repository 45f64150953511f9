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
    assert_eq!(settings.process, defaults.process);
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_query"));
    command.arg("check").env_clear();
    command.env("DATAFLOW__API__HOST", "0.0.0.0");
    command.env("DATAFLOW__API__CORS", "[example.org]");
    command.env("DATAFLOW__TIMEOUT", "1ms");

    let checked = command.output().unwrap();

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "api.host: ",
        "api.cors[0]: ",
        "postgres.user: required",
        "postgres.database: required",
        "table.name: required",
        "table.source_column: required",
        "timeout: ",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
}
