//! Tests of clients and credentials that a program hands in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use pipeline::Source as _;
use pubsub::{
    Admin, Channels, Clients, Connection, Endpoint, Preflight, Publishers, Source, SourceMetrics,
    Subscription, TopicGuard,
};
use serde_json::json;
use service::tools::preflight::State;
use tokio::time::timeout;

use crate::env::{PATIENCE, TestEnv, next};

/// Address where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// Builds a client of the embedded cloud, as a program would.
macro_rules! build {
    ($client:ident, $env:expr) => {{
        let credentials = anonymous::Builder::new().build();
        let builder = $client::builder().with_endpoint($env.emulator.url());
        Some(builder.with_credentials(credentials).build().await.unwrap())
    }};
}

/// Returns clients of the embedded cloud, and the number of connections that they opened.
async fn clients(env: &TestEnv) -> (Clients, Arc<AtomicUsize>) {
    let opened = Arc::<AtomicUsize>::default();
    let server = tonic::transport::Endpoint::from_shared(env.emulator.url()).unwrap();
    let channels = Channels::new({
        let opened = Arc::clone(&opened);
        move || {
            opened.fetch_add(1, Ordering::Relaxed);
            server.connect_lazy()
        }
    });
    let clients = Clients {
        channels: Some(channels),
        topics: build!(TopicAdmin, env),
        subscriptions: build!(SubscriptionAdmin, env),
        rights: build!(SchemaService, env),
        ..Clients::default()
    };
    (clients, opened)
}

fn nowhere() -> Endpoint {
    Endpoint { endpoint: Some(NOBODY.into()), ..Endpoint::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_over_the_connections_that_are_handed_in() {
    let env = TestEnv::new(json!({})).await;
    let (clients, opened) = clients(&env).await;
    let connection = Connection::new(nowhere()).with_clients(clients);
    let subscription =
        Subscription { id: "subscription".into(), streams: 3, ..Subscription::default() };

    let publishers = Publishers::new(&connection).await.unwrap();
    let batch = [env.outgoing("data".into(), "")];
    let published = timeout(PATIENCE, publishers.publish(&env.topic, &batch)).await.unwrap();
    let ids = published.unwrap().into_ids();
    let metrics = SourceMetrics::default();
    let mut source = Source::open(&connection, "p", &subscription, metrics).await.unwrap();
    let delivery = next(&mut source).await;

    assert_eq!(ids, std::slice::from_ref(&delivery.message.id));
    delivery.ack();
    source.close().await.unwrap();
    // Two for publishing, one for acknowledgements, and one for each stream that was open before the
    // end.
    let opened = opened.load(Ordering::Relaxed);
    assert!((2 + 1 + 1..=2 + 1 + 3).contains(&opened), "{opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_asks_the_clients_that_are_handed_in() {
    let env = TestEnv::new(json!({})).await;
    let (clients, _) = clients(&env).await;
    let connection = Connection::new(nowhere()).with_clients(clients.clone());
    let guard = TopicGuard::new([env.topic.clone()]);

    let admin = Admin::new(&connection).await.unwrap();

    assert_eq!(guard.look(&admin).await, Ok(()));
    env.delete("subscriptions/subscription").await;
    let told = guard.look(&admin).await.unwrap_err();
    assert!(told.contains("has neither a subscription nor retention"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_the_clients_that_are_handed_in() {
    let env = TestEnv::new(json!({})).await;
    let (clients, _) = clients(&env).await;
    let subscription = Subscription { id: "subscription".into(), ..Subscription::default() };

    let preflight = Preflight {
        project: "p",
        pubsub: &nowhere(),
        storage: &storage::Endpoint::default(),
        topics: vec![env.topic.clone()],
        subscription: Some(&subscription),
        dead_letters: None,
        create: false,
        audience: None,
        clients: &clients,
    };
    let states = preflight.check().await.unwrap().into_iter().map(|found| found.state);

    assert_eq!(states.collect::<Vec<_>>(), [State::Ready, State::Ready]);
}
