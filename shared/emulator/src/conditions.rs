//! Conditions of calls: the current profile, and the used part of the quotas.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::profile::{Latency, Profile};
use crate::rights;
use crate::status::Status;

/// Largest deviation of an age, as a fraction of it.
const JITTER: f64 = 0.1;

/// Conditions of an emulator. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    profile: Arc<watch::Sender<Arc<Profile>>>,
    uses: Arc<Mutex<QuotaUses>>,
}

/// A limit of an amount within a period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota {
    pub limit: u64,
    pub per: Duration,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { profile: Arc::new(watch::Sender::new(Arc::default())), uses: Arc::default() }
    }
}

impl Conditions {
    pub(crate) fn profile(&self) -> Arc<Profile> {
        Arc::clone(&self.profile.borrow())
    }

    pub(crate) fn set(&self, profile: Profile) {
        self.profile.send_replace(Arc::new(profile));
    }

    /// Returns a random time for a call of this method, within the latency of the profile.
    pub(crate) fn latency(&self, method: &str) -> Duration {
        let profile = self.profile.borrow();
        let Some(Latency { min_millis, max_millis }) = profile.latencies.get(method) else {
            return Duration::ZERO;
        };
        let micros = min_millis.saturating_mul(1000)..=max_millis.saturating_mul(1000);
        if micros.is_empty() {
            return Duration::from_millis(*min_millis);
        }
        Duration::from_micros(rand::rng().random_range(micros))
    }

    /// Waits until a stream or connection has reached the age that the profile allows.
    pub(crate) async fn outlived(&self, age: Age, limit: fn(&Profile) -> Option<Duration>) {
        let mut changes = self.profile.subscribe();
        loop {
            let limit = limit(&changes.borrow_and_update());
            let end = async {
                match limit {
                    Some(limit) => sleep_until(age.since + limit.mul_f64(age.factor)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = end => return,
                // This is never an error, because `self` holds the sender.
                _ = changes.changed() => {}
            }
        }
    }

    /// Waits until the profile denies a method, and returns the refusal.
    pub(crate) async fn denial(&self, method: &str) -> Status {
        let mut changes = self.profile.subscribe();
        loop {
            if let Err(refusal) = rights::check(&changes.borrow_and_update().denied, method) {
                return refusal;
            }
            // `self` holds the sender, so it never fails.
            let _ = changes.changed().await;
        }
    }

    /// Takes an amount from a quota. Returns false if less is left. One request always fits an
    /// unused quota.
    pub(crate) fn spend(&self, key: String, amount: u64, quota: Option<Quota>) -> bool {
        let Some(quota) = quota else { return true };
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.spend(key, amount, quota)
    }
}

/// Age of a stream or a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    since: Instant,
    /// Factor of the allowed age at which this one ends.
    factor: f64,
}

impl Age {
    /// Begins now. Ends a little earlier or later than others that begin now.
    pub(crate) fn with_jitter() -> Self {
        let factor = rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER);
        Self { since: Instant::now(), factor }
    }

    /// Begins now, and ends exactly at the allowed age.
    pub(crate) fn exact() -> Self {
        Self { since: Instant::now(), factor: 1.0 }
    }
}

/// Waits, unless the time is zero.
pub(crate) async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// Recent uses of quotas, by key.
#[derive(Debug, Default)]
struct QuotaUses(HashMap<String, VecDeque<(Instant, u64)>>);

impl QuotaUses {
    fn spend(&mut self, key: String, amount: u64, Quota { limit, per }: Quota) -> bool {
        /// Number of entries above which unused ones are removed.
        const SWEEP_AT: usize = 10_000;
        /// Longer than the period of any quota.
        const UNUSED_AFTER: Duration = Duration::from_secs(60);
        let now = Instant::now();
        if self.0.len() > SWEEP_AT {
            self.0.retain(|_, uses| {
                uses.back().is_some_and(|(at, _)| now.duration_since(*at) < UNUSED_AFTER)
            });
        }
        let uses = self.0.entry(key).or_default();
        while uses.front().is_some_and(|(at, _)| now.duration_since(*at) >= per) {
            uses.pop_front();
        }
        let used = uses.iter().fold(0_u64, |sum, (_, amount)| sum.saturating_add(*amount));
        if used > 0 && used.saturating_add(amount) > limit {
            return false;
        }
        uses.push_back((now, amount));
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_quota_is_free_again_after_its_period() {
        let conditions = Conditions::default();
        let quota = Some(Quota { limit: 2, per: Duration::from_secs(10) });
        let spend = |key: &str, amount| conditions.spend(key.to_owned(), amount, quota);

        assert!(spend("a", 1) && spend("a", 1), "two of two");
        assert!(!spend("a", 1), "a third");
        assert!(spend("b", 3), "one large request of another");
        advance(Duration::from_secs(10)).await;
        assert!(spend("a", 1), "ten seconds later");
        assert!(conditions.spend("a".into(), 9, None), "without a quota");
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_ends_when_the_profile_says_so_even_if_it_says_so_later() {
        let conditions = Conditions::default();
        let age = Age::exact();
        let ended = conditions.outlived(age, Profile::stream_age);
        tokio::pin!(ended);
        assert!(timeout(Duration::from_secs(99), ended.as_mut()).await.is_err());

        let profile = Profile { stream_age_millis: Some(100_000), ..Profile::default() };
        conditions.set(profile);

        assert!(timeout(Duration::from_millis(1100), ended).await.is_ok());
    }

    #[tokio::test]
    async fn latencies_stay_between_their_bounds() {
        let conditions = Conditions::default();
        conditions.set(Profile::like_google());

        for _ in 0..1000 {
            let latency = conditions.latency("AppendRows").as_millis();
            assert!((50..=150).contains(&latency), "{latency}");
        }
        assert_eq!(conditions.latency("Publish"), Duration::from_millis(20));
        assert_eq!(conditions.latency("GetTopic"), Duration::ZERO);
    }
}
