//! Tests that the example is valid, and that all faults of settings are named at once.

use std::process::Command;

use bigqueries::config::Settings;
use service::google::Login;
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
    let subscription = pubsub::Subscription { id: "".into(), ..settings.intake.subscription };
    assert_eq!(subscription, defaults.intake.subscription);
}

#[test]
fn a_plan_estimates_the_month_of_its_own_part() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
    command.args(["plan", "--offline", "--json", "--rate", "1000", "--bytes", "300", "--config"]);
    let planned = command.arg(EXAMPLE).env_clear().output().unwrap();

    let json: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    let items = json["estimate"]["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "Pub/Sub: delivery",
            "BigQuery: storage_write",
            "BigQuery: insert_all",
            "BigQuery: load jobs",
            "BigQuery: storage"
        ],
        "{json}"
    );
    assert!(json["estimate"]["total"].as_f64().unwrap() > 80.0, "{json}");
}

#[test]
fn a_strict_start_refuses_each_setting_that_may_lose_messages() {
    let strict = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
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
        "table.columns[1].name: `rest` is the rest column too; rename one of them",
        "table.cluster_by: must name columns, `nothing` is none",
        "table.partition_by.column: must be a column, is `never`",
        "pipeline.batch.max_messages: must be at most 50000 rows",
        "dead_letters: required",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
}

/// Returns the faults of the example with these variables.
fn faults_with(variables: &[(&str, &str)]) -> Vec<String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match load::<Settings>(Some(EXAMPLE.as_ref()), variables) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.lines().to_vec(),
    }
}

#[test]
fn a_column_that_is_there_twice_is_one_fault() {
    const COLUMNS: &str = "DATAFLOW__TABLE__COLUMNS";
    const CLUSTER_BY: (&str, &str) = ("DATAFLOW__TABLE__CLUSTER_BY", "[a]");
    for (columns, expected) in [
        ("[{name=a},{name=A}]", "table.columns[1].name: `A` is there twice; BigQuery ignores case"),
        (
            "[{name=a},{name=Ingest_ID}]",
            "table.columns[1].name: `Ingest_ID` is a metadata column too",
        ),
        ("[{name=a},{name=REST}]", "table.columns[1].name: `REST` is the rest column too"),
        ("[{name=a},{name=[]}]", "table.columns[1].name: must be a text, is a list"),
        ("[5]", "table.columns[0]: must be a section with keys, is 5"),
    ] {
        let faults = faults_with(&[(COLUMNS, columns), CLUSTER_BY]);

        assert_eq!(faults.len(), 1, "{columns}: {faults:?}");
        assert!(faults[0].starts_with(expected), "{columns}: {faults:?}");
    }
}

