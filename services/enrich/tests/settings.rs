//! Tests that the example settings are valid and that all faults are reported together.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

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
    let subscription = pubsub::Subscription { id: "".into(), ..settings.intake.subscription };
    assert_eq!(subscription, defaults.intake.subscription);
}

#[test]
fn a_plan_estimates_the_month_of_its_own_part() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
    command.args(["plan", "--offline", "--json", "--rate", "1000", "--bytes", "300", "--config"]);
    let planned = command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml"))
        .env_clear()
        .output()
        .unwrap();

    let json: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    let items = json["estimate"]["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "Pub/Sub: delivery",
            "Pub/Sub: publishing",
            "Firestore: reads",
            "Firestore: reads that the caches save"
        ],
        "{json}"
    );
    assert!(json["estimate"]["total"].as_f64().unwrap() > 80.0, "{json}");
}

#[test]
fn a_strict_start_refuses_each_setting_that_may_lose_messages() {
    let strict = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
        command
            .args(["--strict", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml")])
            .env_clear();
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let unknown = [
        ("DATAFLOW__ENRICHMENT__ON_MISSING", "drop"),
        ("DATAFLOW__DEAD_LETTERS__BUCKET", "letters"),
    ];

    for (variables, fault) in [
        (&unknown[..], "enrichment.on_missing: messages of unknown devices are dropped"),
        (
            &[("DATAFLOW__DEAD_LETTERS", "drop")],
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
        "cache.memory.max_bytes: must be 65536 to 68719476736, is 1",
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

/// Returns the faults of settings with these variables and without a file.
fn faults(variables: &[(&str, &str)]) -> String {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load::<Settings>(None, variables).unwrap_err().to_string()
}

#[test]
fn absurd_sizes_are_refused_with_the_range_that_is_right() {
    let said = faults(&[
        ("DATAFLOW__CACHE__MEMORY__MAX_ENTRIES", "1000000000000"),
        ("DATAFLOW__CACHE__MEMORY__MAX_BYTES", "4503599627370496"),
        ("DATAFLOW__CACHE__FRESHNESS__FRESH_FOR", "1000y"),
        ("DATAFLOW__PIPELINE__LANES", "100000"),
        ("DATAFLOW__PIPELINE__MAX_MESSAGES_IN_FLIGHT", "1000000000000"),
        ("DATAFLOW__PIPELINE__MAX_BYTES_IN_FLIGHT", "4503599627370496"),
        ("DATAFLOW__PIPELINE__MAX_BATCH_MEMORY", "4503599627370496"),
        ("DATAFLOW__PIPELINE__MAX_QUEUE", "1000000000000"),
        ("DATAFLOW__PIPELINE__MAX_WRITES", "1000000"),
        ("DATAFLOW__PIPELINE__BATCH__MAX_MESSAGES", "1000000000000"),
        ("DATAFLOW__PIPELINE__BATCH__MAX_BYTES", "4503599627370496"),
        ("DATAFLOW__PIPELINE__ATTEMPT_TIMEOUT", "1y"),
        ("DATAFLOW__PIPELINE__RETRY__MAX", "1y"),
        ("DATAFLOW__PIPELINE__STALL_AFTER", "1y"),
        ("DATAFLOW__SUBSCRIPTION__STREAMS", "1000"),
        ("DATAFLOW__SUBSCRIPTION__MAX_OUTSTANDING_MESSAGES", "1000000000000"),
        ("DATAFLOW__SUBSCRIPTION__MAX_OUTSTANDING_BYTES", "4503599627370496"),
        ("DATAFLOW__PUBSUB__CHANNELS", "1000"),
        ("DATAFLOW__HTTP__HOST", "http://localhost"),
        ("DATAFLOW__ADMIN__HOST", ""),
        ("DATAFLOW__GRACE_PERIOD", "1y"),
    ]);

    let expected = [
        "cache.memory.max_entries: must be 16 to 100000000, is 1000000000000",
        "cache.memory.max_bytes: must be 65536 to 68719476736, is 4503599627370496",
        "cache.freshness.fresh_for: must be 1ms to 1year, is 1000years",
        "pipeline.lanes: must be 0 to 256",
        "pipeline.max_messages_in_flight: must be 1 to 1000000",
        "pipeline.max_bytes_in_flight: must be 1 to 4294967296",
        "pipeline.max_batch_memory: must be 1 to 68719476736",
        "pipeline.max_queue: must be 1 to 1000000",
        "pipeline.max_writes: must be 1 to 1000",
        "pipeline.batch.max_messages: must be 1 to 1000000",
        "pipeline.batch.max_bytes: must be 1 to 1073741824",
        "pipeline.attempt_timeout: must be above zero, at most 1h",
        "pipeline.retry.max: must be at most 1h",
        "pipeline.stall_after: must be 1s to 1d",
        "subscription.streams: must be 1 to 32",
        "subscription.max_outstanding_messages: must be at least one per stream, and at most 1000000",
        "subscription.max_outstanding_bytes: must be at least one per stream, and at most 68719476736",
        "pubsub.channels: must be 1 to 16",
        "http.host: must be an address",
        "admin.host: must be an address",
        "grace_period: must be 1ms to 1day",
    ];
    for fault in expected {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
}

#[test]
fn a_limit_of_the_memory_may_be_left_out_by_name() {
    use enrich::cache::memory::Bound;
    use service::Settings as _;

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.yaml");
    let with = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        load::<Settings>(Some(example.as_ref()), variables).map_err(|faults| faults.to_string())
    };
    let entries = ("DATAFLOW__CACHE__MEMORY__MAX_ENTRIES", "unbounded");
    let bytes = ("DATAFLOW__CACHE__MEMORY__MAX_BYTES", "unbounded");

    let of_entries = with(&[entries]).unwrap();
    let whole = with(&[entries, bytes]).unwrap();
    let wrong = with(&[("DATAFLOW__CACHE__MEMORY__MAX_ENTRIES", "many")]).unwrap_err();

    assert_eq!(of_entries.cache.memory.max_entries, Bound::UNBOUNDED);
    assert_eq!(of_entries.warnings(), Vec::<String>::new());
    assert!(of_entries.memory().iter().any(|share| share.setting == "cache.memory.max_bytes"));
    assert!(whole.memory().is_empty());
    let warnings = whole.warnings();
    assert!(warnings[0].starts_with("cache.memory.max_bytes is unbounded: memory"), "{warnings:?}");
    let shown = service::settings::to_value(&whole).unwrap();
    assert_eq!(shown["cache"]["memory"]["max_entries"], "unbounded");
    let right = "cache.memory.max_entries: must be a whole number, or `unbounded`, is `many`";
    assert!(wrong.starts_with(right), "{wrong}");
}

#[test]
fn a_password_in_a_url_is_refused_and_not_shown() {
    let said = faults(&[
        ("DATAFLOW__CACHE__REDIS__URL", "redis://:hunter2@localhost:6379"),
        ("DATAFLOW__CACHE__REDIS__USERNAME", "enrich"),
        ("DATAFLOW__FIRESTORE__ENDPOINT", "http://u:hunter2@localhost"),
        ("PUBSUB_EMULATOR_HOST", "u:hunter2@localhost:8085"),
        ("STORAGE_EMULATOR_HOST", "u:hunter2@localhost:8085"),
    ]);

    let keys = ["cache.redis.url", "firestore.endpoint", "pubsub.endpoint", "storage.endpoint"];
    for key in keys {
        let fault = format!("{key}: must not hold a user, a password");
        assert!(said.lines().any(|line| line.starts_with(&fault)), "{fault} is not among:\n{said}");
    }
    assert!(said.contains("cache.redis.password_file: required with username"), "{said}");
    assert!(said.contains("use cache.redis.username and cache.redis.password_file"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_password_in_the_address_of_redis_is_refused_and_not_shown() {
    for address in ["redis://:hunter2@localhost:6379", ":hunter2@localhost", "h?password=hunter2"] {
        let said = faults(&[("REDIS_ADDR", address)]);

        let is_told = |line: &str| {
            line.starts_with("cache.redis.url: must not hold a user, a password")
                && line.ends_with("(from variable REDIS_ADDR)")
        };
        assert!(said.lines().any(is_told) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_missing_password_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redis").display().to_string();
    let said = faults(&[("DATAFLOW__CACHE__REDIS__PASSWORD_FILE", &file)]);

    let fault = format!("cache.redis.password_file: cannot read {file}: No such file");
    assert!(said.lines().any(|line| line.starts_with(&fault)), "{said}");
}

#[test]
fn a_secret_in_place_of_its_file_or_of_its_section_is_not_shown() {
    let certificate = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(certificate.path(), "BEGIN CERTIFICATE").unwrap();
    let certificate = certificate.path().display().to_string();
    let certificate = ("DATAFLOW__CACHE__REDIS__TLS__CLIENT_CERT_FILE", certificate.as_str());
    let key = ("DATAFLOW__CACHE__REDIS__TLS__CLIENT_KEY_FILE", "hun/ter2");
    for (variables, fault) in [
        (
            vec![("DATAFLOW__CACHE__REDIS__PASSWORD_FILE", "hun/ter2")],
            "password_file: must be the path",
        ),
        (
            vec![("DATAFLOW__CACHE__REDIS__SENTINEL__PASSWORD_FILE", "/hun/ter2")],
            "sentinel.password_file: must be the path",
        ),
        (vec![certificate, key], "tls: must be the path"),
        (
            vec![("DATAFLOW__CACHE__REDIS", "redis://h?password=hun/ter2")],
            "must be a section with keys",
        ),
    ] {
        let said = faults(&variables);

        assert!(said.contains(fault), "{said}");
        assert!(!said.contains("ter2"), "{said}");
    }
}

#[test]
fn servers_of_redis_that_do_not_fit_their_mode_are_named() {
    let said = faults(&[
        ("DATAFLOW__CACHE__REDIS__URL", "redis://localhost:6379/1"),
        ("DATAFLOW__CACHE__REDIS__MODE", "cluster"),
        ("DATAFLOW__CACHE__REDIS__OTHER_URLS", "[redis://:hunter2@localhost, rediss://localhost]"),
        ("DATAFLOW__CACHE__REDIS__SENTINEL__SERVICE", "mymaster"),
        ("DATAFLOW__CACHE__REDIS__TLS__CLIENT_CERT_FILE", "/nowhere/client.pem"),
    ]);
    let alone = faults(&[("DATAFLOW__CACHE__REDIS__MODE", "sentinel")]);
    let nowhere = faults(&[
        ("DATAFLOW__CACHE__REDIS__URL", "rediss://localhost"),
        ("DATAFLOW__CACHE__REDIS__TLS__CA_FILE", "/nowhere/ca.pem"),
    ]);

    for (said, fault) in [
        (&said, "cache.redis.url: must not have a database"),
        (&said, "cache.redis.other_urls[0]: must not hold a user, a password"),
        (&said, "cache.redis.other_urls[1]: must have the scheme of cache.redis.url"),
        (&said, "cache.redis.sentinel: means nothing without cache.redis.mode: sentinel"),
        (&said, "cache.redis.tls: needs an url that begins with rediss://"),
        (&said, "cache.redis.tls: client_cert_file and client_key_file need each other"),
        (&alone, "cache.redis.url: required with mode"),
        (&alone, "cache.redis.sentinel.service: required in mode `sentinel`"),
        (&nowhere, "cache.redis.tls: cannot read /nowhere/ca.pem: No such file"),
    ] {
        assert!(said.lines().any(|line| line.starts_with(fault)), "{fault} is not among:\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_admin_port_that_others_can_reach_is_allowed_with_a_warning() {
    use service::Settings as _;

    let mut settings = Settings::default();
    assert_eq!(settings.warnings(), Vec::<String>::new());

    for host in ["0.0.0.0", "::", "10.0.0.1", "enrich-0"] {
        settings.admin.host = host.into();
        let mut faults = service::Faults::default();
        settings.check(&mut faults);

        assert!(!faults.to_string().contains("admin"), "{faults}");
        let warnings = settings.warnings();
        assert!(warnings[0].starts_with("admin.host: whoever reaches admin.port"), "{warnings:?}");
    }
}
