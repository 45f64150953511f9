//! Tests of readiness while a dependency is missing, and after it appears.

use std::time::Duration;

use crate::flow_env::{FlowEnv, RAW_ARCHIVE, start_icestore, start_ingestion, until};
use e2e::names::{ARCHIVE, DEAD_LETTER_REPORT, DEAD_LETTERS, RAW};
use e2e::process::free_port;
use emulator::{Emulator, Options};
use icestore::Icestore;
use ingestion::Ingestion;
use service::Hosted;

const GRACE: Duration = Duration::from_secs(20);

async fn get(hosted: &Hosted, path: &str) -> (u16, String) {
    let port = hosted.address().port();
    let url = format!("http://127.0.0.1:{port}{path}");
    let request = reqwest::Client::new().get(url).header("accept", "application/json");
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until the service reports this reason. It must be alive but not ready.
async fn waits_for(hosted: &Hosted, reason: &str) {
    until(async || get(hosted, "/readyz").await.1.contains(reason)).await;
    assert_eq!(get(hosted, "/readyz").await.0, 503);
    assert_eq!(get(hosted, "/healthz").await, (200, "OK".into()));
}

async fn becomes_ready(hosted: &Hosted) {
    until(async || get(hosted, "/readyz").await.0 == 200).await;
    assert!(get(hosted, "/readyz").await.1.contains("\"ready\":true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ingestion_waits_for_its_broker() {
    let mut env = FlowEnv::start().await;
    env.broker.stop().await.unwrap();
    let ingestion = Hosted::start(Ingestion::new(env.ingestion())).await.unwrap();

    waits_for(&ingestion, "mqtt://127.0.0.1").await;
    env.broker.start_again().await.unwrap();

    becomes_ready(&ingestion).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_wait_for_a_cloud_that_comes_later() {
    let env = FlowEnv::start().await;
    let port = free_port().unwrap();
    let endpoint = Some(format!("http://127.0.0.1:{port}").into());
    let (mut ingestion, mut icestore) = (env.ingestion(), env.icestore());
    ingestion.pubsub.endpoint.clone_from(&endpoint);
    icestore.intake.pubsub.endpoint.clone_from(&endpoint);
    icestore.storage.endpoint = endpoint;
    let ingestion = Hosted::start(Ingestion::new(ingestion)).await.unwrap();
    let icestore = Hosted::start(Icestore::new(icestore)).await.unwrap();

    waits_for(&ingestion, "does not answer").await;
    waits_for(&icestore, "does not answer").await;
    let late = Emulator::start(Options { port, ..Options::default() }).await.unwrap();
    waits_for(&ingestion, "does not exist").await;
    waits_for(&icestore, "does not exist").await;
    let mut cloud = e2e::cloud::Cloud::embedded(&late.url());
    cloud.run.clone_from(&env.cloud.run);
    for (topic, subscription) in [(RAW, RAW_ARCHIVE), (DEAD_LETTERS, DEAD_LETTER_REPORT)] {
        cloud.create_topic(&cloud.name(topic)).await.unwrap();
        cloud.create_subscription(&cloud.name(subscription), &cloud.name(topic)).await.unwrap();
    }
    cloud.create_bucket(&cloud.name(ARCHIVE)).await.unwrap();

    becomes_ready(&ingestion).await;
    becomes_ready(&icestore).await;
    ingestion.shutdown(GRACE).await.unwrap();
    icestore.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_in_for_a_topic_that_nobody_listens_to() {
    let env = FlowEnv::start().await;
    let lonely = env.cloud.name("lonely");
    env.cloud.create_topic(&lonely).await.unwrap();
    let mut settings = env.ingestion();
    settings.producers.get_mut("uplinks").unwrap().topic_id = lonely.as_str().into();
    let ingestion = Hosted::start(Ingestion::new(settings)).await.unwrap();

    waits_for(&ingestion, "neither a subscription nor retention").await;
    let listener = env.cloud.name("listener");
    env.cloud.create_subscription(&listener, &lonely).await.unwrap();

    becomes_ready(&ingestion).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.cloud.teardown(&[&lonely], &[&listener], &[]).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_an_error_that_names_it() {
    let env = FlowEnv::start().await;
    let first = start_icestore(env.icestore()).await;
    let mut settings = env.ingestion();
    let port = first.address().port();
    settings.process.http.port = port;

    let refused = Hosted::start(Ingestion::new(settings)).await.err().unwrap();

    let text = format!("{refused:#}");
    assert!(text.contains(&port.to_string()) && text.contains("http.port"), "{text}");
    first.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_ends_readiness_and_nothing_else() {
    let mut env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;

    env.broker.stop().await.unwrap();
    waits_for(&ingestion, "mqtt://127.0.0.1").await;
    env.broker.start_again().await.unwrap();

    becomes_ready(&ingestion).await;
    let status = get(&ingestion, "/status").await.1;
    assert!(status.contains("\"guarantees\"") && status.contains("at least once"), "{status}");
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_broker_lost_is_counted_as_a_possible_gap() {
    let mut env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let gaps = || crate::flow_env::counter(&ingestion, "dataflow_ingestion_possible_gaps_total");

    env.broker.stop().await.unwrap();
    env.broker.start_again().await.unwrap();
    becomes_ready_again(&ingestion).await;
    let after_a_restart = gaps();
    env.broker.stop().await.unwrap();
    env.broker.forget().unwrap();
    env.broker.start_again().await.unwrap();
    until(async || gaps() == 1).await;

    assert_eq!(after_a_restart, 0, "the broker had kept the session");
    becomes_ready(&ingestion).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

/// Waits until the service is ready again after its current connection has ended.
async fn becomes_ready_again(ingestion: &Hosted) {
    let reconnects = || crate::flow_env::counter(ingestion, "dataflow_ingestion_reconnects_total");
    until(async || reconnects() == 1).await;
    becomes_ready(ingestion).await;
}
