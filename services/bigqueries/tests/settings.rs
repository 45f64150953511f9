//! The example is right, and wrong settings are all named at once.

use std::process::Command;

use bigqueries::config::Settings;
use service::settings::load;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let settings: Settings = load(Some(EXAMPLE.as_ref()), []).unwrap();

    let defaults = Settings::default();
    assert_eq!(settings.pipeline, defaults.pipeline);
    assert_eq!(settings.write, defaults.write);
    assert_eq!(settings.table.rest_column, defaults.table.rest_column);
    assert_eq!(settings.table.create, defaults.table.create);
    let subscription = pubsub::Subscription { id: String::new(), ..settings.subscription };
    assert_eq!(subscription, defaults.subscription);
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
    command.arg("check").env_clear();
    let columns = "[{name=1st,type=STRING},{name=rest,type=RECORD},{name=a,type=INT64,fields=[{name=b,type=STRING,from=/x}]}]";
    command.env("DATAFLOW__TABLE__COLUMNS", columns);
    command.env("DATAFLOW__TABLE__CLUSTER_BY", "[nothing]");
    command.env("DATAFLOW__TABLE__PARTITION_BY__COLUMN", "never");
    command.env("DATAFLOW__PIPELINE__BATCH__MAX_MESSAGES", "50001");

    let checked = command.output().unwrap();

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "project: required",
        "subscription.id: required",
        "table.dataset: required",
        "table.id: required",
        "table.columns[0].name: must be letters",
        "table.columns[1].fields: must be there for RECORD",
        "table.columns[2].fields: must be there for RECORD, and only there",
        "table.columns[2].fields[0].from: must not be there",
        "table.columns: `rest` is a metadata or the rest column too",
        "table.cluster_by: must name columns, `nothing` is none",
        "table.partition_by.column: must be a column, is `never`",
        "pipeline.batch.max_messages: must be at most 50000 rows",
        "dead_letters: required",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
}

#[test]
fn the_query_of_the_view_is_printed() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
    command.args(["view", "--config", EXAMPLE]).env_clear();

    let printed = command.output().unwrap();

    let query = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success());
    assert!(
        query.starts_with("SELECT `message_id`, `publish_time`, `ingest_id`, `device_id`"),
        "{query}"
    );
    assert!(query.contains("FROM `my-project.dataflow.readings`"), "{query}");
}

#[test]
fn absurd_expirations_and_a_secret_endpoint_are_refused() {
    let variables = [
        ("DATAFLOW__TABLE__EXPIRES_IN", "1000y"),
        ("DATAFLOW__TABLE__PARTITION_BY__EXPIRES_IN", "1s"),
        ("BIGQUERY_EMULATOR_HOST", "u:hunter2@localhost"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));

    let said = load::<Settings>(None, variables).unwrap_err().to_string();

    assert!(said.contains("table.expires_in: must be 1h to "), "{said}");
    assert!(said.contains("table.partition_by.expires_in: must be 1h to "), "{said}");
    assert!(said.contains("bigquery.endpoint: must not hold a user, a password"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
