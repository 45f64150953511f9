//! Tests of half-open connections: the other side is gone, no packet arrives, and nothing ends
//! them.

use std::time::Duration;

use crate::flow_env::{
    FlowEnv, start_bigqueries, start_enrich, start_icestore, start_ingestion, until,
};
use e2e::fleet::{Fleet, FleetPlan};
use e2e::proxy::{Link, Proxy};
use e2e::reconcile::{self, Destinations, Reconciliation};
use e2e::redis::Redis;
use service::Hosted;
use service::google::EndpointUrl;
use service::settings::Parsed;

const SHORT: Duration = Duration::from_secs(1);

/// One proxy for each dependency.
struct Links {
    mqtt: Proxy,
    redis: Proxy,
    cloud: Vec<Proxy>,
}

impl Links {
    fn start(env: &FlowEnv, redis: &Redis) -> Self {
        let cloud = env.server.as_ref().unwrap().address().port();
        let mut links = Self {
            mqtt: Proxy::start(env.broker.port()).unwrap(),
            redis: Proxy::start(redis.port()).unwrap(),
            cloud: Vec::new(),
        };
        for _ in 0..4 {
            links.cloud.push(Proxy::start(cloud).unwrap());
        }
        links
    }

    fn url(&self, index: usize) -> Option<Parsed<EndpointUrl>> {
        Some(format!("http://127.0.0.1:{}", self.cloud[index].port()).into())
    }

    /// Silences all current connections permanently. Later ones work.
    fn silence(&self) {
        for proxy in [&self.mqtt, &self.redis].into_iter().chain(&self.cloud) {
            proxy.set(Link::Silent);
            proxy.set(Link::Up);
        }
    }

    async fn start_services(&self, env: &FlowEnv) -> Vec<Hosted> {
        let mut ingestion = env.ingestion();
        ingestion.mqtt.url = format!("mqtt://127.0.0.1:{}", self.mqtt.port()).into();
        ingestion.mqtt.keep_alive = Duration::from_secs(5);
        ingestion.pubsub.endpoint = self.url(0);
        ingestion.pipeline.attempt_timeout = SHORT;
        let redis = format!("redis://127.0.0.1:{}", self.redis.port());
        let mut enrich = env.enrich(Some(redis));
        enrich.cache.memory.max_entries = 1.into();
        enrich.firestore.endpoint = self.url(1);
        enrich.firestore.timeout = SHORT;
        enrich.intake.pubsub.endpoint = self.url(0);
        enrich.pipeline.attempt_timeout = SHORT;
        enrich.intake.subscription.idle_timeout = Some(SHORT);
        let mut bigqueries = env.enriched_bigqueries();
        bigqueries.bigquery.endpoint = self.url(2);
        bigqueries.intake.pubsub.endpoint = self.url(0);
        bigqueries.pipeline.attempt_timeout = SHORT;
        bigqueries.intake.subscription.idle_timeout = Some(SHORT);
        let mut icestore = env.enriched_icestore();
        icestore.storage.endpoint = self.url(3);
        icestore.intake.pubsub.endpoint = self.url(0);
        icestore.pipeline.attempt_timeout = SHORT;
        icestore.intake.subscription.idle_timeout = Some(SHORT);
        vec![
            start_ingestion(ingestion).await,
            start_enrich(enrich).await,
            start_bigqueries(bigqueries).await,
            start_icestore(icestore).await,
        ]
    }
}

/// Sends some messages, and waits until they are at all destinations.
async fn pass(env: &FlowEnv) -> Reconciliation {
    let plan =
        FleetPlan { port: env.broker.port(), messages: Some(200), devices: 20, ..<_>::default() };
    let mut fleet = Fleet::start(plan);
    fleet.finish().await;
    let mut totals = Reconciliation::default();
    until(async || {
        let lines = env.arrived_lines().await;
        let rows = env.arrived_rows().await;
        let destinations =
            Destinations { archive: Some(&lines), table: Some(&rows), ..Destinations::default() };
        totals = reconcile::reconcile(&fleet, destinations.enriched());
        totals.missing == 0
    })
    .await;
    totals
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_without_a_word_are_replaced() {
    let env = FlowEnv::start().await;
    if env.faulty_cloud().is_none() {
        return env.teardown().await;
    }
    env.put_devices(20).await;
    let redis = Redis::start().await.unwrap();
    let links = Links::start(&env, &redis);
    let services = links.start_services(&env).await;
    assert!(pass(&env).await.is_clean());

    links.silence();
    let totals = pass(&env).await;

    assert!(totals.is_clean(), "{totals:?}");
    for service in services {
        until(async || service.health().is_ready()).await;
        service.shutdown(crate::flow_env::GRACE).await.unwrap();
    }
    env.teardown().await;
}
