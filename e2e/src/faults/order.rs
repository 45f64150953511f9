//! Reads what enrich publishes, as a subscriber that relies on the order of each key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::fault_env::{FaultEnv, ORDER};
use crate::reading::Reading;
use crate::reconcile::{Arrived, Payload};

/// Longer than the lease of the subscription: messages of a lost reply are delivered again within
/// it.
const LEASE: Duration = Duration::from_secs(15);

/// First arrivals of the readings of a fleet, for each device.
#[derive(Debug, Default)]
pub(super) struct Order {
    seen: HashSet<Reading>,
    newest: HashMap<u32, u64>,
    /// Readings whose first arrival came after a later reading of the same device.
    pub(super) violations: Vec<Reading>,
}

impl Order {
    fn arrive(&mut self, reading: Reading) {
        if !self.seen.insert(reading) {
            return;
        }
        let newest = self.newest.entry(reading.device).or_default();
        if reading.number < *newest {
            self.violations.push(reading);
        }
        *newest = (*newest).max(reading.number);
    }

    /// Returns the number of different readings that arrived.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }
}

/// Reads until `stopped` is set and no more messages arrive.
pub(super) async fn read(
    env: Arc<FaultEnv>,
    fleet: String,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<Order> {
    let mut order = Order::default();
    let mut last_sign = Instant::now();
    loop {
        let is_last = *stopped.borrow();
        let pulled = env.cloud.pull(ORDER).await;
        // Messages of a failed pull are delivered again, before later messages of the same key.
        if let Err(error) = &pulled {
            warn!("pull of the order: {error:#}");
        }
        if !matches!(&pulled, Ok(received) if received.is_empty()) {
            last_sign = Instant::now();
        }
        let received = pulled.unwrap_or_default();
        for message in &received {
            let arrived = Arrived::of_message(message)?;
            if let Payload::Bytes(payload) = arrived.payload {
                Reading::of(&fleet, &payload).into_iter().for_each(|reading| order.arrive(reading));
            }
        }
        if received.is_empty() {
            if is_last && last_sign.elapsed() > LEASE {
                return Ok(order);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_may_follow_later_readings_and_nothing_else_may() {
        let mut order = Order::default();
        let reading = |device, number| Reading { device, number };

        for reading in [reading(1, 1), reading(2, 9), reading(1, 3), reading(1, 1)] {
            order.arrive(reading);
        }
        assert_eq!(order.violations, []);
        order.arrive(reading(1, 2));

        assert_eq!(order.violations, [reading(1, 2)]);
        assert_eq!(order.count(), 4);
    }
}
