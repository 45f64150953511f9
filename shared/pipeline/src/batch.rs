//! When a batch is written.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a batch is written: at the first limit it reaches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Limits {
    /// Most messages in one batch; 1 to 1,000,000.
    pub max_messages: usize,
    /// Most encoded bytes in one batch; 1 to 1 GiB. A single larger record stands alone.
    pub max_bytes: usize,
    /// Longest wait of the first message in a batch, measured by a clock of its own; at most 1d.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_age: Duration,
    /// How long a lane may have nothing to take in before it writes what is open. Zero writes as
    /// soon as nothing more is at hand: batches then grow only while writes are under way. At most 1d.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_messages: 1000,
            max_bytes: 4 * 1024 * 1024,
            max_age: Duration::from_secs(1),
            max_idle: Duration::ZERO,
        }
    }
}

/// Which limit a batch reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Cause {
    /// It held as many messages as allowed.
    Count,
    /// It held as many encoded bytes as allowed.
    Bytes,
    /// Its oldest record had waited long enough.
    Age,
    /// Nothing more came in.
    Idle,
    /// All batches together held too much, or the bound on messages in flight was reached.
    Memory,
    /// The lease of one of its messages was about to end.
    Lease,
    /// The pipeline is draining.
    Shutdown,
}

impl Cause {
    /// All of them.
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
