//! Plans the work on a message within its lease.
//!
//! A lease is short if a client waits for the outcome, as that of an HTTP request does. The leases of
//! Pub/Sub are long: its settings keep them so. For a short lease three things differ:
//!
//! - Its batch is written after half of the lease at the latest.
//! - Attempts are made as long as the lease lasts. The last one is cut.
//! - The message is nacked before the lease ends, so that the source can still answer its client. If
//!   other messages of its batch have more time, the batch goes on without it. Such a nack does not
//!   hold up later messages of its ordering key, because the record may still be written before
//!   them.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Limits, Settlement};

/// Time reserved at the end of a short lease, for the hold before a nack and for the answer to the
/// client. It is at most a third of the lease.
const RESERVE: Duration = Duration::from_secs(1);

/// Times that follow from the lease of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeasePlan {
    /// The source never delivers the message again by itself.
    Endless,
    /// The source redelivers the message at the end.
    Long {
        /// End of the lease.
        end: Instant,
    },
    /// A client waits until the end.
    Short {
        /// Time when its batch must be written.
        write_at: Instant,
        /// Time when the message is given up.
        give_up_at: Instant,
    },
}

/// Time by which a series of attempts must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// End of the series. `None` if it has no end.
    pub end: Option<Instant>,
    /// Time that must be left for another attempt. An attempt gets that time even if less is left.
    /// Zero for a short lease.
    pub attempt_time: Duration,
}

impl LeasePlan {
    pub(crate) fn of(settlement: &Settlement) -> Self {
        let Some(end) = settlement.lease_end() else { return Self::Endless };
        if !settlement.has_client() {
            return Self::Long { end };
        }
        let length = end.saturating_duration_since(settlement.arrived());
        Self::Short { write_at: end - length / 2, give_up_at: end - RESERVE.min(length / 3) }
    }

    /// Returns the time when a batch with the message must be written.
    pub(crate) fn write_at(self, limits: &Limits) -> Option<Instant> {
        match self {
            Self::Endless => None,
            Self::Long { end } => {
                Some(end.checked_sub(limits.lease_margin()).unwrap_or_else(Instant::now))
            }
            Self::Short { write_at, .. } => Some(write_at),
        }
    }

    /// Returns the time by which all work on the message must end.
    pub(crate) fn deadline(self, attempt_timeout: Duration) -> Deadline {
        match self {
            Self::Endless => Deadline { end: None, attempt_time: attempt_timeout },
            Self::Long { end } => Deadline { end: Some(end), attempt_time: attempt_timeout },
            Self::Short { give_up_at, .. } => {
                Deadline { end: Some(give_up_at), attempt_time: Duration::ZERO }
            }
        }
    }
}

impl Deadline {
    /// Returns the deadline of a batch whose messages have these leases. Also returns the first time
    /// when one of its messages must be nacked while the batch goes on.
    ///
    /// A short lease does not end the batch while it has a message with another lease, or with a
    /// later short one. Otherwise a client that waits no longer would give back messages of others.
    pub(crate) fn of_batch(
        leases: impl IntoIterator<Item = LeasePlan>,
        attempt_timeout: Duration,
    ) -> (Self, Option<Instant>) {
        let (mut end, mut is_short): (Option<Instant>, _) = (None, true);
        let (mut first_short, mut last_short): (Option<Instant>, Option<Instant>) = (None, None);
        for lease in leases {
            match lease {
                LeasePlan::Endless => is_short = false,
                LeasePlan::Long { end: at } => {
                    is_short = false;
                    end = Some(end.map_or(at, |earlier| earlier.min(at)));
                }
                LeasePlan::Short { give_up_at: at, .. } => {
                    first_short = Some(first_short.map_or(at, |earlier| earlier.min(at)));
                    last_short = last_short.max(Some(at));
                }
            }
        }
        if is_short && last_short.is_some() {
            let first = first_short.filter(|first| last_short > Some(*first));
            return (Self { end: last_short, attempt_time: Duration::ZERO }, first);
        }
        (Self { end, attempt_time: attempt_timeout }, first_short)
    }

    /// Shortens a time limit to the end, but not below the time of an attempt.
    pub(crate) fn within(self, limit: Duration) -> Duration {
        let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(limit, |left| limit.min(left.max(self.attempt_time)))
    }

    /// Returns true if an attempt may end at its end, even if it has begun just before.
    pub(crate) fn is_short(self) -> bool {
        self.attempt_time.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(lease: Duration) -> LeasePlan {
        let settlement = Settlement::new(drop, Some(Instant::now() + lease)).with_client();
        LeasePlan::of(&settlement)
    }

    fn long(lease: Duration) -> LeasePlan {
        LeasePlan::of(&Settlement::new(drop, Some(Instant::now() + lease)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_short_if_a_client_waits_however_long_it_is() {
        let now = Instant::now();

        for lease in [SECOND / 10, 2 * SECOND, 10 * SECOND, 3600 * SECOND] {
            assert_eq!(long(lease), LeasePlan::Long { end: now + lease });
        }
        for (lease, write_at, give_up_at) in [
            (SECOND * 3 / 10, SECOND * 15 / 100, SECOND * 2 / 10),
            (2 * SECOND, SECOND, 2 * SECOND - 2 * SECOND / 3),
            (10 * SECOND, 5 * SECOND, 9 * SECOND),
            (1000 * SECOND, 500 * SECOND, 999 * SECOND),
        ] {
            let expected =
                LeasePlan::Short { write_at: now + write_at, give_up_at: now + give_up_at };
            assert_eq!(plan(lease), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_ends_with_its_first_long_lease_or_with_the_last_short_one() {
        let now = Instant::now();
        let of = |leases: &[LeasePlan]| Deadline::of_batch(leases.iter().copied(), 30 * SECOND);
        let endless = LeasePlan::Endless;
        let [ten, twenty] = [10, 20].map(|count| plan(count * SECOND));
        let [hundred, thousand] = [100, 1000].map(|count| long(count * SECOND));
        let long = |end| Deadline { end, attempt_time: 30 * SECOND };
        let short = |end| Deadline { end: Some(end), attempt_time: Duration::ZERO };

        assert_eq!(of(&[endless]), (long(None), None));
        assert_eq!(of(&[thousand, endless, hundred]), (long(Some(now + 100 * SECOND)), None));
        assert_eq!(of(&[ten]), (short(now + 9 * SECOND), None));
        assert_eq!(of(&[ten, ten]), (short(now + 9 * SECOND), None));
        assert_eq!(of(&[twenty, ten]), (short(now + 19 * SECOND), Some(now + 9 * SECOND)));
        assert_eq!(of(&[twenty, endless, ten]), (long(None), Some(now + 9 * SECOND)));
        let with_long = (long(Some(now + 100 * SECOND)), Some(now + 19 * SECOND));
        assert_eq!(of(&[hundred, twenty]), with_long);
    }
}
