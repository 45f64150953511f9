//! Hops as events for a browser.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout};

use super::{Ready, Tapping, Watching};
use crate::events::{KEEP_ALIVE, event};

/// Time after which a stream without events sends a comment.
const SILENCE: Duration = Duration::from_secs(10);

/// Form in which hops are shown.
pub(crate) enum Show {
    /// Some of them, as events `sample`.
    Samples(Samples, Tapping),
    /// All of them, as events `hop`, after an event `ready`.
    Hops,
}

/// Samples that a viewer may still get.
#[derive(Debug)]
pub(crate) struct Samples {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Samples {
    pub(crate) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: per_second, at: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let gained = (now - self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = ((self.left + gained).min(self.per_second), now);
        let may_pass = self.left >= 1.0;
        if may_pass {
            self.left -= 1.0;
        }
        may_pass
    }
}

/// Viewer of hops.
pub(crate) struct HopViewer {
    watching: Watching,
    closing: watch::Receiver<()>,
    show: Show,
    pending: VecDeque<Bytes>,
    is_new: bool,
    _permit: OwnedSemaphorePermit,
}

impl HopViewer {
    pub(crate) fn new(
        watching: Watching,
        closing: watch::Receiver<()>,
        show: Show,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let pending = VecDeque::from([KEEP_ALIVE]);
        Self { watching, closing, show, pending, is_new: true, _permit: permit }
    }

    /// Waits for the next event. Returns `None` when the server ends.
    pub(crate) async fn step(mut self) -> Option<(Bytes, Self)> {
        let mut closing = self.closing.clone();
        let bytes = tokio::select! {
            bytes = self.next() => bytes?,
            _ = closing.changed() => return None,
        };
        Some((bytes, self))
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(pending) = self.pending.pop_front() {
            return Some(pending);
        }
        if std::mem::take(&mut self.is_new) && matches!(self.show, Show::Hops) {
            return Some(ready(&self.watching.ready().await));
        }
        loop {
            let dropped = self.watching.take_dropped();
            if dropped > 0 {
                if let Show::Samples(_, tapping) = &self.show {
                    tapping.count_dropped(dropped);
                }
                return Some(event("lost", &json!({ "dropped": dropped }).to_string()));
            }
            let Ok(hop) = timeout(SILENCE, self.watching.next()).await else {
                return Some(KEEP_ALIVE);
            };
            let hop = serde_json::Value::Object(hop?).to_string();
            match &mut self.show {
                Show::Hops => return Some(event("hop", &hop)),
                Show::Samples(samples, _) => {
                    if samples.take() {
                        return Some(event("sample", &hop));
                    }
                }
            }
        }
    }
}

fn ready(ready: &Ready) -> Bytes {
    let missing = ready.missing.iter().map(|(replica, why)| json!({ "replica": replica, "why": why }));
    let missing: Vec<_> = missing.collect();
    event("ready", &json!({ "replicas": ready.replicas, "missing": missing }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_has_so_many_samples() {
        let mut samples = Samples::new(10);
        let mut count = || (0..100).filter(|_| samples.take()).count();

        assert_eq!(count(), 10);
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(count(), 3);
    }
}
