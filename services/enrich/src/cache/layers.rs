//! The layers that a lookup asks, with what they share.

use std::sync::{Arc, Mutex};

use pipeline::catch_async;
use tokio::sync::watch;

use super::breaker::Breaker;
use super::memory::Memory;
use super::redis::Redis;
use super::single_flight::SingleFlight;
use super::{Document, Fetch, Freshness, LayerError};
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

impl<F: Fetch> Layers<F> {
    /// Reads documents from the source. A source that panics has failed, so its keys are read again.
    pub(super) async fn fetch(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<Option<Document>>, LayerError> {
        let fetched = catch_async("fetch", async { Ok(self.source.fetch(keys).await) }).await;
        let panicked = |panic: pipeline::Error| {
            Err(LayerError(format!("the source panicked: {}", panic.detail())))
        };
        fetched.unwrap_or_else(panicked)
    }
}
