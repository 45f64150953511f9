//! Reads, replaces and drops backlogs, for snapshots, seek and detach.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Pending, Stored, Subscription};

impl Subscription {
    /// Returns all unacknowledged messages in the order of publishing.
    pub(in super::super) fn backlog(&self) -> Vec<Arc<Stored>> {
        let state = self.lock();
        let out = state.leases.values().map(|lease| &lease.pending);
        let waiting = state.queue.pending().chain(state.delayed.values());
        let all = waiting.chain(out).map(|pending| (pending.message.sequence, &pending.message));
        all.collect::<BTreeMap<_, _>>().into_values().cloned().collect()
    }

    /// Replaces the backlog: exactly the wanted messages become unacknowledged.
    ///
    /// They come from the subscription itself and from the messages that the topic has kept. A
    /// leased message that is still wanted stays leased. With ordering it is delivered again,
    /// because earlier messages of its key may be in the backlog again.
    pub(in super::super) fn seek(
        &self,
        is_wanted: impl Fn(&Stored) -> bool,
        kept: Vec<Arc<Stored>>,
    ) {
        let mut state = self.lock();
        let is_ordered = state.config.enable_message_ordering;
        let ended = state
            .leases
            .iter()
            .filter(|(_, lease)| is_ordered || !is_wanted(&lease.pending.message));
        let ended: Vec<_> = ended.map(|(number, _)| *number).collect();
        let mut waiting: Vec<_> =
            ended.into_iter().filter_map(|number| state.end_lease(number)).collect();
        waiting.extend(state.queue.drain());
        waiting.extend(std::mem::take(&mut state.delayed).into_values());
        let mut wanted = BTreeMap::new();
        for pending in waiting.into_iter().filter(|pending| is_wanted(&pending.message)) {
            wanted.insert(pending.message.sequence, pending);
        }
        let out: HashSet<_> =
            state.leases.values().map(|lease| lease.pending.message.sequence).collect();
        for message in kept {
            let is_new = !out.contains(&message.sequence) && self.lets_pass(&message);
            if is_new && is_wanted(&message) {
                let sequence = message.sequence;
                wanted.entry(sequence).or_insert(Pending { message, attempts: 0 });
            }
        }
        for pending in wanted.into_values() {
            state.queue.push(pending, is_ordered);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Drops the backlog, and stops all further delivery.
    pub(in super::super) fn detach(&self) {
        self.seek(|_| false, Vec::new());
        self.configure(|config| config.detached = true);
        self.changed.notify_waiters();
    }
}
