//! Tests of services with parts of their user: as the traits of the examples, and as functions.
//!
//! `docs/embedding.md` quotes this file and the examples.

use std::collections::BTreeMap;
use std::sync::Arc;

use bigqueries::Bigqueries;
use e2e::archive;
use e2e::metrics::SENT;
use e2e::names::{DEAD_LETTERS, ENRICHED, RAW, ROUTE};
use enrich::Enrich;
use enrich::cache::{self, Document};
use icestore::Icestore;
use icestore::key::safe;
use ingestion::Ingestion;
use ingestion::enricher::{Arrival, Enricher as _, FromTopic};
use message::{Envelope, Message};
use pubsub::{Audience, TopicName};
use rows::column::{Column, Kind, Mode};
use serde_json::{Map, Value, json};
use service::{Hosted, Service};

use crate::examples::root;
use crate::flow_env::{FlowEnv, GRACE, counter, next_dead_letter, start, until};
use crate::flows::Device;

#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/icestore/examples/own_batch_key.rs"]
mod own_batch_key;
#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/ingestion/examples/own_enricher.rs"]
mod own_enricher;
#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/enrich/examples/own_lookup.rs"]
mod own_lookup;
#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/ingestion/examples/own_route.rs"]
mod own_route;
#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/bigqueries/examples/own_row.rs"]
mod own_row;

/// Payload of the message of a chain.
const READING: &str = r#"{"celsius":20,"fw":"1.4","tags":["roof"]}"#;

/// Result of a message that went through four services.
struct Outcome {
    row: Map<String, Value>,
    object: String,
    /// Enrichment data of the archived envelope.
    enrichment: Map<String, Value>,
}

/// Returns settings of ingestion whose only route takes `<site>/<device>/up`.
fn ingestion_settings(env: &FlowEnv) -> ingestion::config::Settings {
    let mut settings = env.ingestion();
    let route = settings.routes.get_mut(ROUTE).unwrap();
    route.source.mqtt_topic = "{site}/{device_id}/up".into();
    route.attributes.insert("tenant".into(), "acme".into());
    settings
}

/// Sends a reading through these services, behind a ready ingestion.
async fn through(
    env: &FlowEnv,
    enrich: impl Service,
    bigqueries: impl Service,
    icestore: impl Service,
) -> Outcome {
    let services = [start(enrich).await, start(bigqueries).await, start(icestore).await];
    let mut device = Device::new(env.broker.port());
    device.publish_with(&[], "berlin/d1/up", false, READING).await;
    for service in &services {
        until(async || counter(service, SENT) >= 1).await;
    }
    for service in services {
        service.shutdown(GRACE).await.unwrap();
    }
    let objects = env.cloud.list(&env.bucket(), "archive/").await.unwrap();
    let lines = archive::read(&env.cloud, &env.bucket(), "archive/").await.unwrap();
    let enriched = Envelope::read(&lines[0].data().unwrap().into()).unwrap();
    Outcome {
        row: env.rows().await.remove(0),
        object: objects[0].clone(),
        enrichment: enriched.enrichment,
    }
}

