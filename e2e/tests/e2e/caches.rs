//! Tests of enrich with a real Redis and Firestore that go away and come back.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use e2e::fleet::{Fleet, FleetPlan};
use e2e::reconcile::{self, Arrived, Destinations, Reconciliation};
use e2e::redis::Redis;
use enrich::cache::firestore::Firestore;
use enrich::cache::presence::{InFirestore, InMemory, InRedis, Presence};
use enrich::cache::{Document, Fetch, LayerError, Lookup, redis as redis_layer};
use serde_json::json;
use service::Hosted;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::flow_env::{FlowEnv, GRACE, PATIENCE, counter, start_enrich, start_ingestion, until};
use e2e::metrics::SENT;
use e2e::names::{ARCHIVE, DEVICES, RAW};

const READS: &str = "dataflow_enrich_source_reads_total";

fn answered(enrich: &Hosted, layer: &str) -> u64 {
    counter(enrich, &format!("dataflow_enrich_answered_total{{layer=\"{layer}\"}}"))
}

/// Reads the messages that enrich has published so far, and returns the total.
async fn collect(env: &FlowEnv, arrived: &mut Vec<Arrived>) -> usize {
    for one in &env.cloud.pull(&env.cloud.name(ARCHIVE)).await.unwrap() {
        arrived.push(Arrived::of_message(one).unwrap());
    }
    arrived.len()
}

