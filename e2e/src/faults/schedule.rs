//! When which fault happens, drawn from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// One fault at one time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// When it begins, after the start of the load.
    pub at: Duration,
    /// Which of the faults.
    pub fault: usize,
    /// How long it lasts.
    pub lasts: Duration,
    /// What else there is to choose.
    pub choice: u32,
}

/// Between the beginnings of two faults, in milliseconds; they last longer than that, so they overlap.
const GAP_MILLIS: std::ops::Range<u64> = 500..2_500;
const LASTS_MILLIS: std::ops::Range<u64> = 1_000..6_000;

/// Draws events for `length`. Each of `count` faults happens once before one happens again.
pub(super) fn draw(seed: u64, length: Duration, count: usize) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut events = Vec::new();
    let mut at = Duration::ZERO;
    let mut round: Vec<usize> = Vec::new();
    loop {
        at += Duration::from_millis(random.random_range(GAP_MILLIS));
        if count == 0 || at >= length {
            return events;
        }
        if round.is_empty() {
            round.extend(0..count);
            round.shuffle(&mut random);
        }
        let lasts = Duration::from_millis(random.random_range(LASTS_MILLIS));
        let choice = random.random();
        events.extend(round.pop().map(|fault| Event { at, fault, lasts, choice }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_again_and_each_once_a_round() {
        let events = draw(7, Duration::from_secs(60), 5);

        assert_eq!(events, draw(7, Duration::from_secs(60), 5));
        assert_ne!(events, draw(8, Duration::from_secs(60), 5));
        let mut first: Vec<_> = events[..5].iter().map(|event| event.fault).collect();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3, 4]);
        assert!(events.is_sorted_by_key(|event| event.at));
        assert_eq!(draw(7, Duration::from_secs(60), 0), []);
    }
}
