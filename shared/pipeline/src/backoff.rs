//! Waits between attempts.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Waits between attempts, doubling from `min` to `max`, with jitter.
///
/// Each wait is a random value between half of the nominal wait and all of it. This is "equal
/// jitter" (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Backoff {
    /// First wait; above zero.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub min: Duration,
    /// Longest wait; at least `min`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// Starts a new sequence of waits.
    #[must_use]
    pub fn waits(self) -> Waits {
        Waits { backoff: self, nominal: self.min }
    }
}

/// The waits of one series of attempts.
#[derive(Debug, Clone)]
pub struct Waits {
    backoff: Backoff,
    nominal: Duration,
}

impl Waits {
    /// Returns the next wait.
    pub fn next_wait(&mut self) -> Duration {
        let nominal = self.nominal.min(self.backoff.max);
        self.nominal = nominal.saturating_mul(2);
        nominal.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Starts again from the shortest wait, after a success.
    pub fn reset(&mut self) {
        self.nominal = self.backoff.min;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_success_starts_from_the_shortest_wait_again() {
        let mut waits = Backoff::default().waits();
        let last = (0..20).map(|_| waits.next_wait()).last();

        waits.reset();

        let next = waits.next_wait();
        assert!(last.is_some_and(|last| last > next) && next <= Backoff::default().min);
    }

    proptest! {
        #[test]
        fn waits_grow_to_the_maximum_and_never_pass_it(min in 1_u64..5_000, extra in 0_u64..60_000) {
            let backoff = Backoff {
                min: Duration::from_millis(min),
                max: Duration::from_millis(min + extra),
            };
            let mut waits = backoff.waits();

            let drawn: Vec<_> = (0..40).map(|_| waits.next_wait()).collect();

            prop_assert!(drawn.iter().all(|wait| *wait <= backoff.max && *wait >= backoff.min / 2));
            prop_assert!(drawn[39] >= backoff.max / 2);
        }
    }
}
