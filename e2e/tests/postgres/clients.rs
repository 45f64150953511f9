//! The service and its checks use the clients that are handed in.

use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use postgres::Postgres;
use pubsub::{Channels, Clients};
use serde_json::json;
use service::Service as _;
use service::tools::preflight::State;

use crate::env::{Env, GRACE, sent, start_service, until};

/// Builds a client of the embedded cloud, as a program would.
macro_rules! build {
    ($client:ident, $env:expr) => {{
        let credentials = anonymous::Builder::new().build();
        let builder = $client::builder().with_endpoint($env.emulator.url());
        Some(builder.with_credentials(credentials).build().await.unwrap())
    }};
}

async fn clients(env: &Env) -> Clients {
    let server = tonic::transport::Endpoint::from_shared(env.emulator.url()).unwrap();
    Clients {
        channels: Some(Channels::new(move || server.connect_lazy())),
        topics: build!(TopicAdmin, env),
        subscriptions: build!(SubscriptionAdmin, env),
        rights: build!(SchemaService, env),
        ..Clients::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_works_with_the_clients_that_are_handed_in() {
    let env = Env::start().await;
    let mut settings = env.settings();
    // Nobody listens there.
    settings.intake.pubsub.endpoint = Some("http://127.0.0.1:1".into());
    let service = Postgres::new(settings).with_clients(clients(&env).await);

    let found = service.preflight().await.unwrap().into_iter().map(|found| found.state);
    let states: Vec<_> = found.collect();
    assert!(
        matches!(states[..], [State::Ready, State::Ready, State::WillCreate(_)]),
        "the subscription, the topic of dead letters, and the table: {states:?}"
    );

    let hosted = start_service(service).await;
    env.publish(0, &[json!({})]).await;
    until(async || sent(&hosted) >= 1).await;
    hosted.shutdown(GRACE).await.unwrap();
    assert_eq!(env.rows().await, 1);
}
