//! Tests that the example is valid, and that all faults of settings are named at once.

use std::process::Command;

use postgres::config::Settings;
use service::settings::load;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let settings: Settings = load(Some(EXAMPLE.as_ref()), []).unwrap();

    let defaults = Settings::default();
    assert_eq!(settings.pipeline, defaults.pipeline);
    assert_eq!(settings.table.rest_column, defaults.table.rest_column);
    assert_eq!(settings.table.create, defaults.table.create);
    assert_eq!(settings.postgres.sslmode, defaults.postgres.sslmode);
    let subscription = pubsub::Subscription { id: "".into(), ..settings.intake.subscription };
    assert_eq!(subscription, defaults.intake.subscription);
}

#[test]
fn a_plan_estimates_the_month_of_its_own_part() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postgres"));
    command.args(["plan", "--offline", "--json", "--rate", "1000", "--bytes", "300", "--config"]);
    let planned = command.arg(EXAMPLE).env_clear().output().unwrap();

    let json: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    let items = json["estimate"]["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Pub/Sub: delivery"], "{json}");
    assert!(json["estimate"]["total"].as_f64().unwrap() > 80.0, "{json}");
}

#[test]
fn a_strict_start_refuses_each_setting_that_may_lose_messages() {
    let strict = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postgres"));
        command.args(["--strict", "--config", EXAMPLE]).env_clear();
        command.envs(variables.iter().copied()).output().unwrap()
    };

    for (variables, fault) in [
        (
            &[("DATAFLOW__DEAD_LETTERS", "drop")][..],
            "dead_letters: messages that can never succeed are dropped",
        ),
        (&[], "dead_letters.bucket: of a dead letter that is too big"),
    ] {
        let refused = strict(variables);
        assert_eq!(refused.status.code(), Some(2), "{fault}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.starts_with(fault) && said.lines().count() == 1, "{said}");
        assert!(said.contains("with --strict: must "), "{said}");
    }
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postgres"));
    command.arg("check").env_clear();
    let columns = "[{name=1st,type=STRING},{name=rest,type=INT64},{name=ingest_id,type=STRING},\
                   {name=a,type=INT64,default=CURRENT_TIMESTAMP()}]";
    for (key, value) in [
        ("TABLE__COLUMNS", columns),
        ("TABLE__SOURCE_COLUMN", "nothing"),
        ("TABLE__PARTITION_BY_DAY__DAYS_AHEAD", "0"),
        ("TABLE__PARTITION_BY_DAY__KEEP_DAYS", "0"),
        ("POSTGRES__HOST", "db-0,db 1"),
        ("POSTGRES__PASSWORD", "hunter2"),
        ("POSTGRES__PASSWORD_FILE", "/nowhere/at/all"),
        ("POSTGRES__MAX_CONNECTIONS", "1"),
        ("POSTGRES__TLS__CLIENT_CERT_FILE", "/nowhere"),
    ] {
        command.env(format!("DATAFLOW__{key}"), value);
    }

    let checked = command.output().unwrap();

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "project: required",
        "subscription.id: required",
        "postgres.host: must be an address or a name",
        "postgres.user: required",
        "postgres.database: required",
        "postgres.password: must not be set together",
        "postgres.password_file: ",
        "postgres.max_connections: must be 2 to 10000",
        "postgres.tls: client_cert_file and client_key_file need each other",
        "table.name: required",
        "table.columns[0].name: must be letters",
        "table.columns[1].name: `rest` is the rest column too; rename one of them",
        "table.columns[2].name: `ingest_id` is a metadata column too; rename it",
        "table.columns[3].default: `CURRENT_TIMESTAMP()` is no literal of INT64",
        "table.source_column: must be a column",
        "table.partition_by_day.days_ahead",
        "table.partition_by_day.keep_days",
        "dead_letters: required",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_statements_of_the_table_are_printed_for_those_who_create_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postgres"));
    command.args(["sql", "--config", EXAMPLE]).env_clear();

    let printed = command.output().unwrap();

    let sql = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success(), "{sql}");
    assert!(sql.starts_with("CREATE TABLE \"public\".\"readings\" ("), "{sql}");
    assert!(sql.contains("PRIMARY KEY (\"ingest_id\")"), "{sql}");
}

#[test]
fn variables_are_read_from_the_file_of_the_working_folder() {
    let folder = tempfile::tempdir().unwrap();
    let check = |variables: &str, process: &[(&str, &str)]| {
        std::fs::write(folder.path().join(".env"), variables).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_postgres"));
        command.args(["check", "--config", EXAMPLE]).current_dir(folder.path()).env_clear();
        let checked = command.envs(process.iter().copied()).output().unwrap();
        let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
        assert!(!said.contains("hunter2"), "{said}");
        (checked.status.code(), said)
    };

    let right = check("POSTGRES_PORT=5433\nPOSTGRES_PASSWORD='hunter2'\n", &[]);
    let wrong = check("POSTGRES_PORT=many\n", &[]);
    let replaced = check("POSTGRES_PORT=many\n", &[("POSTGRES_PORT", "5434")]);
    let broken = check("# a comment\nPOSTGRES_PASSWORD=hunter2 and more\n", &[]);

    assert_eq!(right.0, Some(0), "{}", right.1);
    assert_eq!(replaced.0, Some(0), "{}", replaced.1);
    assert_eq!((wrong.0, broken.0), (Some(2), Some(2)));
    assert!(wrong.1.contains("postgres.port: must be 1 to 65535"), "{}", wrong.1);
    assert!(wrong.1.contains("(from variable POSTGRES_PORT in .env)"), "{}", wrong.1);
    assert!(broken.1.starts_with(".env: line 2: must be NAME=value"), "{}", broken.1);
}
