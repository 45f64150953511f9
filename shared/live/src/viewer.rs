//! Viewer of the state.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::poll::Latest;
use crate::rights::Rights;

/// Viewer of the state. It gets the latest state, also if it was too slow for those between.
pub(crate) struct StateViewer {
    latest: watch::Receiver<Arc<Latest>>,
    closing: watch::Receiver<()>,
    rights: Rights,
    /// Beginning of each event.
    head: Bytes,
    /// End of the event whose beginning was sent.
    rest: Option<Bytes>,
    is_new: bool,
    _permit: OwnedSemaphorePermit,
}

impl StateViewer {
    pub(crate) fn new(
        latest: watch::Receiver<Arc<Latest>>,
        closing: watch::Receiver<()>,
        rights: Rights,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        // Flags always have a form in JSON.
        let json = serde_json::to_string(&rights).unwrap_or_default();
        let head = Bytes::from(format!("event: state\ndata: {{\"rights\":{json},"));
        Self { latest, closing, rights, head, rest: None, is_new: true, _permit: permit }
    }

    /// Waits for the next part of an event. Returns `None` when the server ends.
    pub(crate) async fn step(mut self) -> Option<(Bytes, Self)> {
        if let Some(rest) = self.rest.take() {
            return Some((rest, self));
        }
        loop {
            if !std::mem::take(&mut self.is_new) {
                tokio::select! {
                    changed = self.latest.changed() => changed.ok()?,
                    _ = self.closing.changed() => return None,
                }
            }
            let latest = Arc::clone(&self.latest.borrow_and_update());
            let rest =
                if self.rights.payload { &latest.with_payloads } else { &latest.without_payloads };
            // It is empty before the first look at the services.
            if !rest.is_empty() {
                self.rest = Some(rest.clone());
                return Some((self.head.clone(), self));
            }
        }
    }
}
