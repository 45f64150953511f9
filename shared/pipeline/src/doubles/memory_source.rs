use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Recorder;
use crate::{Delivery, Disposition, Error, Settlement, Source};
use message::Message;

/// A source of prepared messages. It redelivers each nacked message, and ends when all are acked.
pub struct MemorySource {
    queue: Arc<Queue>,
    recorder: Recorder,
    lease: Option<Duration>,
    do_leases_end: bool,
    has_clients: bool,
    max_deliveries: u32,
    lost_nacks: Option<LostNacks>,
    held_bytes: u32,
}

/// Nacks that do not reach a [`MemorySource`].
///
/// The source keeps the message for a while, and redelivers later messages of the key before it.
/// Pub/Sub would redeliver those once more when the kept message returns; the source does not.
#[derive(Debug, Clone, Copy)]
pub struct LostNacks {
    /// One of this many nacks is lost.
    pub one_of: u64,
    /// Time for which the message is kept.
    pub return_delay: Duration,
}

/// Adds messages to a [`MemorySource`]. The source does not end before this is dropped.
pub struct SourceInput(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<MemorySourceState>,
    changed: Notify,
}

#[derive(Default)]
struct MemorySourceState {
    waiting: VecDeque<Message>,
    /// Unsettled deliveries, by their number.
    outstanding: BTreeMap<u64, Outstanding>,
    next_number: u64,
    /// Messages whose nack was lost, by the time of their redelivery.
    kept: BTreeMap<(Instant, u64), Message>,
    nacks: u64,
    /// Number of each message's first delivery, by the id of the message.
    first_delivered: HashMap<String, u64>,
    is_open: bool,
}

struct Outstanding {
    message: Message,
    lease_end: Option<Instant>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, MemorySourceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outstanding {
    fn is_over(&self) -> bool {
        self.lease_end.is_some_and(|end| end <= Instant::now())
    }
}

impl MemorySourceState {
    /// Queues a message for redelivery. It goes behind the others, but before later messages of its
    /// ordering key.
    fn return_message(&mut self, mut message: Message) {
        message.attempts += 1;
        let place = |id: &String| self.first_delivered.get(id).copied().unwrap_or(u64::MAX);
        let own = place(&message.id);
        let is_behind = |other: &Message| {
            !message.ordering_key.is_empty()
                && other.ordering_key == message.ordering_key
                && place(&other.id) > own
        };
        let at = self.waiting.iter().position(is_behind).unwrap_or(self.waiting.len());
        self.waiting.insert(at, message);
    }

    /// Returns a nacked message to the queue, or keeps it if the nack is lost.
    fn nacked(&mut self, message: Message, lost_nacks: Option<LostNacks>) {
        self.nacks += 1;
        match lost_nacks {
            Some(lost) if self.nacks.is_multiple_of(lost.one_of) => {
                self.kept.insert((Instant::now() + lost.return_delay, self.nacks), message);
            }
            _ => self.return_message(message),
        }
    }

    /// Takes back messages whose lease has ended, and messages that were kept long enough.
    fn expire(&mut self, recorder: &Recorder) {
        while let Some(kept) = self.kept.first_entry()
            && kept.key().0 <= Instant::now()
        {
            let message = kept.remove();
            self.return_message(message);
        }
        let over: Vec<u64> =
            self.outstanding.iter().filter(|(_, held)| held.is_over()).map(|(n, _)| *n).collect();
        for number in over {
            if let Some(held) = self.outstanding.remove(&number) {
                recorder.recording().expired.insert(held.message.id.clone());
                self.return_message(held.message);
            }
        }
    }

    fn next_end(&self) -> Option<Instant> {
        let held = self.outstanding.values().filter_map(|held| held.lease_end);
        held.chain(self.kept.keys().map(|(end, _)| *end)).min()
    }
}

impl MemorySource {
    /// Delivers these messages. Each needs a unique id.
    #[must_use]
    pub fn new(messages: impl IntoIterator<Item = Message>, recorder: Recorder) -> Self {
        let state = MemorySourceState {
            waiting: messages.into_iter().collect(),
            ..MemorySourceState::default()
        };
        let queue = Queue { state: Mutex::new(state), ..Queue::default() };
        Self {
            queue: Arc::new(queue),
            recorder,
            lease: None,
            do_leases_end: false,
            has_clients: false,
            max_deliveries: u32::MAX,
            lost_nacks: None,
            held_bytes: 0,
        }
    }