/// Reads what enrich has published, until each message of a fleet is there. A count alone is not
/// enough, because some messages may arrive twice.
async fn reconcile_when_arrived(env: &FlowEnv, fleet: &Fleet) -> Reconciliation {
    let sent = fleet.log().acknowledged_count();
    let (mut arrived, mut totals) = (Vec::new(), Reconciliation::default());
    until(async || {
        if (collect(env, &mut arrived).await as u64) < sent {
            return false;
        }
        totals = reconcile::reconcile(fleet, Destinations::archive(&arrived).enriched());
        totals.missing == 0
    })
    .await;
    totals
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_under_load_costs_reads_and_nothing_else() {
    let env = FlowEnv::start().await;
    env.put_devices(100).await;
    let mut redis = Redis::start().await.unwrap();
    let ingestion = start_ingestion(env.ingestion()).await;
    let mut settings = env.enrich(Some(redis.url()));
    // A small cache in memory, so that Redis is asked again and again.
    settings.cache.memory.max_entries = 16.into();
    let enrich = start_enrich(settings).await;
    let mut fleet = Fleet::start(FleetPlan {
        port: env.broker.port(),
        devices: 100,
        rate: 2_000,
        ..FleetPlan::default()
    });
    let sent = || counter(&enrich, SENT);

    until(async || sent() > 1_000).await;
    assert!(answered(&enrich, "redis") > 0);
    redis.kill().await.unwrap();
    let at_death = sent();
    until(async || sent() > at_death + 2_000).await;
    assert!(counter(&enrich, "dataflow_enrich_layer_failures_total{layer=\"redis\"}") > 0);
    redis.start_again().await.unwrap();
    let at_return = answered(&enrich, "redis");
    until(async || answered(&enrich, "redis") > at_return).await;
    fleet.stop();
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    let totals = reconcile_when_arrived(&env, &fleet).await;

    assert!(totals.is_clean(), "{totals:?}");
    assert!(enrich.health().is_ready());
    ingestion.shutdown(GRACE).await.unwrap();
    enrich.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_device_is_read_once() {
    let env = FlowEnv::start().await;
    env.put_devices(100).await;
    let ingestion = start_ingestion(env.ingestion()).await;
    // With a backlog, many messages need the same devices at the same time.
    let mut fleet = Fleet::start(FleetPlan {
        port: env.broker.port(),
        devices: 100,
        messages: Some(5_000),
        ..FleetPlan::default()
    });
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&ingestion, SENT) >= 5_000).await;
    let mut redis = Redis::start().await.unwrap();
    redis.kill().await.unwrap();

    let enrich = start_enrich(env.enrich(Some(redis.url()))).await;
    let totals = reconcile_when_arrived(&env, &fleet).await;

    assert!(totals.is_clean(), "{totals:?}");
    assert_eq!(counter(&enrich, READS), 100);
    ingestion.shutdown(GRACE).await.unwrap();
    enrich.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_firestore_is_down_known_devices_flow_and_unknown_ones_wait() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return env.teardown().await };
    env.put_devices(100).await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let mut settings = env.enrich(None);
    // Far fewer than the messages with unknown devices, which would otherwise take all slots.
    settings.cache.max_waiting = 50;
    settings.pipeline.max_messages_in_flight = 100;
    let enrich = start_enrich(settings).await;
    let mut arrived = Vec::new();
    let mut known = env.fleet(500);
    timeout(PATIENCE, known.finish()).await.unwrap();
    until(async || collect(&env, &mut arrived).await >= 500).await;

    emulator.faults().refuse("BatchGetDocuments", u64::MAX, tonic::Code::Unavailable);
    // Devices 0 to 49 are known, 50 to 99 are not.
    let mut fleet = Fleet::start(FleetPlan {
        port: env.broker.port(),
        devices: 100,
        messages: Some(2_000),
        ..FleetPlan::default()
    });
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || collect(&env, &mut arrived).await >= 1_500).await;
    let is_known = |one: &Arrived| one.device.as_deref() < Some("device-00050");
    assert!(arrived.iter().all(is_known), "unknown devices wait");
    until(async || !enrich.health().is_ready()).await;
    assert_eq!(enrich.health().dead(), None);
    emulator.faults().clear();
    // Some messages may have arrived twice, so a count alone is not enough.
    let mut totals = Reconciliation::default();
    until(async || {
        collect(&env, &mut arrived).await;
        totals = reconcile::reconcile(&fleet, Destinations::archive(&arrived).enriched());
        totals.missing == 0
    })
    .await;

    assert!(totals.is_clean(), "{totals:?}");
    until(async || enrich.health().is_ready()).await;
    assert_eq!(counter(&enrich, "dataflow_pipeline_dead_lettered_messages_total"), 0);
    ingestion.shutdown(GRACE).await.unwrap();
    enrich.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidated_key_is_read_again() {
    let env = FlowEnv::start().await;
    env.put_devices(1).await;
    let redis = Redis::start().await.unwrap();
    let enrich = start_enrich(env.enrich(Some(redis.url()))).await;
    let raw = env.cloud.name(RAW);
    let attributes = json!({ "device_id": "device-00000" });
    let mut arrived = Vec::new();
    let send = async || env.cloud.publish(&raw, b"{}", attributes.clone()).await.unwrap();
    send().await;
    until(async || collect(&env, &mut arrived).await >= 1).await;

    let moved = json!({ "ClientID": "c", "LocationID": "elsewhere", "Category": "x" });
    let documents = [("device-00000".to_owned(), moved)];
    env.cloud.put_documents(&env.cloud.name(DEVICES), documents).await.unwrap();
    send().await;
    until(async || collect(&env, &mut arrived).await >= 2).await;
    let status = format!("http://{}/status", enrich.address());
    let status: serde_json::Value = reqwest::get(status).await.unwrap().json().await.unwrap();
    let admin = status["admin"].as_str().unwrap();
    let url = format!("http://{admin}/cache/device-00000");
    let answer = reqwest::Client::new().delete(url).send().await.unwrap();
    send().await;
    until(async || collect(&env, &mut arrived).await >= 3).await;

    assert_eq!(answer.status().as_u16(), 204);
    let locations: Vec<_> = arrived.iter().map(|one| one.location.as_deref().unwrap()).collect();
    assert_eq!(locations, ["site-0", "site-0", "elsewhere"]);
    enrich.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_document_goes_where_the_settings_say() {
    use enrich::enrichment::OnMissing;
    for (on_missing, metric) in [
        (OnMissing::Pass, "dataflow_enrich_unenriched_total{reason=\"document_missing\"}"),
        (OnMissing::Drop, "dataflow_pipeline_skipped_messages_total{reason=\"document_missing\"}"),
        (
            OnMissing::DeadLetter,
            "dataflow_pipeline_dead_lettered_messages_total{reason=\"document_missing\"}",
        ),
    ] {
        let env = FlowEnv::start().await;
        let mut settings = env.enrich(None);
        settings.enrichment.on_missing = on_missing;
        let enrich = start_enrich(settings).await;
        let raw = env.cloud.name(RAW);

        // The second id is invalid in Firestore, so it counts as absent without a read.
        for device in ["nobody", "../x"] {
            let attributes = json!({ "device_id": device });
            env.cloud.publish(&raw, b"raw payload", attributes).await.unwrap();
        }
        until(async || counter(&enrich, metric) == 2).await;

        assert_eq!(counter(&enrich, READS), 1);
        let mut arrived = Vec::new();
        if on_missing == OnMissing::Pass {
            until(async || collect(&env, &mut arrived).await == 2).await;
            let payload = reconcile::Payload::Bytes(b"raw payload".to_vec());
            assert!(arrived.iter().all(|one| one.payload == payload), "never emptied");
        }
        enrich.shutdown(GRACE).await.unwrap();
        env.teardown().await;
    }
}

/// Checks the contract of [`Presence`] on any store.
async fn presence_is_kept(store: impl Presence) {
    let online = json!({ "broker": "b1", "since": 7 });
    assert_eq!(store.fetch("d").await.unwrap(), None);

    store.set("d", json!("first")).await.unwrap();
    store.set("d", online.clone()).await.unwrap();
    assert_eq!(store.fetch("d").await.unwrap(), Some(online));
    store.delete("d").await.unwrap();
    store.delete("d").await.unwrap();

    assert_eq!(store.fetch("d").await.unwrap(), None);
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_kept_in_memory_redis_and_firestore() {
    let env = FlowEnv::start().await;
    let redis = Redis::start().await.unwrap();
    let redis = redis_layer::RedisSettings { url: Some(redis.url().into()), ..<_>::default() };
    let hour = Duration::from_secs(3600);
    let in_redis = |life| InRedis::new(redis_layer::Redis::open(&redis).unwrap().unwrap(), life);
    let settings = enrich::cache::firestore::FirestoreSettings {
        collection: env.cloud.name("presence"),
        endpoint: env.endpoint(),
        ..<_>::default()
    };

    presence_is_kept(InMemory::new(NonZeroUsize::MIN, hour)).await;
    presence_is_kept(in_redis(hour)).await;
    presence_is_kept(InFirestore::new(Firestore::new(&env.cloud.project, &settings))).await;

    let short = in_redis(Duration::from_millis(50));
    short.set("d", json!(1)).await.unwrap();
    until(async || short.fetch("d").await.unwrap().is_none()).await;
    env.teardown().await;
}

/// A source whose documents contain its name.
struct Named(&'static str);

impl Fetch for Named {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        let document = || Document::from_iter([("source".to_owned(), self.0.into())]);
        Ok(keys.iter().map(|_| Some(document())).collect())
    }

    fn origin(&self) -> String {
        self.0.into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sources_do_not_read_each_others_documents_from_one_redis() {
    let redis = Redis::start().await.unwrap();
    let mut settings = enrich::cache::settings::LookupSettings::default();
    settings.redis.url = Some(redis.url().into());
    let found = async |origin| {
        let (lookup, reader) =
            Lookup::new(&settings, Named(origin), enrich::metrics::Metrics::default()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(reader);
        let document = lookup.document("device").await.unwrap().unwrap();
        document["source"].as_str().unwrap().to_owned()
    };

    for origin in
        ["project/(default)/devices", "project/(default)/sites", "project/(default)/devices"]
    {
        assert_eq!(found(origin).await, origin);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_has_read_the_other_finds_in_redis() {
    let env = FlowEnv::start().await;
    env.put_devices(1).await;
    let redis = Redis::start().await.unwrap();
    let raw = env.cloud.name(RAW);
    let send = async || {
        let attributes = json!({ "device_id": "device-00000" });
        env.cloud.publish(&raw, b"{}", attributes).await.unwrap();
    };
    let mut arrived = Vec::new();
    let first = start_enrich(env.enrich(Some(redis.url()))).await;
    send().await;
    until(async || collect(&env, &mut arrived).await >= 1).await;
    first.shutdown(GRACE).await.unwrap();

    let second = start_enrich(env.enrich(Some(redis.url()))).await;
    send().await;
    until(async || collect(&env, &mut arrived).await >= 2).await;

    assert_eq!(answered(&second, "redis"), 1);
    assert_eq!(counter(&second, READS), 0);
    assert_eq!(arrived[0].location, arrived[1].location);
    second.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}
