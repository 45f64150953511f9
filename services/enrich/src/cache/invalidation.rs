//! Invalidations reach all replicas: each listens to a channel of Redis.

use std::time::Duration;

use futures::StreamExt as _;
use redis::Value;
use redis::aio::PubSub;
use service::Health;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::{Fetch, LayerError, Lookup};

/// The name under which `/status` tells how far invalidations reach.
const FACT: &str = "invalidation";
/// Between two questions whether the connection still lives.
const PING: Duration = Duration::from_secs(5);
/// Between two attempts to subscribe, at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));

/// Listens to what other replicas invalidate.
pub struct Listener<F> {
    lookup: Lookup<F>,
    health: Health,
    /// The subscription that was made at the start, or why there is none.
    first: Option<Result<PubSub, LayerError>>,
}

impl<F: Fetch> Listener<F> {
    /// Subscribes, so that nothing is missed from the first look-up on. Where Redis does not answer, that is
    /// done later.
    pub async fn start(lookup: Lookup<F>, health: Health) -> Self {
        let first = match lookup.redis() {
            Some(redis) => Some(redis.subscribe().await),
            None => None,
        };
        Self { lookup, health, first }
    }

    /// Forgets what others invalidate, and tells in `/status` how far invalidations reach. Returns at once
    /// without Redis, and never with it.
    ///
    /// What was invalidated while nobody listened is unknown, so each further subscription begins with an
    /// empty memory.
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

/// Follows one subscription until it is lost, and says why it was.
async fn follow<F: Fetch>(
    subscription: PubSub,
    lookup: &Lookup<F>,
    patience: Duration,
) -> LayerError {
    let (mut sink, mut keys) = subscription.split();
    let messages = async {
        while let Some(message) = keys.next().await {
            // A stranger's bytes are no key of ours.
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
    // Side by side: no message waits for the answer to a ping.
    tokio::select! {
        error = messages => error,
        error = pings => error,
    }
}
