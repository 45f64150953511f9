//! Measures the age of the oldest message that is not settled.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use time::OffsetDateTime;

/// The unsettled messages, counted by the second of their publish time. Clones share the counts.
///
/// As a metric it is the age of the oldest message, and 0 if there is none. Pub/Sub delivers the
/// oldest messages first. So with a backlog the metric shows the age of the backlog.
#[derive(Debug, Clone, Default)]
pub struct OldestUnacked(Arc<Mutex<BTreeMap<i64, usize>>>);

/// A message that is not settled. Dropping it marks the message as settled.
#[derive(Debug)]
pub struct UnackedGuard {
    unacked: OldestUnacked,
    second: i64,
}

impl OldestUnacked {
    /// Adds a message.
    #[must_use]
    pub fn track(&self, published: OffsetDateTime) -> UnackedGuard {
        let second = published.unix_timestamp();
        *self.lock().entry(second).or_default() += 1;
        UnackedGuard { unacked: self.clone(), second }
    }

    /// Publish time of the oldest message, in seconds of Unix time.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        self.lock().first_key_value().map(|(second, _)| *second)
    }

    /// Age of the oldest message in seconds, counted from its publish time. It is 0 if there is
    /// none.
    #[must_use]
    pub fn oldest_seconds(&self) -> i64 {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        // The clocks of two machines differ. A message from the future is treated as new.
        self.oldest().map_or(0, |oldest| (now - oldest).max(0))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnackedGuard {
    fn drop(&mut self) {
        let mut unacked = self.unacked.lock();
        if let Some(count) = unacked.get_mut(&self.second) {
            *count -= 1;
            if *count == 0 {
                unacked.remove(&self.second);
            }
        }
    }
}

impl EncodeMetric for OldestUnacked {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        ConstGauge::new(self.oldest_seconds()).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for OldestUnacked {
    const TYPE: MetricType = MetricType::Gauge;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_metric_is_the_age_of_the_oldest() {
        let unacked = OldestUnacked::default();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("age", "The age", unacked.clone());
        let age = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let value =
                text.lines().find_map(|line| line.strip_prefix("age ")?.parse::<i64>().ok());
            value.unwrap_or_else(|| panic!("{text}"))
        };
        let ago = |seconds| OffsetDateTime::now_utc() - time::Duration::seconds(seconds);

        assert_eq!(age(), 0);
        let _future = unacked.track(ago(-1000));
        assert_eq!(age(), 0);
        let _old = unacked.track(ago(1000));
        // Time passes in the meantime, and the test may wait for its turn.
        assert!((1000..2000).contains(&age()), "{}", age());
    }

    #[test]
    fn the_oldest_counts_until_the_last_of_its_second_is_settled() {
        let unacked = OldestUnacked::default();
        let at = |second| OffsetDateTime::from_unix_timestamp(second).unwrap();

        let young = unacked.track(at(20));
        let old = unacked.track(at(10));
        let as_old = unacked.track(at(10));
        assert_eq!(unacked.oldest(), Some(10));

        drop(old);
        assert_eq!(unacked.oldest(), Some(10));
        drop(as_old);
        assert_eq!(unacked.oldest(), Some(20));
        drop(young);
        assert_eq!(unacked.oldest(), None);
    }
}
