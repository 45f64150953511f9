//! Spreads invalidations to all replicas. Each replica listens to a channel of Redis.

use std::time::Duration;

use futures::StreamExt as _;
use redis::Value;
use redis::aio::PubSub;
use service::Health;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::{Fetch, LayerError, Lookup};

/// Name of the fact in `/status` that tells which replicas invalidations reach.
const FACT: &str = "invalidation";
/// Time between two pings that check the connection.
const PING: Duration = Duration::from_secs(5);
/// Minimum and maximum time between two attempts to subscribe.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));

/// Listener for the invalidations of other replicas.
pub struct Listener<F> {
    lookup: Lookup<F>,
    health: Health,
    /// Subscription made at the start, or the reason why it failed.
    first: Option<Result<PubSub, LayerError>>,
}

impl<F: Fetch> Listener<F> {
    /// Subscribes before the first lookup, so no invalidation is missed. If Redis does not answer,
    /// [`Listener::run`] subscribes later.
    pub async fn start(lookup: Lookup<F>, health: Health) -> Self {
        let first = match lookup.redis() {
            Some(redis) => Some(redis.subscribe().await),
            None => None,
        };
        Self { lookup, health, first }
    }

    /// Forgets keys that other replicas invalidate, and tells in `/status` which replicas
    /// invalidations reach. It returns at once without Redis, and never with it.
    ///
    /// Invalidations during an interruption are unknown, so memory is emptied after each further
    /// subscription.
    pub async fn run(self) {
        let Self { lookup, health, mut first } = self;
        let Some(redis) = lookup.redis() else {
            health.tell(FACT, "reaches this replica alone: cache.redis.url is not set");
            return;
        };
        let mut is_told = false;
        loop {
            let subscribed = match first.take() {
                Some(subscribed) => subscribed,
                None => redis.subscribe().await.inspect(|_| lookup.forget_all()),
            };
            let error = match subscribed {
                Ok(subscription) => {
                    is_told = false;
                    health.tell(FACT, "reaches all replicas");
                    info!("invalidations of other replicas arrive");
                    follow(subscription, &lookup, redis.timeout()).await
                }
                Err(error) => error,
            };
            if !is_told {
                warn!(%error, "invalidations of other replicas do not arrive");
                is_told = true;
            }
            let missed = "does not arrive from other replicas until Redis answers";
            health.tell(FACT, format!("{missed}, then memory is emptied: {error}"));
            sleep(rand::random_range(WAITS.0..WAITS.1)).await;
        }
    }
}

/// Follows one subscription until it is lost. Returns the reason.
async fn follow<F: Fetch>(
    subscription: PubSub,
    lookup: &Lookup<F>,
    patience: Duration,
) -> LayerError {
    let (mut sink, mut keys) = subscription.split();
    let messages = async {
        while let Some(message) = keys.next().await {
            // Bytes of a foreign program are no key of ours.
            if let Ok(key) = std::str::from_utf8(message.get_payload_bytes()) {
                lookup.forget(key);
            }
        }
        LayerError("the connection has ended".into())
    };
    let pings = async {
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pings.tick().await;
            match timeout(patience, sink.ping::<Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return LayerError::of(&error),
                Err(_) => return LayerError("no answer to a ping".into()),
            }
        }
    };
    // Both run concurrently, so no message waits for the answer to a ping.
    tokio::select! {
        error = messages => error,
        error = pings => error,
    }
}
