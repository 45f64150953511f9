//! An embedded cloud with a topic and its subscription.

use std::collections::HashMap;
use std::time::Duration;

use emulator::{Emulator, Options};
use pipeline::{Delivery, Sink as _, Source as _};
use pubsub::{
    Admin, Connection, Endpoint, Outgoing, Publishers, Sink, Source, SourceMetrics, Subscription,
    TopicGuard, TopicName,
};
use reqwest::Client;
use serde_json::json;
use tokio::time::timeout;

/// Longest wait for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct TestEnv {
    pub(crate) emulator: Emulator,
    pub(crate) connection: Connection,
    pub(crate) topic: TopicName,
    pub(crate) guard: TopicGuard,
}

impl TestEnv {
    /// Creates a topic with a subscription of these settings.
    pub(crate) async fn new(subscription: serde_json::Value) -> Self {
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let topic = TopicName::new("p", "topic");
        let guard = TopicGuard::new([topic.clone()]);
        let connection = connection(emulator.url());
        let env = Self { emulator, connection, topic, guard };
        env.put("topics/topic", json!({})).await;
        let mut settings = json!({ "topic": "projects/p/topics/topic", "ackDeadlineSeconds": 10 });
        settings.as_object_mut().unwrap().extend(subscription.as_object().unwrap().clone());
        env.put("subscriptions/subscription", settings).await;
        let admin = Admin::new(&env.connection).await.unwrap();
        assert!(env.guard.look(&admin).await.is_ok());
        env
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { endpoint: Some(self.emulator.url().into()), ..Endpoint::default() }
    }

    pub(crate) async fn put(&self, resource: &str, body: serde_json::Value) {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        Client::new().put(url).json(&body).send().await.unwrap().error_for_status().unwrap();
    }

    pub(crate) async fn exists(&self, resource: &str) -> bool {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        Client::new().get(url).send().await.unwrap().status().is_success()
    }

    pub(crate) async fn delete(&self, resource: &str) {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        Client::new().delete(url).send().await.unwrap().error_for_status().unwrap();
    }

    pub(crate) async fn delete_bucket(&self, name: &str) {
        let url = format!("{}/storage/v1/b/{name}", self.emulator.url());
        Client::new().delete(url).send().await.unwrap().error_for_status().unwrap();
    }

    pub(crate) async fn post(&self, resource: &str, body: serde_json::Value) {
        let url = format!("{}/{resource}", self.emulator.url());
        Client::new().post(url).json(&body).send().await.unwrap().error_for_status().unwrap();
    }

    pub(crate) async fn sink(&self) -> Sink {
        Sink::new(Publishers::new(&self.connection).await.unwrap(), self.guard.clone())
    }

    pub(crate) async fn source(&self) -> Source {
        // Messages on their way to a stream that closes are redelivered after this time.
        let lease_extension = Duration::from_secs(10);
        let id = "subscription".into();
        let settings = Subscription { id, lease_extension, ..Subscription::default() };
        Source::open(&self.connection, "p", &settings, SourceMetrics::default()).await.unwrap()
    }

    pub(crate) async fn publish(&self, data: impl IntoIterator<Item = String>, ordering_key: &str) {
        let sink = self.sink().await;
        let mut batch = sink.open(&self.topic);
        for data in data {
            sink.push(&mut batch, self.outgoing(data, ordering_key), &mut ()).unwrap();
        }
        assert_eq!(sink.write(&sink.encode(batch, &mut ()), PATIENCE).await.unwrap(), []);
    }

    pub(crate) fn outgoing(&self, data: String, ordering_key: &str) -> Outgoing {
        Outgoing {
            topic: self.topic.clone(),
            data: data.into(),
            attributes: HashMap::from([("key".to_owned(), "value".to_owned())]).into(),
            ordering_key: ordering_key.into(),
        }
    }
}

/// Creates a connection to a proxy, or to the emulator itself.
pub(crate) fn connection(url: String) -> Connection {
    Connection::new(Endpoint { endpoint: Some(url.into()), ..Endpoint::default() })
}

/// Waits for the next delivery.
pub(crate) async fn next(source: &mut Source) -> Delivery {
    timeout(PATIENCE, source.receive()).await.unwrap().unwrap().unwrap()
}
