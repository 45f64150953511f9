//! The layers that a lookup asks, with what they share.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::Freshness;
use super::breaker::Breaker;
use super::memory::Memory;
use super::redis::Redis;
use super::single_flight::SingleFlight;
use crate::metrics::Metrics;

/// State that all lookups share.
pub(super) struct Layers<F> {
    pub memory: Memory,
    pub redis: Option<Redis>,
    pub redis_breaker: Breaker,
    /// Breaker for writes only, because a server that refuses writes may still answer reads.
    pub redis_writes: Breaker,
    pub source: F,
    pub source_breaker: Breaker,
    pub freshness: Freshness,
    pub reads: SingleFlight,
    pub metrics: Metrics,
    /// Key that the source failed to answer. The probe asks for it when no message does.
    pub unanswered: Mutex<Option<Arc<str>>>,
    /// Set when no more reads may start.
    pub closing: watch::Sender<bool>,
}
