//! Tests that are certain only on Google's own cloud, where `deploy/try-on-gcp.sh` runs them. On
//! the embedded cloud, made as strict as Google's, they take seconds.

use std::collections::HashSet;
use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bigqueries::config::{Partitions, TableSettings};
use e2e::fleet::Fleet;
use e2e::reconcile::{self, Destinations};
use icestore::format::Format;
use message::FieldPath;
use message::field_path::Pointer;
use rows::column::{Column, Kind};
use serde_json::{Value, json};
use service::Hosted;
use tokio::time::{Instant, sleep, timeout};

use crate::flow_env::{
    FlowEnv, GRACE, PATIENCE, counter, start_bigqueries, start_icestore, start_ingestion, until,
};
use crate::readers::{archive_readings, examples, lines_of};
use e2e::metrics::SENT;
use e2e::names::{DEAD_LETTER_REPORT, RAW};

mod types;

/// Counter of repeated attempts, by the failed action.
const RETRIED: &str = "dataflow_pipeline_retried_attempts_total";
/// Number of readings of each fleet.
const MESSAGES: u64 = 500;

/// Returns the duration of the quiet time. Google ends idle streams after ten minutes.
fn quiet_spell() -> Duration {
    let seconds = std::env::var("DATAFLOW_E2E_QUIET_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("DATAFLOW_E2E_QUIET_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(3))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_spell_costs_no_failed_attempt() {
    let env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let bigqueries = start_bigqueries(env.bigqueries()).await;
    let icestore = start_icestore(env.icestore()).await;
    let services = [&ingestion, &bigqueries, &icestore];
    let before = pass(&env, &bigqueries, &icestore).await;
    // At first the Storage Write API does not know a new table, which costs attempts.
    let retried = services.map(|service| counter(service, RETRIED));

    sleep(quiet_spell()).await;
    let after = pass(&env, &bigqueries, &icestore).await;

    assert_eq!(services.map(|service| counter(service, RETRIED)), retried);
    for service in [ingestion, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    assert_in_table(&env, &[before, after]).await;
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_for_a_new_column() {
    let env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let settings = env.bigqueries();
    let bigqueries = start_bigqueries(settings.clone()).await;
    fleet(&env, &bigqueries).await;
    bigqueries.shutdown(GRACE).await.unwrap();

    let mut wider = settings;
    let number = FieldPath::Payload(Pointer::to("number"));
    wider.table.columns.push(Column { from: Some(number), ..Column::new("number", Kind::Int64) });
    let added = Instant::now();
    let bigqueries = start_bigqueries(wider).await;
    fleet(&env, &bigqueries).await;

    report(&format!("a new column took rows after at most {:?}", added.elapsed()));
    for service in [ingestion, bigqueries] {
        service.shutdown(GRACE).await.unwrap();
    }
    let dead_letters = env.cloud.pull(&env.cloud.name(DEAD_LETTER_REPORT)).await.unwrap();
    assert!(dead_letters.is_empty(), "{dead_letters:?}");
    let numbered = env.rows().await.iter().filter(|row| !row["number"].is_null()).count() as u64;
    assert!(numbered >= MESSAGES, "{numbered} rows have the new column");
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_reads_only_the_partitions_of_its_filter() {
    let env = FlowEnv::start().await;
    let mut settings = env.bigqueries();
    settings.table = TableSettings {
        partition_by: Some(Partitions { require_filter: Some(true), ..Partitions::default() }),
        view: Some("readings_once".into()),
        labels: [("purpose".to_owned(), "trial".to_owned())].into(),
        ..settings.table
    };
    start_bigqueries(settings).await.shutdown(GRACE).await.unwrap();
    let dataset = format!("{}.{}", env.cloud.project, env.cloud.dataset());
    // Ten days, each with 1,000 messages that are there twice. Rows of a statement are in their
    // partitions at once, unlike rows of the Storage Write API.
    for copy in ["a", "b"] {
        // The outer query has a filter, because the embedded cloud asks for one even here.
        let rows = format!(
            "INSERT INTO `{dataset}.readings` (message_id, publish_time, ingest_id) SELECT id, \
             publish_time, ingest_id FROM (SELECT CONCAT('{copy}', CAST(n AS STRING)) AS id, \
             TIMESTAMP_ADD(TIMESTAMP '2025-06-01 00:00:00+00', INTERVAL MOD(n, 10) DAY) AS publish_time, \
             CAST(n AS STRING) AS ingest_id FROM UNNEST(GENERATE_ARRAY(1, 10000)) AS n) WHERE \
             publish_time IS NOT NULL"
        );
        env.cloud.query(&rows).await.unwrap();
    }

    let count = format!("SELECT COUNT(*) FROM `{dataset}.readings_once`");
    let one_day = format!("{count} WHERE publish_time_day = DATE '2025-06-03'");
    let all_days = format!("{count} WHERE publish_time_day >= DATE '2025-06-01'");
    assert_eq!(env.cloud.query(&one_day).await.unwrap(), [[json!("1000")]]);
    assert_eq!(env.cloud.query(&all_days).await.unwrap(), [[json!("10000")]]);
    let refused = env.cloud.query(&count).await.unwrap_err().to_string();
    assert!(refused.contains("without a filter"), "{refused}");
    let [one, all] =
        [env.cloud.dry_run(&one_day).await.unwrap(), env.cloud.dry_run(&all_days).await.unwrap()];
    report(&format!("the view reads {one} bytes for one of ten days, {all} for all of them"));
    // The embedded cloud does not count bytes.
    assert!(env.server.is_some() || (one > 0 && one * 5 < all), "partitions are not pruned");
    for name in ["readings", "readings_once"] {
        let table = env.cloud.table(&env.cloud.dataset(), name).await.unwrap();
        assert_eq!(table["labels"]["purpose"], "trial", "{table}");
    }
    env.teardown().await;
}

/// Returns the configuration of the load job that `docs/archive.md` shows for a format.
fn load_job(env: &FlowEnv, format: Format) -> Value {
    let (bucket, suffix) = (env.bucket(), format.suffix());
    let field = |(name, kind): &(&str, &str)| json!({ "name": name, "type": kind });
    let fields = [
        ("id", "STRING"),
        ("batchKey", "STRING"),
        ("originalPubSubPayload", "BYTES"),
        ("archivedAt", "TIMESTAMP"),
        ("ingestId", "STRING"),
        ("publishTime", "TIMESTAMP"),
        ("attributes", "JSON"),
    ];
    // The embedded cloud loads no objects into a column of the type JSON.
    let fields = if env.server.is_some() { &fields[..6] } else { &fields[..] };
    let fields: Vec<_> = fields.iter().map(field).collect();
    let mut job = json!({
        "sourceUris": [format!("gs://{bucket}/archive/2025/06/15/*{suffix}")],
        "destinationTable": {
            "projectId": env.cloud.project, "datasetId": env.cloud.dataset(), "tableId": table_of(format),
        },
        "timePartitioning": { "type": "DAY", "field": "publishTime" },
        "clustering": { "fields": ["batchKey"] },
    });
    if format == Format::Parquet {
        job["sourceFormat"] = "PARQUET".into();
    } else {
        job["sourceFormat"] = "NEWLINE_DELIMITED_JSON".into();
        job["ignoreUnknownValues"] = true.into();
        job["schema"] = json!({ "fields": fields });
    }
    job
}

/// Returns the name of the table that objects of a format are loaded into.
fn table_of(format: Format) -> String {
    format!("loaded{}", format.suffix().replace('.', "_"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bigquery_loads_the_archive_as_its_page_says() {
    let env = FlowEnv::start().await;
    archive_readings(&env).await;

    for format in Format::ALL {
        let loaded = env.cloud.load(load_job(&env, format)).await;
        let suffix = format.suffix();
        match &loaded {
            Ok(()) => assert_loaded(&env, format).await,
            Err(why) => report(&format!("BigQuery does not load {suffix}: {why:#}")),
        }
        // BigQuery's documentation names only gzip for JSON. The embedded cloud loads only JSON.
        let is_promised = match format {
            Format::JsonlGz => true,
            Format::JsonlZst => false,
            Format::Parquet => env.server.is_none(),
        };
        assert!(loaded.is_ok() || !is_promised, "{suffix} is not loaded: {loaded:?}");
    }
    if env.server.is_none() {
        assert_external(&env, "BigQuery: an external table").await;
        assert_external(&env, "BigQuery: Parquet").await;
    }
    env.teardown().await;
}

/// Compares the rows of a loaded table with the lines in the bucket.
async fn assert_loaded(env: &FlowEnv, format: Format) {
    let (dataset, table) = (env.cloud.dataset(), table_of(format));
    let query =
        format!("SELECT id, ingestId, originalPubSubPayload FROM {dataset}.{table} ORDER BY id");
    let lines = lines_of(env, format).await.into_iter().map(|line| {
        let data = STANDARD.encode(line.data().unwrap());
        vec![json!(line.id), json!(line.ingest_id), json!(data)]
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by_key(|line| line[0].to_string());
    assert_eq!(env.cloud.query(&query).await.unwrap(), lines, "{}", format.suffix());
    report(&format!("BigQuery loads {}", format.suffix()));
}

/// Runs the statements below a heading of `docs/archive.md`: an external table, and a query on it.
async fn assert_external(env: &FlowEnv, heading: &str) {
    let table = format!("`{}.{}.archive`", env.cloud.project, env.cloud.dataset());
    let bucket = format!("gs://{}", env.bucket());
    let [example] = &examples(heading)[..] else { panic!("{heading} has one example") };
    let example = example.replace("`my-project.dataflow.archive`", &table);
    let example = example.replace("gs://my-archive", &bucket);
    let (create, query) = example.split_once(";\n\n").unwrap();

    env.cloud.query(create).await.unwrap();
    let rows = env.cloud.query(query.trim().trim_end_matches(';')).await.unwrap();

    let devices: HashSet<_> = rows.iter().map(|row| (row[0].as_str(), row[2].as_str())).collect();
    let device = Some("device-1");
    let expected = ["i-1", "i-2", "i-3"].map(|id| (Some(id), device));
    assert_eq!(devices, HashSet::from(expected), "{heading}");
    assert_eq!(rows.len(), 3, "{heading} shows each message once");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_become_as_many_objects_and_nothing_is_lost() {
    const LOCATIONS: usize = 300;
    let env = FlowEnv::start().await;
    let message = |number: usize| {
        let location = format!("site-{}", number % LOCATIONS);
        (number.to_string(), json!({ "location": location }))
    };
    let messages: Vec<_> = (0..2 * LOCATIONS).map(message).collect();
    env.cloud.publish_all(&env.cloud.name(RAW), &messages).await.unwrap();

    let started = Instant::now();
    let icestore = start_icestore(env.icestore()).await;
    until(async || counter(&icestore, SENT) >= messages.len() as u64).await;

    let (took, retried) = (started.elapsed(), counter(&icestore, RETRIED));
    report(&format!("objects of {LOCATIONS} keys took {took:?}, with {retried} repeated attempts"));
    icestore.shutdown(GRACE).await.unwrap();
    let lines = env.lines().await;
    let keys: HashSet<_> = lines.iter().map(|line| &line.batch_key).collect();
    let data: HashSet<_> = lines.iter().map(|line| line.data().unwrap()).collect();
    assert_eq!((keys.len(), data.len()), (LOCATIONS, messages.len()));
    env.teardown().await;
}

/// Covers what `deploy/try-on-gcp.sh` calls after tests that failed.
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_removed_by_their_trial_and_others_stay() {
    let env = FlowEnv::start().await;
    let unique = env.cloud.run.rsplit('-').next().unwrap();
    let (mine, other) = (unique.to_owned(), unique.chars().rev().collect::<String>());
    let [first, second, foreign] = [(&mine, &mine), (&mine, &other), (&other, &mine)]
        .map(|(trial, test)| format!("devices-{trial}-{test}"));
    for name in [&first, &second, &foreign] {
        env.cloud.put_documents(name, e2e::reading::documents(400)).await.unwrap();
    }

    let mut found = env.cloud.collections_of(&mine).await.unwrap();
    for name in &found {
        env.cloud.delete_documents(name).await.unwrap();
    }

    found.sort();
    let mut expected = [first, second];
    expected.sort();
    assert_eq!(found, expected);
    assert!(env.cloud.collections_of(&mine).await.unwrap().is_empty());
    assert_eq!(env.cloud.collections_of(&other).await.unwrap(), std::slice::from_ref(&foreign));
    env.cloud.delete_documents(&foreign).await.unwrap();
    env.teardown().await;
}

/// Prints a result directly to stderr, because the test runner captures printed output.
fn report(finding: &str) {
    std::io::stderr().write_all(format!("FOUND: {finding}\n").as_bytes()).unwrap();
}

/// Sends some readings, and waits until they are in the table and in the archive.
async fn pass(env: &FlowEnv, bigqueries: &Hosted, icestore: &Hosted) -> Fleet {
    let archived = counter(icestore, SENT);
    let fleet = fleet(env, bigqueries).await;
    until(async || counter(icestore, SENT) >= archived + MESSAGES).await;
    fleet
}

/// Sends some readings, and waits until they are rows.
async fn fleet(env: &FlowEnv, bigqueries: &Hosted) -> Fleet {
    let written = counter(bigqueries, SENT);
    let mut fleet = env.fleet(MESSAGES);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(bigqueries, SENT) >= written + MESSAGES).await;
    fleet
}

async fn assert_in_table(env: &FlowEnv, fleets: &[Fleet]) {
    let rows = env.arrived_rows().await;
    for fleet in fleets {
        let totals = reconcile::reconcile(fleet, Destinations::table(&rows));
        assert!(totals.is_clean(), "{totals:?}");
    }
}
