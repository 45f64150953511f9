//! Tests that the example is valid, and that all faults of settings are named at once.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::process::Command;

use icestore::config::Settings;
use service::settings::load;

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

    let settings: Settings = load(Some(example.as_ref()), []).unwrap();

    let defaults = Settings::default();
    assert_eq!(settings.pipeline, defaults.pipeline);
    assert_eq!(settings.archive, defaults.archive);
    let subscription = pubsub::Subscription { id: "".into(), ..settings.intake.subscription };
    assert_eq!(subscription, defaults.intake.subscription);
}

#[test]
fn a_section_with_one_key_keeps_the_other_defaults() {
    let variables = [("DATAFLOW__PIPELINE__LANES".to_owned(), "3".to_owned())];
    let faults = load::<Settings>(None, variables.clone()).unwrap_err();
    let required = ["project", "subscription.id", "storage.bucket", "dead_letters"];
    assert_eq!(faults.lines().len(), required.len(), "{faults}");

    let needed = [
        ("DATAFLOW__PROJECT", "p"),
        ("DATAFLOW__SUBSCRIPTION__ID", "s"),
        ("DATAFLOW__STORAGE__BUCKET", "b"),
        ("DATAFLOW__DEAD_LETTERS", "drop"),
    ];
    let needed = needed.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings: Settings = load(None, variables.into_iter().chain(needed)).unwrap();

    let defaults = Settings::default();
    assert_eq!(settings.pipeline.lanes, 3);
    assert_eq!(settings.pipeline.batch, defaults.pipeline.batch);
    assert_eq!(settings.intake.subscription.max_outstanding_messages, 1_000_000);
}

/// Runs `icestore plan` with the example and these arguments, without reaching anything.
fn plan(arguments: &[&str]) -> std::process::Output {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_icestore"));
    command.args(["plan", "--offline", "--config", example]).args(arguments);
    command.env_clear().output().unwrap()
}

#[test]
fn a_plan_estimates_the_month_of_its_own_part_line_by_line() {
    let load = ["--rate", "1000", "--bytes", "300", "--keys", "20"];

    let text = plan(&load);
    let json = plan(&[&load[..], &["--json"]].concat());
    let bare = plan(&["--json"]);

    let text = String::from_utf8(text.stdout).unwrap();
    let line =
        "Pub/Sub: delivery: 1000 messages/s x 1000 bytes x 2628000 s = 2.39 TiB, at 40 = 95.61 USD";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("this is an estimate and not a bill"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let items = json["estimate"]["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Pub/Sub: delivery", "Cloud Storage: objects", "Cloud Storage: storage"]);
    let sum: f64 = items.iter().map(|item| item["cost"].as_f64().unwrap()).sum();
    assert!((json["estimate"]["total"].as_f64().unwrap() - sum).abs() < 1e-9, "{json}");
    let bare: serde_json::Value = serde_json::from_slice(&bare.stdout).unwrap();
    assert_eq!((bare.get("estimate"), &bare["dependencies"]), (None, &serde_json::json!([])));
}

#[test]
fn prices_of_another_file_take_the_place_of_the_built_in_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prices.yaml");
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/service/prices.yaml");
    let built_in = std::fs::read_to_string(built_in).unwrap();
    let load = ["--rate", "1000", "--bytes", "300", "--prices", file.to_str().unwrap()];

    std::fs::write(&file, built_in.replace("throughput_per_tib: 40.0", "throughput_per_tib: 20"))
        .unwrap();
    let half = plan(&load);
    std::fs::write(&file, "date: 2026-01-01").unwrap();
    let wrong = plan(&load);

    let half = String::from_utf8(half.stdout).unwrap();
    assert!(half.contains("2.39 TiB, at 20 = 47.80 USD"), "{half}");
    assert_eq!(wrong.status.code(), Some(1));
    let wrong = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.contains("prices.yaml: missing field `region`"), "{wrong}");
}