async fn get(hosted: &Hosted, path: &str) -> Value {
    let url = format!("http://127.0.0.1:{}{path}", hosted.address().port());
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

/// Asserts that an object is in the folder of a tenant and an ISO week.
fn assert_week(object: &str) {
    let path: Vec<_> = object.split('/').collect();
    assert_eq!(path[..2], ["archive", "acme"], "{object}");
    let (year, week) = path[2].split_once("-W").unwrap();
    assert!(year.parse::<u16>().is_ok() && week.len() == 2, "{object}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_work_in_the_chain() {
    let env = FlowEnv::start().await;
    let sites = env.folder.path().join("sites.txt");
    std::fs::write(&sites, "paris=Paris\nberlin=Berlin\n").unwrap();
    let ingestion = start(own_enricher::with_own_enricher(ingestion_settings(&env))).await;

    let Outcome { row, object, enrichment } = through(
        &env,
        own_lookup::with_own_lookup(env.enrich(None), sites),
        own_row::with_own_row(env.enriched_bigqueries()),
        own_batch_key::with_own_batch_key(env.enriched_icestore()),
    )
    .await;

    assert_eq!(enrichment["Firmware"], "1.4");
    assert_eq!((&enrichment["DeviceID"], &enrichment["city"]), (&json!("d1"), &json!("BERLIN")));
    assert_eq!(row.len(), 4, "{row:?}");
    assert!(row.contains_key("at"), "{row:?}");
    assert_eq!((&row["device"], &row["tags"]), (&json!("d1"), &json!([{ "v": "roof" }])));
    assert_eq!(row["fahrenheit"].to_string().trim_matches('"').parse(), Ok(68.0));
    assert_week(&object);
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_type_of_the_example_refuses_with_its_own_reason() {
    let env = FlowEnv::start().await;
    env.cloud.publish(&env.cloud.name(RAW), b"{}", json!({})).await.unwrap();

    let bigqueries = start(own_row::with_own_row(env.bigqueries())).await;

    let dead_letter = next_dead_letter(&env).await;
    assert_eq!(dead_letter.attributes["dl_reason"], "not_a_reading");
    let metrics = bigqueries.metrics().unwrap();
    assert!(metrics.contains("reason=\"not_a_reading\""), "{metrics}");
    bigqueries.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_can_be_a_function() {
    let env = FlowEnv::start().await;
    let enricher = |arrival: Arrival<'_>, data: &mut Map<String, Value>| {
        FromTopic.enrich(arrival, data);
        data.insert("IngestedAt".into(), arrival.received.unix_timestamp().into());
    };
    let ingestion = start(Ingestion::with_enricher(ingestion_settings(&env), enricher)).await;

    let site = |message: &Message, _: &Envelope| {
        let topic = message.attributes.get("mqtt_topic")?;
        topic.split('/').next().map(str::to_owned)
    };
    let city = |document: &Document, envelope: &mut Envelope| {
        envelope.enrichment.extend(document.clone());
    };
    let cities = BTreeMap::from([("berlin", "Berlin"), ("paris", "Paris")]);
    let cities = cache::from_fn("cities", move |keys: Vec<Arc<str>>| {
        let find = |key: &Arc<str>| {
            let city = *cities.get(&**key)?;
            Some(Document::from_iter([("city".to_owned(), city.into())]))
        };
        let found: Vec<_> = keys.iter().map(find).collect();
        async { Ok(found) }
    });
    let enrich = Enrich::with(env.enrich(None), site, city, cities);

    let columns = vec![
        Column::new("device", Kind::String).with_mode(Mode::Required),
        Column::new("bytes", Kind::Int64),
    ];
    let rows = rows::from_fn(columns, |message: &Message, envelope: &Envelope| {
        let device = message.attributes.get("device_id").cloned().unwrap_or_default();
        let payload = envelope.payload.as_ref().map(message::Payload::bytes).unwrap_or_default();
        Ok(vec![device.into(), i64::try_from(payload.len()).unwrap_or(i64::MAX).into()])
    });
    let bigqueries = Bigqueries::with_rows(env.enriched_bigqueries(), rows);

    let tenant = |message: &Message, _: &Envelope| {
        let tenant = message.attributes.get("tenant").and_then(|tenant| safe(tenant));
        tenant.unwrap_or_else(|| "none".into())
    };
    let icestore = Icestore::with_batch_key(env.enriched_icestore(), tenant);

    let Outcome { row, object, enrichment } = through(&env, enrich, bigqueries, icestore).await;

    assert!(enrichment["IngestedAt"].as_i64().unwrap() > 1_700_000_000);
    assert_eq!((&enrichment["DeviceID"], &enrichment["city"]), (&json!("d1"), &json!("Berlin")));
    assert_eq!(row["device"], "d1");
    assert_eq!(row["bytes"].to_string().trim_matches('"'), READING.len().to_string());
    assert_eq!(row.len(), 2, "{row:?}");
    assert!(object.starts_with("archive/acme/"), "{object}");
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_the_audience_of_its_own_rule() {
    let env = FlowEnv::start().await;
    let refused = env.cloud.name(ENRICHED);
    let listed = [RAW, DEAD_LETTERS].map(|name| env.cloud.name(name));
    let audience = move |topic: &TopicName| match topic.as_str().rsplit('/').next() {
        Some(id) if listed.iter().any(|listed| listed == id) => Audience::Someone,
        _ => Audience::Nobody(format!("{topic} is not in the list")),
    };

    let ingestion =
        start(Ingestion::new(ingestion_settings(&env)).with_audience(audience.clone())).await;
    let enrich = Enrich::new(env.enrich(None)).with_audience(audience);
    let enrich = Hosted::start(enrich).await.unwrap();

    let reason = || {
        let conditions = enrich.health().conditions();
        conditions.get("topics").map(|topics| topics.reason.clone()).unwrap_or_default()
    };
    until(async || reason().ends_with(&format!("{refused} is not in the list"))).await;
    assert!(!enrich.health().is_ready());
    enrich.shutdown(GRACE).await.unwrap();
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_the_service_counts_its_messages() {
    let env = FlowEnv::start().await;
    let ingestion = start(own_route::with_own_route(ingestion_settings(&env))).await;
    assert_eq!(get(&ingestion, "/messages").await, json!({}));

    let mut device = Device::new(env.broker.port());
    for device_id in ["d1", "d2"] {
        device.publish_with(&[], &format!("berlin/{device_id}/up"), false, READING).await;
    }

    // The PUBACK is that of the broker, which has not sent the message on yet.
    until(async || get(&ingestion, "/messages").await == json!({ ROUTE: 2 })).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[test]
fn the_page_quotes_files_that_are_tested() {
    let page = std::fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let tested = [
        "e2e/tests/e2e/own_parts.rs",
        "services/bigqueries/examples/own_row.rs",
        "services/enrich/examples/own_lookup.rs",
        "services/icestore/examples/own_batch_key.rs",
        "services/ingestion/examples/own_enricher.rs",
        "services/ingestion/examples/own_route.rs",
        "shared/pipeline/tests/pipeline/functions.rs",
    ];
    let tested = tested.map(|file| flat(&std::fs::read_to_string(root().join(file)).unwrap()));

    let quotes: Vec<_> = page.split("```rust\n").skip(1).collect();

    assert!(quotes.len() >= 10, "{}", quotes.len());
    for quote in quotes {
        let code = flat(quote.split("```").next().unwrap());
        assert!(tested.iter().any(|file| file.contains(&code)), "no tested file has {code}");
    }
}

/// Returns code with single spaces, because a quote has another indentation than its file.
fn flat(code: &str) -> String {
    code.split_whitespace().collect::<Vec<_>>().join(" ")
}