#[test]
fn what_bigquery_does_not_take_is_named_with_what_it_takes() {
    const COLUMNS: &str = "DATAFLOW__TABLE__COLUMNS";
    const PARTITION: &str = "DATAFLOW__TABLE__PARTITION_BY__COLUMN";
    const LABELS: &str = "DATAFLOW__TABLE__LABELS";
    const CLUSTER: &str = "DATAFLOW__TABLE__CLUSTER_BY";
    for (variables, expected) in [
        (
            vec![(COLUMNS, r#"[{name=a,type="NUMERIC(40)"}]"#), (CLUSTER, "[a]")],
            "table.columns[0].type: `NUMERIC(40)`: NUMERIC(P,S) takes S from 0 to 9",
        ),
        (
            vec![(COLUMNS, "[{name=a,type=FLOAT64}]"), (CLUSTER, "[a]")],
            "table.cluster_by: BigQuery clusters by no list and no FLOAT64, as `a` is",
        ),
        (
            vec![(PARTITION, "device_id")],
            "table.partition_by.column: must be a TIMESTAMP, DATE or DATETIME, and no list; \
             `device_id` is STRING",
        ),
        (vec![(LABELS, "{Team=x}")], "table.labels: must be at most 63 lowercase letters"),
        (
            vec![("DATAFLOW__TABLE__KMS_KEY", "my-key")],
            "table.kms_key: must be projects/P/locations/L/keyRings/R/cryptoKeys/K",
        ),
        (
            vec![(COLUMNS, r#"[{name=a,default="1",mode=repeated}]"#), (CLUSTER, "[ingest_id]")],
            "table.columns[0].default: must not be there: the default of a list is an empty one",
        ),
        (
            vec![
                (COLUMNS, r#"[{name=a,type=DATE,default="CURRENT_DATE()",mode=required}]"#),
                (CLUSTER, "[a]"),
            ],
            "table.columns[0].default: `CURRENT_DATE()` is no literal of DATE, and storage_write",
        ),
    ] {
        let faults = faults_with(&variables);

        assert_eq!(faults.len(), 1, "{variables:?}: {faults:?}");
        assert!(faults[0].starts_with(expected), "{variables:?}: {faults:?}");
    }
    let right = [
        (PARTITION, "_PARTITIONTIME"),
        (LABELS, "{team=devices}"),
        ("DATAFLOW__WRITE", "insert_all"),
        (COLUMNS, r#"[{name=a,type=DATE,default="CURRENT_DATE()",mode=required}]"#),
        (CLUSTER, "[a]"),
    ];
    assert_eq!(faults_with(&right), Vec::<String>::new());
}

#[test]
fn the_rest_column_has_a_name_of_its_own() {
    for (name, expected) in [
        ("ingest_id", "table.rest_column: `ingest_id` is a metadata column too"),
        ("1st", "table.rest_column: must be letters, digits and `_`"),
    ] {
        let faults = faults_with(&[("DATAFLOW__TABLE__REST_COLUMN", name)]);

        assert_eq!(faults.len(), 1, "{name}: {faults:?}");
        assert!(faults[0].starts_with(expected), "{name}: {faults:?}");
    }
    let metadata = ("DATAFLOW__TABLE__METADATA_COLUMNS", "false");
    let partition = ("DATAFLOW__TABLE__PARTITION_BY__COLUMN", "device_id");
    let faults = faults_with(&[("DATAFLOW__TABLE__REST_COLUMN", "ingest_id"), metadata, partition]);
    assert!(!faults.iter().any(|fault| fault.starts_with("table.rest_column")), "{faults:?}");
}

#[test]
fn the_variables_of_the_documents_work_with_the_example() {
    for file in ["README.md", "docs/settings.md"] {
        let path = format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let samples = text.split('`').filter_map(|code| code.split_once('='));
        let samples: Vec<_> = samples
            .filter(|(name, _)| name.starts_with("DATAFLOW__TABLE__"))
            .map(|(name, value)| (name, value.trim_matches('\'')))
            .collect();
        assert!(samples.len() >= 2, "{file}: {samples:?}");

        for sample in &samples {
            assert_eq!(faults_with(&[*sample]), [""; 0], "{file}: {sample:?}");
        }
        assert_eq!(faults_with(&samples), [""; 0], "{file}: all of them");
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
        query.contains("\nSELECT `message_id`, `publish_time`, `ingest_id`, `device_id`"),
        "{query}"
    );
    assert!(query.contains("FROM `my-project.dataflow.readings`"), "{query}");
}

#[test]
fn a_time_out_below_that_of_bigquery_is_told() {
    let check = |variables: &[(&str, &str)], form: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
        command.args(["check", "--config", EXAMPLE]).args(form);
        command.env_clear().envs(variables.iter().copied());
        let checked = command.output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        String::from_utf8(checked.stdout).unwrap()
    };
    let short = ("DATAFLOW__PIPELINE__ATTEMPT_TIMEOUT", "60s");
    let inserting = ("DATAFLOW__WRITE", "insert_all");
    let warning = "pipeline.attempt_timeout is 1m, and BigQuery gives up an append";

    assert!(check(&[short], &[]).contains(warning));
    let json: serde_json::Value = serde_json::from_str(&check(&[short], &["--json"])).unwrap();
    assert!(json["warnings"][0].as_str().unwrap().starts_with(warning), "{json}");
    for variables in [&[][..], &[short, inserting]] {
        let json = check(variables, &["--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["warnings"], serde_json::json!([]));
    }
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

#[test]
fn an_emulator_is_sent_no_credentials_whatever_the_file_says() {
    let regional = "https://bigquery.europe-west3.rep.googleapis.com";
    let file = [
        ("DATAFLOW__BIGQUERY__ENDPOINT", regional),
        ("DATAFLOW__BIGQUERY__CREDENTIALS", "application_default"),
        (
            "DATAFLOW__BIGQUERY__STORAGE_WRITE_ENDPOINT",
            "https://bigquerystorage.europe-west3.rep.googleapis.com",
        ),
    ];
    let load = |variables: &[(&str, &str)]| {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load::<Settings>(Some(EXAMPLE.as_ref()), variables).unwrap().bigquery
    };

    let regional_one = load(&file);
    let emulator = load(&[&file[..], &[("BIGQUERY_EMULATOR_HOST", "localhost:8085")]].concat());

    assert_eq!(regional_one.credentials, Some(Login::ApplicationDefault));
    assert_eq!(emulator.endpoint, Some("http://localhost:8085".into()));
    assert_eq!(emulator.credentials, Some(Login::Anonymous));
}

#[test]
fn endpoints_of_google_want_credentials_and_credentials_want_tls() {
    let said = faults_with(&[
        ("DATAFLOW__BIGQUERY__ENDPOINT", "https://bigquery.europe-west3.rep.googleapis.com"),
        ("DATAFLOW__BIGQUERY__STORAGE_WRITE_ENDPOINT", "https://bigquerystorage.example"),
        ("DATAFLOW__PUBSUB__ENDPOINT", "http://pubsub.example:8085"),
        ("DATAFLOW__PUBSUB__CREDENTIALS", "application_default"),
        ("DATAFLOW__STORAGE__CREDENTIALS", "anonymous"),
    ]);

    let expected = [
        "bigquery.credentials: application_default is needed",
        "bigquery.storage_write_endpoint: needs bigquery.credentials: application_default",
        "pubsub.endpoint: must begin with https://",
        "storage.credentials: anonymous needs an endpoint",
    ];
    for fault in expected {
        assert!(said.iter().any(|line| line.starts_with(fault)), "{fault} is not among: {said:?}");
    }
}

#[test]
fn a_proxy_is_told_to_programs_without_its_password() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
    command.args(["check", "--json", "--config", EXAMPLE]).env_clear();
    command.env("HTTPS_PROXY", "http://user:hunter2@proxy");

    let checked = command.output().unwrap();

    let json: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let warning = json["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("HTTPS_PROXY is set"), "{json}");
    assert!(!json.to_string().contains("hunter2"), "{json}");
}
