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
