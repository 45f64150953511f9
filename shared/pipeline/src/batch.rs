//! Limits at which a batch is written.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits at which a batch is written. The first limit that it reaches counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct BatchLimits {
    /// Maximum number of messages in one batch; 1 to 1,000,000.
    pub max_messages: usize,
    /// Maximum encoded bytes in one batch; 1 to 1 GiB. A single larger record gets its own batch.
    pub max_bytes: usize,
    /// Longest wait of the first message in a batch; at most 1d. Each batch has its own clock.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_age: Duration,
    /// Time without a new message after which a lane writes its open batches; at most 1d. With zero
    /// it writes as soon as no more messages are ready. Batches then grow only while writes are
    /// under way.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_idle: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            max_messages: 1000,
            max_bytes: 4 * 1024 * 1024,
            max_age: Duration::from_secs(1),
            max_idle: Duration::ZERO,
        }
    }
}

/// Reason why a batch is flushed: the limit that it reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum FlushReason {
    /// The batch held the maximum number of messages.
    Count,
    /// The batch held the maximum number of encoded bytes.
    Bytes,
    /// The oldest record had waited for the maximum time.
    Age,
    /// No more messages came in.
    Idle,
    /// All batches together used too much memory, or the bound on messages in flight was reached.
    Memory,
    /// The lease of a message in the batch was about to end.
    Lease,
    /// The pipeline is draining.
    Shutdown,
}

impl FlushReason {
    /// All reasons.
    pub(crate) const ALL: [Self; 7] = [
        Self::Count,
        Self::Bytes,
        Self::Age,
        Self::Idle,
        Self::Memory,
        Self::Lease,
        Self::Shutdown,
    ];
}
