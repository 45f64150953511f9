//! Takes messages into a lane, one after another for each ordering key.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use crate::dead_letter::DeadLetters;
use crate::intake::Tracked;
use crate::{Event, Sink, Transform};

/// Maximum number of messages accepted before the lane looks at writes and clocks again.
const MAX_ACCEPTED: usize = 256;

/// Time after which it looks at them in any case. Transforming and encoding take this long only if
/// the processor is slow. Writes need the same processor, and each needs several looks.
const MAX_ACCEPT_TIME: Duration = Duration::from_millis(10);

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    /// Accepts the messages that are ready, without waiting, as long as there is room for them.
    pub(super) async fn accept_ready(&mut self, first: Tracked<E>) {
        let end = Instant::now() + MAX_ACCEPT_TIME;
        self.accept(first).await;
        for _ in 1..MAX_ACCEPTED {
            if !self.can_accept() || Instant::now() >= end {
                break;
            }
            // `try_recv` fails alike for an empty input and for a closed one. The next event
            // distinguishes the two.
            let next = self.input.as_mut().and_then(|input| input.try_recv().ok());
            let Some(tracked) = next else { break };
            self.accept(tracked).await;
        }
        self.last_accepted = Instant::now();
    }

    /// Takes a message into the lane and transforms it. A transform that must wait continues beside the others.
    ///
    /// If another message of the same ordering key is being transformed, this one is parked behind
    /// it.
    pub(super) async fn accept(&mut self, tracked: Tracked<E>) {
        let key = tracked.message.ordering_key();
        if !key.is_empty() {
            if let Some(parked) = self.parked.get_mut(key) {
                parked.push_back(tracked);
                return;
            }
            self.parked.insert(key.to_owned(), VecDeque::new());
        }
        if let Some(key) = self.transform(tracked).await {
            self.resume(key).await;
        }
    }

    /// Continues with the ordering keys that waited for room.
    pub(super) async fn resume_keys(&mut self) {
        while self.can_accept()
            && let Some(key) = self.resumable.pop()
        {
            self.resume(key).await;
        }
    }

    /// Starts the messages parked behind a key, until one has to wait.
    pub(super) async fn resume(&mut self, mut key: String) {
        while !key.is_empty() {
            if !self.can_accept() {
                self.resumable.push(key);
                return;
            }
            let Some(parked) = self.parked.get_mut(&key) else { return };
            let Some(tracked) = parked.pop_front() else {
                self.parked.remove(&key);
                return;
            };
            match self.transform(tracked).await {
                Some(done) => key = done,
                None => return,
            }
        }
    }
}