#[test]
fn a_strict_start_refuses_each_setting_that_may_lose_messages() {
    let strict = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icestore"));
        command
            .args(["--strict", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml")])
            .env_clear();
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
fn the_attribute_of_the_folder_is_a_setting_with_a_warning() {
    use service::Settings as _;

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    let variable = ("DATAFLOW__ARCHIVE__TIME_ATTRIBUTE".to_owned(), "test_publish_time".to_owned());
    let without: Settings = load(Some(example.as_ref()), []).unwrap();
    let with: Settings = load(Some(example.as_ref()), [variable]).unwrap();
    let message =
        message::Message::new("x").with_attribute("test_publish_time", "2024-01-02T03:04:05Z");
    let envelope = message::Envelope::of(&message, message::envelope::Input::Raw).unwrap();
    let key = |settings: &Settings| {
        use icestore::key::BatchKey as _;
        settings.archive.template().unwrap().key(&message, &envelope)
    };

    assert_eq!(key(&with), "2024/01/02");
    assert_ne!(key(&without), "2024/01/02");
    assert_eq!(without.warnings(), Vec::<String>::new());
    let warnings = with.warnings();
    assert!(warnings[0].starts_with("archive.time_attribute: whoever sends"), "{warnings:?}");
}

/// Runs `check` with right settings and these variables. Returns the exit code and the output.
fn check(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icestore"));
    command.arg("check").env_clear();
    command.envs([
        ("DATAFLOW__PROJECT", "p"),
        ("DATAFLOW__SUBSCRIPTION__ID", "s"),
        ("DATAFLOW__STORAGE__BUCKET", "b"),
        ("DATAFLOW__DEAD_LETTERS", "drop"),
    ]);
    let checked = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
    (checked.status.code(), said)
}

#[test]
fn a_check_names_the_credentials_and_shows_nothing_of_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.json");
    let file = path.to_str().unwrap();
    let variable = ("DATAFLOW__GOOGLE__CREDENTIALS_FILE", file);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let mut content = serde_json::json!({
        "type": "service_account", "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key_id": "hunter2", "private_key": key, "project_id": "p",
    });

    std::fs::write(&path, content.to_string()).unwrap();
    let (code, right) = check(&[variable]);
    content["private_key"] = "hunter2".into();
    std::fs::write(&path, content.to_string()).unwrap();
    let (wrong_code, wrong) = check(&[variable]);
    let emulator = "127.0.0.1:1";
    let emulators = [("PUBSUB_EMULATOR_HOST", emulator), ("STORAGE_EMULATOR_HOST", emulator)];
    let (_, half) = check(&[variable, emulators[0]]);
    let (emulated_code, emulated) = check(&[variable, emulators[0], emulators[1]]);

    assert_eq!(code, Some(0), "{right}");
    for api in ["pubsub", "storage"] {
        let line = format!("{api}: credentials: service_account of {file}");
        assert!(right.lines().any(|said| said == line), "{line} is not in:\n{right}");
    }
    assert_eq!(wrong_code, Some(2), "{wrong}");
    let fault = format!("google.credentials_file: {file} has a `private_key` that is no PEM");
    assert!(wrong.lines().any(|line| line.starts_with(&fault)), "{wrong}");
    assert!(half.contains(&fault), "one API needs it: {half}");
    assert_eq!(emulated_code, Some(0), "{emulated}");
    let unused = "pubsub: credentials: anonymous; google.credentials_file is not used here";
    assert!(emulated.lines().any(|line| line == unused), "{emulated}");
    for said in [right, wrong, half, emulated] {
        assert!(!said.contains("hunter2") && !said.contains("PRIVATE KEY-"), "{said}");
    }
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icestore"));
    command.arg("check").env_clear();
    command.env("DATAFLOW__ARCHIVE__BATCH_KEY", "{year}");
    command.env("DATAFLOW__ARCHIVE__PREFIX", "../up");
    command.env("DATAFLOW__ARCHIVE__TIME_ATTRIBUTE", "");
    command.env("DATAFLOW__ARCHIVE__FORMAT", "gzip");
    command.env("DATAFLOW__ARCHIVE__COMPRESSION_LEVEL", "10");
    command.env("DATAFLOW__PIPELINE__MAX_MESSAGES_IN_FLIGHT", "600000");

    let checked = command.output().unwrap();

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "project: required",
        "subscription.id: required",
        "storage.bucket: required",
        "archive.batch_key: `{year}` is not one of",
        "archive.prefix: must be levels",
        "archive.time_attribute: must be the name of an attribute",
        "archive.format: must be one of `jsonl.gz`, `jsonl.zst`, `parquet`, is `gzip`",
        "archive.compression_level: must be 1 to 9, is 10",
        "dead_letters: required",
        "pipeline.max_messages_in_flight: must be less than",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
    assert!(said.contains("(from variable DATAFLOW__ARCHIVE__BATCH_KEY)"), "{said}");
}
