//! Times of Firestore.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// A time in whole microseconds, the resolution of Firestore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    micros: i64,
}

impl Time {
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { micros: i64::try_from(since.as_micros()).unwrap_or(i64::MAX) }
    }

    /// Rounds down to a microsecond.
    pub(super) fn of(timestamp: &Timestamp) -> Self {
        let micros = timestamp.seconds.saturating_mul(1_000_000);
        Self { micros: micros.saturating_add(i64::from(timestamp.nanos / 1000)) }
    }

    /// Returns the time one microsecond later.
    pub(super) fn next(self) -> Self {
        Self { micros: self.micros + 1 }
    }

    /// Rounds down to a millisecond, the resolution of server timestamps.
    pub(super) fn millis(self) -> Self {
        Self { micros: self.micros.div_euclid(1000) * 1000 }
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.micros.to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self { micros: i64::from_be_bytes(bytes) }
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        let nanos = time.micros.rem_euclid(1_000_000) * 1000;
        let nanos = i32::try_from(nanos).unwrap_or_default();
        Self { seconds: time.micros.div_euclid(1_000_000), nanos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_rounded_down_and_come_back_whole() {
        for (seconds, nanos, micros, millis) in [
            (1, 999_999_999, 1_999_999, 1_999_000),
            (-1, 999_999_999, -1, -1_000),
            (-2, 1_500, -1_999_999, -2_000_000),
        ] {
            let time = Time::of(&Timestamp { seconds, nanos });

            assert_eq!((time.micros, time.millis().micros), (micros, millis));
            let back = Timestamp::from(time);
            assert_eq!((back.seconds, back.nanos), (seconds, nanos / 1000 * 1000));
            assert_eq!(Time::from_bytes(time.to_bytes()), time);
            assert!(time.next() > time);
        }
    }
}
