//! Acks or nacks that wait until they are sent.

use std::collections::VecDeque;
use std::mem;

use tokio::time::Instant;

/// Numbers of the leases whose acks, or nacks, are not under way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) ready: VecDeque<u64>,
    /// Time when the ready ones are sent, even if they do not fill a request.
    pub(super) send_at: Option<Instant>,
    /// Those that failed, with the times of their next attempts.
    pub(super) again: VecDeque<(Instant, u64)>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.again.is_empty()
    }

    /// Returns the time when some are sent.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let again = self.again.front().map(|(at, _)| *at);
        [self.send_at, again].into_iter().flatten().min()
    }

    /// Takes the answers of the next request, if one is due.
    pub(super) fn take(
        &mut self,
        now: Instant,
        max_ids: usize,
        is_closing: bool,
    ) -> Option<Vec<u64>> {
        while self.again.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, number)) = self.again.pop_front()
        {
            self.ready.push_back(number);
            self.send_at = Some(now);
        }
        if self.ready.is_empty() {
            self.send_at = None;
            return None;
        }
        let is_due = self.send_at.is_some_and(|at| at <= now);
        if !is_due && !is_closing && self.ready.len() < max_ids {
            return None;
        }
        let rest = self.ready.split_off(self.ready.len().min(max_ids));
        let taken = mem::replace(&mut self.ready, rest);
        // The rest comes after what waits longer in the other queue.
        self.send_at = (!self.ready.is_empty()).then_some(now);
        Some(taken.into())
    }
}
