//! Nacks messages whose short leases end while their batches wait for a free write.

use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use crate::dead_letter::DeadLetters;
use crate::lease_plan::LeasePlan;
use crate::write;
use crate::{Event, Sink, Transform};

/// Minimum time between two looks at all waiting messages. Their leases may end one after another.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Notes the lease of a message that has joined an open batch.
    pub(super) fn note_short_lease(&mut self, lease: LeasePlan) {
        if let LeasePlan::Short { give_up_at: at, .. } = lease {
            self.give_up_at = Some(self.give_up_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Nacks the messages whose short leases end now. Their records stay in their batches, but a
    /// batch for which nobody waits is not written.
    pub(super) fn nack_early(&mut self) {
        let now = Instant::now();
        if self.give_up_at.is_none_or(|at| at > now) {
            return;
        }
        let open = self.open.iter_mut().flat_map(|open| &mut open.entries);
        let closed = self.closed.iter_mut().flat_map(|closed| &mut closed.entries);
        let next = write::nack_early(open.chain(closed), &self.shared);
        self.give_up_at = next.map(|next| next.max(now + LOOK_INTERVAL));
    }
}
