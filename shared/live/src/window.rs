//! Growth of a stage's numbers within the last minute.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::samples::{Counts, Sample};

/// Time that is kept.
const KEPT: Duration = Duration::from_secs(60);
/// Time over which rates are averaged.
const RATE: Duration = Duration::from_secs(5);
/// Time over which a stage is judged to fall behind.
pub(crate) const TREND: Duration = Duration::from_secs(10);

/// Numbers of all replicas of a stage, and their past.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Last numbers of each replica, by its address.
    last: BTreeMap<String, Counts>,
    /// Sum over all replicas, also over those that are gone.
    total: Counts,
    /// Growth since the page server saw each replica first.
    grown: Counts,
    past: VecDeque<Moment>,
}

/// Numbers at one time.
#[derive(Debug, Clone)]
struct Moment {
    at: Instant,
    grown: Counts,
    backlog: Option<u64>,
    oldest_seconds: f64,
}

impl Window {
    /// Takes the numbers of a replica.
    pub(crate) fn take(&mut self, address: &str, sample: &Sample) {
        let counts = &sample.counts;
        let growth = match self.last.insert(address.to_owned(), counts.clone()) {
            Some(before) => {
                let growth = counts.since(&before);
                self.grown = self.grown.plus(&growth);
                growth
            }
            None => counts.clone(),
        };
        self.total = self.total.plus(&growth);
    }

    /// Ends a look at all replicas.
    pub(crate) fn end_look(&mut self, at: Instant, backlog: Option<u64>, oldest_seconds: f64) {
        self.past.push_back(Moment { at, grown: self.grown.clone(), backlog, oldest_seconds });
        while self.past.front().is_some_and(|first| at - first.at > KEPT) {
            self.past.pop_front();
        }
    }

    pub(crate) fn total(&self) -> &Counts {
        &self.total
    }

    pub(crate) fn grown(&self) -> &Counts {
        &self.grown
    }

    /// Returns the growth of the last minute.
    pub(crate) fn last_minute(&self) -> Counts {
        self.past.front().map_or_else(Counts::default, |first| self.grown.since(&first.grown))
    }

    /// Returns how much a number grows in a second.
    pub(crate) fn rate(&self, number: impl Fn(&Counts) -> u64) -> f64 {
        let (Some(last), Some(first)) = (self.past.back(), self.before(RATE)) else { return 0.0 };
        let seconds = (last.at - first.at).as_secs_f64();
        let growth = number(&last.grown).saturating_sub(number(&first.grown));
        if seconds > 0.0 { growth as f64 / seconds } else { 0.0 }
    }

    /// Returns how much the backlog and the oldest age have grown lately: messages, and seconds.
    pub(crate) fn trend(&self) -> Trend {
        let (Some(last), Some(first)) = (self.past.back(), self.before(TREND)) else {
            return Trend::default();
        };
        let backlog = |moment: &Moment| moment.backlog.unwrap_or_default() as f64;
        Trend {
            messages: backlog(last) - backlog(first),
            seconds: last.oldest_seconds - first.oldest_seconds,
        }
    }

    /// Returns the oldest moment that is not longer ago than this.
    fn before(&self, time: Duration) -> Option<&Moment> {
        let last = self.past.back()?;
        self.past.iter().find(|moment| last.at - moment.at <= time)
    }
}

/// Growth of what waits for a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Trend {
    pub messages: f64,
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(received: u64) -> Sample {
        let counts = Counts { received, ..Counts::default() };
        Sample { counts, ..Sample::default() }
    }

    #[test]
    fn a_rate_counts_the_growth_of_all_replicas_and_not_their_past() {
        let (mut window, begun) = (Window::default(), Instant::now());
        let look = |window: &mut Window, second: u64, replicas: &[(&str, u64)]| {
            for (address, received) in replicas {
                window.take(address, &sample(*received));
            }
            window.end_look(begun + Duration::from_secs(second), None, 0.0);
        };

        look(&mut window, 0, &[("a", 1000)]);
        look(&mut window, 1, &[("a", 1010), ("b", 500)]);
        assert!((window.rate(|counts| counts.received) - 10.0).abs() < 1e-9);
        assert_eq!((window.total().received, window.grown().received), (1510, 10));

        look(&mut window, 2, &[("a", 3), ("b", 507)]);
        assert_eq!(window.grown().received, 20, "one was started again");
        look(&mut window, 70, &[("b", 507)]);
        assert_eq!(window.last_minute().received, 0);
        assert_eq!(window.rate(|counts| counts.received), 0.0);
        assert_eq!(window.total().received, 1520, "what a replica did stays when it is gone");
    }
}
