//! The settings of a pipeline.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::batch;

/// Bounds, waits and time-outs of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Limits {
    /// Number of tasks that run side by side; 0 to 256. With 0 there is one for each core.
    pub lanes: usize,
    /// Maximum number of messages that are received but not yet settled; 1 to 1,000,000. It must be
    /// larger than the number of messages in open batches.
    pub max_messages_in_flight: usize,
    /// Maximum bytes of messages in memory that are not yet settled; 1 to 4 GiB.
    pub max_bytes_in_flight: usize,
    /// Maximum bytes of all batches, both open ones and those being written; 1 to 64 GiB. Icestore
    /// keeps no original messages, so there the data needed to acknowledge them counts too.
    pub max_batch_memory: usize,
    /// Maximum number of messages that wait for one lane; 1 to 1,000,000. They count as messages in
    /// flight. While the queue of a lane is full, no lane gets a message.
    pub max_queue: usize,
    /// Maximum number of concurrent writes in one lane; 1 to 1000.
    pub max_writes: usize,
    /// Limits at which a batch is written.
    pub batch: batch::BatchLimits,
    /// Longest duration of one attempt; above zero, at most 1h. A write gets one more second for
    /// each MiB. After each time-out that extra time doubles, so that a slow link is slow but still
    /// works. A dead letter gets at most 30s of it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub attempt_timeout: Duration,
    /// Waits between attempts.
    pub retry: Backoff,
    /// File that records the message or batch that each lane works on. A message that was being
    /// processed at three unclean process ends in a row becomes a dead letter with the reason
    /// `crashed`. Messages of a batch are first put into smaller batches, then each into its own.
    /// The file must outlive the process, as an `emptyDir` does, and must belong to this process
    /// alone. With this file a batch has at most 10,000 messages. Without it nothing is recorded.
    pub crash_file: Option<PathBuf>,
    /// Time without a sign of life after which a task makes the process unhealthy; 1s to 1d.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub stall_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lanes: 0,
            max_messages_in_flight: 10_000,
            max_bytes_in_flight: 64 * 1024 * 1024,
            max_batch_memory: 64 * 1024 * 1024,
            max_queue: 256,
            max_writes: 4,
            batch: batch::BatchLimits::default(),
            attempt_timeout: Duration::from_secs(30),
            retry: Backoff::default(),
            crash_file: None,
            stall_after: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Returns how long before the end of a long lease a batch is written: the time for two attempts.
    #[must_use]
    pub fn lease_margin(&self) -> Duration {
        self.attempt_timeout.saturating_mul(2)
    }

    /// Returns the faults in these settings, as pairs of a key and its valid range.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        const GIB: usize = 1024 * 1024 * 1024;
        let hour = Duration::from_secs(3600);
        let day = 24 * hour;
        let batch = &self.batch;
        let messages = 1..=1_000_000;
        let waits = Duration::from_nanos(1)..=hour;
        let checks = [
            (self.lanes <= 256, "lanes", "0 to 256"),
            (
                messages.contains(&self.max_messages_in_flight),
                "max_messages_in_flight",
                "1 to 1000000",
            ),
            (
                (1..=4 * GIB).contains(&self.max_bytes_in_flight),
                "max_bytes_in_flight",
                "1 to 4294967296 (4 GiB)",
            ),
            (
                (1..=64 * GIB).contains(&self.max_batch_memory),
                "max_batch_memory",
                "1 to 68719476736 (64 GiB)",
            ),
            (messages.contains(&self.max_queue), "max_queue", "1 to 1000000"),
            ((1..=1000).contains(&self.max_writes), "max_writes", "1 to 1000"),
            (messages.contains(&batch.max_messages), "batch.max_messages", "1 to 1000000"),
            ((1..=GIB).contains(&batch.max_bytes), "batch.max_bytes", "1 to 1073741824 (1 GiB)"),
            (batch.max_age <= day, "batch.max_age", "at most 1d"),
            (batch.max_idle <= day, "batch.max_idle", "at most 1d"),
            (waits.contains(&self.attempt_timeout), "attempt_timeout", "above zero, at most 1h"),
            (waits.contains(&self.retry.min), "retry.min", "above zero, at most 1h"),
            (self.retry.max >= self.retry.min, "retry.max", "at least retry.min"),
            (self.retry.max <= hour, "retry.max", "at most 1h"),
            ((Duration::from_secs(1)..=day).contains(&self.stall_after), "stall_after", "1s to 1d"),
        ];
        checks.into_iter().filter(|(ok, ..)| !ok).map(|(_, key, right)| (key, right)).collect()
    }

    /// Number of tasks that run side by side.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.lanes == 0 { cores() } else { self.lanes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: usize = 1024 * 1024 * 1024;
    const NANOSECOND: Duration = Duration::from_nanos(1);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Lowest limits that are allowed.
    fn lowest() -> Limits {
        Limits {
            lanes: 0,
            max_messages_in_flight: 1,
            max_bytes_in_flight: 1,
            max_batch_memory: 1,
            max_queue: 1,
            max_writes: 1,
            batch: batch::BatchLimits {
                max_messages: 1,
                max_bytes: 1,
                max_age: Duration::ZERO,
                max_idle: Duration::ZERO,
            },
            attempt_timeout: NANOSECOND,
            retry: Backoff { min: NANOSECOND, max: NANOSECOND },
            crash_file: None,
            stall_after: SECOND,
        }
    }

    /// Highest limits that are allowed.
    fn highest() -> Limits {
        Limits {
            lanes: 256,
            max_messages_in_flight: 1_000_000,
            max_bytes_in_flight: 4 * GIB,
            max_batch_memory: 64 * GIB,
            max_queue: 1_000_000,
            max_writes: 1000,
            batch: batch::BatchLimits {
                max_messages: 1_000_000,
                max_bytes: GIB,
                max_age: DAY,
                max_idle: DAY,
            },
            attempt_timeout: HOUR,
            retry: Backoff { min: HOUR, max: HOUR },
            crash_file: None,
            stall_after: DAY,
        }
    }

    #[test]
    fn limits_are_right_up_to_their_bounds() {
        for limits in [Limits::default(), lowest(), highest()] {
            assert_eq!(limits.faults(), []);
        }
    }

    #[test]
    fn each_limit_below_its_bound_is_named() {
        let limits = Limits {
            max_messages_in_flight: 0,
            max_bytes_in_flight: 0,
            max_batch_memory: 0,
            max_queue: 0,
            max_writes: 0,
            batch: batch::BatchLimits { max_messages: 0, max_bytes: 0, ..lowest().batch },
            attempt_timeout: Duration::ZERO,
            retry: Backoff { min: Duration::ZERO, max: Duration::ZERO },
            stall_after: SECOND - NANOSECOND,
            ..lowest()
        };

        assert_eq!(
            limits.faults(),
            [
                ("max_messages_in_flight", "1 to 1000000"),
                ("max_bytes_in_flight", "1 to 4294967296 (4 GiB)"),
                ("max_batch_memory", "1 to 68719476736 (64 GiB)"),
                ("max_queue", "1 to 1000000"),
                ("max_writes", "1 to 1000"),
                ("batch.max_messages", "1 to 1000000"),
                ("batch.max_bytes", "1 to 1073741824 (1 GiB)"),
                ("attempt_timeout", "above zero, at most 1h"),
                ("retry.min", "above zero, at most 1h"),
                ("stall_after", "1s to 1d"),
            ]
        );
    }

    #[test]
    fn each_limit_above_its_bound_is_named() {
        let limits = Limits {
            lanes: 257,
            max_messages_in_flight: 1_000_001,
            max_bytes_in_flight: 4 * GIB + 1,
            max_batch_memory: 64 * GIB + 1,
            max_queue: 1_000_001,
            max_writes: 1001,
            batch: batch::BatchLimits {
                max_messages: 1_000_001,
                max_bytes: GIB + 1,
                max_age: DAY + NANOSECOND,
                max_idle: DAY + NANOSECOND,
            },
            attempt_timeout: HOUR + NANOSECOND,
            retry: Backoff { min: HOUR + 2 * NANOSECOND, max: HOUR + NANOSECOND },
            crash_file: None,
            stall_after: DAY + NANOSECOND,
        };

        assert_eq!(
            limits.faults(),
            [
                ("lanes", "0 to 256"),
                ("max_messages_in_flight", "1 to 1000000"),
                ("max_bytes_in_flight", "1 to 4294967296 (4 GiB)"),
                ("max_batch_memory", "1 to 68719476736 (64 GiB)"),
                ("max_queue", "1 to 1000000"),
                ("max_writes", "1 to 1000"),
                ("batch.max_messages", "1 to 1000000"),
                ("batch.max_bytes", "1 to 1073741824 (1 GiB)"),
                ("batch.max_age", "at most 1d"),
                ("batch.max_idle", "at most 1d"),
                ("attempt_timeout", "above zero, at most 1h"),
                ("retry.min", "above zero, at most 1h"),
                ("retry.max", "at least retry.min"),
                ("retry.max", "at most 1h"),
                ("stall_after", "1s to 1d"),
            ]
        );
    }

    #[test]
    fn without_a_number_there_is_a_lane_for_each_core() {
        let cores = std::thread::available_parallelism().unwrap().get();

        assert_eq!(Limits { lanes: 0, ..lowest() }.lane_count(), cores);
        assert_eq!(Limits { lanes: 3, ..lowest() }.lane_count(), 3);
    }
}
