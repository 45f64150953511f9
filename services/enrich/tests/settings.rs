//! The example is right, and wrong settings are all named at once.

use std::process::Command;

use enrich::config::Settings;
use service::settings::load;

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");

    let settings: Settings = load(Some(example.as_ref()), []).unwrap();

    let defaults = Settings::default();
    assert_eq!(settings.enrichment, defaults.enrichment);
    assert_eq!(settings.cache, defaults.cache);
    assert_eq!(settings.admin, defaults.admin);
    assert_eq!(settings.pipeline, defaults.pipeline);
    let subscription = pubsub::Subscription { id: String::new(), ..settings.subscription };
    assert_eq!(subscription, defaults.subscription);
}

#[test]
fn every_fault_is_named_at_once_with_exit_code_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
    command.arg("check").env_clear();
    command.env("DATAFLOW__ENRICHMENT__KEY", "[]");
    command.env("DATAFLOW__CACHE__REDIS__URL", "localhost:6379");
    command.env("DATAFLOW__CACHE__MAX_WAITING", "10000");
    command.env("DATAFLOW__CACHE__MEMORY__MAX_BYTES", "1");

    let checked = command.output().unwrap();

    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8(checked.stderr).unwrap();
    let expected = [
        "project: required",
        "subscription.id: required",
        "topic_id: required",
        "enrichment.key: must name at least one place",
        "firestore.collection: required",
        "cache.redis.url: must be a URL",
        "cache.memory.max_bytes: must be at least 65536",
        "cache.max_waiting: must be at least 1 and below",
        "dead_letters: required",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
}

#[test]
fn a_place_that_is_none_is_named_with_what_would_be_right() {
    let variables = [("DATAFLOW__ENRICHMENT__KEY".to_owned(), "[DeviceID]".to_owned())];

    let faults = load::<Settings>(None, variables).unwrap_err().to_string();

    assert!(faults.contains("enrichment.NAME or attribute.NAME"), "{faults}");
}
