//! Draws the times of faults from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// One fault at one time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// Begin, counted from the start of the load.
    pub at: Duration,
    /// Index of the fault.
    pub fault: usize,
    /// Duration of the fault.
    pub lasts: Duration,
    /// Random number for choices inside the fault.
    pub choice: u32,
}

/// Milliseconds between the beginnings of two faults. Faults last longer than that, so they
/// overlap.
const GAP_MILLIS: std::ops::Range<u64> = 500..2_500;
const LASTS_MILLIS: std::ops::Range<u64> = 1_000..6_000;

/// Draws events for `length`. All `count` faults happen once before one of them happens again.
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

/// Time before the first long fault, and between two long faults.
pub(super) const LONG_GAP: Duration = Duration::from_secs(10);

/// Draws long faults for `length`, one after another. `lasts` holds the duration of each. A fault
/// that would end too late is left out.
pub(super) fn draw_long(seed: u64, length: Duration, lasts: &[Duration]) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut round: Vec<usize> = (0..lasts.len()).collect();
    round.shuffle(&mut random);
    let mut events = Vec::new();
    let mut at = LONG_GAP;
    for fault in round.into_iter().cycle() {
        let lasts = lasts[fault];
        if at + lasts > length {
            return events;
        }
        events.push(Event { at, fault, lasts, choice: random.random() });
        at += lasts + LONG_GAP;
    }
    events
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

    #[test]
    fn long_faults_follow_one_another_and_end_in_time() {
        let minute = Duration::from_secs(60);

        let events = draw_long(7, minute * 5, &[minute, minute]);

        assert_eq!(events.len(), 4);
        assert!(events.windows(2).all(|pair| pair[1].at >= pair[0].at + pair[0].lasts));
        assert!(events.iter().all(|event| event.at + event.lasts <= minute * 5));
        assert_eq!(draw_long(7, minute, &[minute]), []);
        assert_eq!(draw_long(7, minute, &[]), []);
    }
}
