//! Tests of the connection in paused time. The test controls every byte of the broker.

mod broker;
mod granted;
mod order;
mod retire;
mod sessions;
mod slow;

use std::time::Duration;

use pipeline::{Delivery, Source as _};
use service::Health;
use tokio::time::timeout;

use super::{Mode, Setup, Source};
use crate::config::{Mqtt, Protocol};
use crate::metrics::Metrics;
use crate::routes::Subscription;
use broker::{Peer, TestBroker};

/// Maximum wait for an expected event, in paused time.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Time in which the tests expect no event. It is shorter than a keep-alive.
const WHILE: Duration = Duration::from_secs(20);

/// Broker, and all that a source needs to connect to it.
struct TestEnv {
    broker: TestBroker,
    settings: Mqtt,
    filters: Vec<Subscription>,
    metrics: Metrics,
    health: Health,
}

impl TestEnv {
    fn new(protocol: Protocol) -> Self {
        let settings = Mqtt {
            url: "mqtt://broker:1883".into(),
            protocol,
            ordinal: Some(0),
            ..Mqtt::default()
        };
        Self {
            broker: TestBroker::new(protocol),
            settings,
            filters: vec![subscription("devices/+/up", 1)],
            metrics: Metrics::default(),
            health: Health::default(),
        }
    }

    fn source(&self, mode: Mode) -> Source {
        let setup = Setup {
            settings: &self.settings,
            filters: &self.filters,
            ordering: None,
            metrics: &self.metrics,
            health: &self.health,
        };
        Source::over(self.broker.dial(), mode, setup)
    }

    /// Returns a source whose first connection is subscribed.
    async fn subscribed(&mut self) -> (Source, Peer) {
        let source = self.source(Mode::Run);
        let peer = self.accept_subscribed().await;
        (source, peer)
    }

    /// Accepts the next connection, and grants all its requests.
    async fn accept_subscribed(&mut self) -> Peer {
        let mut peer = self.broker.accept().await;
        peer.take(true).await;
        peer.grant().await;
        peer
    }

    /// Waits until the connection is ready or its state contains this text.
    async fn until_it_says(&self, expected: &str) {
        let says = async {
            loop {
                let state = self.state();
                match expected {
                    "ready" if state.ready => return,
                    text if !state.ready && state.reason.contains(text) => return,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let said = timeout(PATIENCE, says).await;
        said.unwrap_or_else(|_| panic!("it says {:?}, not {expected}", self.state()));
    }

    fn state(&self) -> service::health::ConditionState {
        self.health.conditions()["mqtt"].clone()
    }
}

fn subscription(filter: &str, qos: u8) -> Subscription {
    Subscription { filter: filter.into(), qos, is_shared: filter.starts_with("$share/") }
}

/// Returns the next delivery.
async fn next(source: &mut Source) -> Delivery {
    let received = timeout(PATIENCE, source.receive()).await.expect("a message in time");
    received.unwrap().expect("a message")
}

/// Returns whether no delivery arrives for a while.
async fn is_silent(source: &mut Source) -> bool {
    timeout(WHILE, source.receive()).await.is_err()
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.data.to_vec()).unwrap()
}