    /// Delivers the messages that come through the input.
    #[must_use]
    pub fn open(recorder: Recorder) -> (Self, SourceInput) {
        let source = Self::new([], recorder);
        source.queue.state().is_open = true;
        let input = SourceInput(Arc::clone(&source.queue));
        (source, input)
    }

    /// Gives each delivery a lease of this length. The lease is only information: it never ends by
    /// itself.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Says of each delivery that a client waits for it until the end of its lease.
    #[must_use]
    pub fn with_clients(mut self) -> Self {
        self.has_clients = true;
        self
    }

    /// Takes a message back when its lease ends, and redelivers it. A later disposition is lost.
    #[must_use]
    pub fn with_ending_leases(mut self) -> Self {
        self.do_leases_end = true;
        self
    }

    /// Gives up a message after this many deliveries, as a subscription with a dead-letter policy
    /// does.
    #[must_use]
    pub fn with_max_deliveries(mut self, max_deliveries: u32) -> Self {
        self.max_deliveries = max_deliveries;
        self
    }

    /// Loses some of the nacks.
    #[must_use]
    pub fn with_lost_nacks(mut self, lost_nacks: LostNacks) -> Self {
        self.lost_nacks = Some(lost_nacks);
        self
    }

    /// Sets the number of bytes that the settlement of a message holds elsewhere.
    #[must_use]
    pub fn with_held_bytes(mut self, held_bytes: u32) -> Self {
        self.held_bytes = held_bytes;
        self
    }

    fn deliver(&self, state: &mut MemorySourceState, message: Message) -> Delivery {
        self.recorder.delivered();
        let lease_end = self.lease.map(|lease| Instant::now() + lease);
        let number = state.next_number;
        state.next_number += 1;
        state.first_delivered.entry(message.id.clone()).or_insert(number);
        let held = Outstanding {
            message: message.clone(),
            lease_end: lease_end.filter(|_| self.do_leases_end),
        };
        state.outstanding.insert(number, held);
        let (queue, recorder) = (Arc::clone(&self.queue), self.recorder.clone());
        let (id, max_deliveries) = (message.id.clone(), self.max_deliveries);
        let lost_nacks = self.lost_nacks;
        let settle = move |disposition| {
            let mut state = queue.state();
            state.expire(&recorder);
            match state.outstanding.remove(&number) {
                None => recorder.settled_late(&id, disposition),
                Some(held) => {
                    recorder.settled(&id, disposition);
                    if disposition == Disposition::Nack && held.message.attempts < max_deliveries {
                        state.nacked(held.message, lost_nacks);
                    } else if disposition == Disposition::Nack {
                        recorder.recording().forwarded.insert(id);
                    }
                }
            }
            drop(state);
            queue.changed.notify_one();
        };
        let return_delay = self.lost_nacks.map_or(Duration::ZERO, |lost| lost.return_delay);
        let settlement = Settlement::new(settle, lease_end)
            .with_return_delay(return_delay)
            .with_held_bytes(self.held_bytes);
        let settlement = if self.has_clients { settlement.with_client() } else { settlement };
        Delivery::new(message, settlement)
    }
}

impl SourceInput {
    /// Adds a message. It needs a unique id.
    pub fn push(&self, message: Message) {
        self.0.state().waiting.push_back(message);
        self.0.changed.notify_one();
    }
}

impl Drop for SourceInput {
    fn drop(&mut self) {
        self.0.state().is_open = false;
        self.0.changed.notify_one();
    }
}

impl Source for MemorySource {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            let next_end = {
                let mut state = self.queue.state();
                state.expire(&self.recorder);
                if let Some(next) = state.waiting.pop_front() {
                    return Ok(Some(self.deliver(&mut state, next)));
                }
                let is_empty = state.kept.is_empty() && self.recorder.recording().unsettled == 0;
                if is_empty && !state.is_open {
                    return Ok(None);
                }
                state.next_end()
            };
            let expired = async {
                match next_end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.queue.changed.notified() => {}
                () = expired => {}
            }
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}
