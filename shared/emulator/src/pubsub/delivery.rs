//! A subscription: waiting messages, leased messages, and redelivery.

mod seeking;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Code;

use super::filter::AttributeFilter;
use super::ordering::{Pending, Queue};
use super::proto;
use super::wire::{Received, Stored};
use crate::status::Status;

/// Most messages in one response.
const RESPONSE_MESSAGES: usize = 1000;
/// Most bytes in one response. A single larger message is allowed.
const RESPONSE_BYTES: usize = 1_000_000;
/// Length of an acknowledgement id. Most ids from Google have this length, and requests contain
/// many (<https://github.com/elixir-broadway/broadway_cloud_pub_sub/pull/49>).
const ACK_ID_BYTES: usize = 184;
/// Interval of the checks for expired leases.
pub(super) const SCAN_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Subscription {
    state: Mutex<State>,
    filter: Option<AttributeFilter>,
    /// Sequence number of the last message that was published before the subscription was created.
    pub born: u64,
    /// Notified when a message may have become deliverable.
    pub changed: Notify,
}

struct State {
    config: proto::Subscription,
    queue: Queue,
    /// Nacked messages that wait for the back-off of their retry policy.
    delayed: BTreeMap<(Instant, u64), Pending>,
    leases: HashMap<u64, Lease>,
    next_number: u64,
    streams: HashMap<u64, Outstanding>,
    push_stream: Option<u64>,
    last_scan: Instant,
    is_deleted: bool,
}

struct Lease {
    pending: Pending,
    end: Instant,
    stream: u64,
}

#[derive(Default)]
struct Outstanding {
    messages: usize,
    bytes: usize,
}

/// Limits of what a puller may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    pub messages: usize,
    pub bytes: usize,
    pub ack_deadline: Duration,
}

impl Subscription {
    pub(super) fn new(
        config: proto::Subscription,
        filter: Option<AttributeFilter>,
        born: u64,
    ) -> Self {
        let state = State {
            config,
            queue: Queue::default(),
            delayed: BTreeMap::new(),
            leases: HashMap::new(),
            next_number: 1,
            streams: HashMap::new(),
            push_stream: None,
            last_scan: Instant::now(),
            is_deleted: false,
        };
        Self { state: Mutex::new(state), filter, born, changed: Notify::new() }
    }

    pub(super) fn config(&self) -> proto::Subscription {
        self.lock().config.clone()
    }

    pub(super) fn configure(&self, change: impl FnOnce(&mut proto::Subscription)) {
        let mut state = self.lock();
        change(&mut state.config);
        // Ends the stream of an endpoint that was removed, so that nothing more is sent to it.
        if !state.has_endpoint()
            && let Some(stream) = state.push_stream.take()
        {
            state.streams.remove(&stream);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn delete(&self) {
        self.lock().is_deleted = true;
        self.changed.notify_waiters();
    }

    /// Checks that the subscription still delivers messages.
    pub(super) fn check(&self) -> Result<(), Status> {
        let state = self.lock();
        if state.is_deleted {
            return Err(Status::not_found(super::leaf(&state.config.name)));
        }
        if state.config.detached {
            let text = "The subscription is detached from its topic.";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        Ok(())
    }

    /// Checks that messages can be pulled. Messages of push subscriptions cannot.
    pub(super) fn check_pull(&self) -> Result<(), Status> {
        self.check()?;
        if self.lock().has_endpoint() {
            let text = "This method is not supported for this subscription type.";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        Ok(())
    }

    /// Returns true if the filter accepts a message.
    fn lets_pass(&self, message: &Stored) -> bool {
        self.filter.as_ref().is_none_or(|filter| {
            let decoded = proto::PubsubMessage::decode(message.encoded.clone());
            decoded.is_ok_and(|message| filter.matches(&message.attributes))
        })
    }

    /// Returns the name of the subscription and its dead-letter topic.
    pub(super) fn dead_letter_source(&self) -> (String, String) {
        let state = self.lock();
        let policy = state.config.dead_letter_policy.as_ref();
        let topic = policy.map(|policy| policy.dead_letter_topic.clone()).unwrap_or_default();
        (state.config.name.clone(), topic)
    }

    pub(super) fn push(&self, messages: &[Arc<Stored>]) {
        let mut state = self.lock();
        let is_ordered = state.config.enable_message_ordering;
        for message in messages.iter().filter(|message| self.lets_pass(message)) {
            let pending = Pending { message: Arc::clone(message), attempts: 0 };
            state.queue.push(pending, is_ordered);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns messages to the queue that have no attempts left but could not be forwarded.
    pub(super) fn put_back(&self, exhausted: Vec<Pending>) {
        let mut state = self.lock();
        let mut keys = BTreeMap::<_, Vec<_>>::new();
        for pending in exhausted {
            let key = pending.message.ordering_key.clone();
            keys.entry(key).or_default().push(pending);
        }
        for (key, exhausted) in keys {
            if state.config.enable_message_ordering && !key.is_empty() {
                let attempts = exhausted.iter().map(|pending| pending.attempts).max();
                let backoff = state.backoff_end(attempts.unwrap_or_default());
                state.queue.restore(exhausted, backoff);
            } else {
                exhausted.into_iter().for_each(|pending| state.wait_again(pending));
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Opens a stream and returns its number.
    pub(super) fn open_stream(&self) -> u64 {
        let mut state = self.lock();
        let stream = state.number();
        state.streams.insert(stream, Outstanding::default());
        stream
    }

    /// Opens the stream of pushes and returns its number. The stream ends with the endpoint.
    pub(super) fn open_push_stream(&self) -> u64 {
        let stream = self.open_stream();
        self.lock().push_stream = Some(stream);
        stream
    }

    /// Returns false for a stream that was closed, or that ended with its endpoint.
    pub(super) fn has_stream(&self, stream: u64) -> bool {
        self.lock().streams.contains_key(&stream)
    }

    /// Closes a stream. As at Google, its leases stay until they expire.
    pub(super) fn close_stream(&self, stream: u64) {
        self.lock().streams.remove(&stream);
    }

    /// Takes messages within the limits, for a stream or for one unary pull. The second part of the
    /// result holds messages without attempts left.
    ///
    /// Each unary pull counts as a separate puller. It gets no message of an ordering key while an
    /// earlier pull has messages of that key. Otherwise, if the earlier reply was lost, later
    /// messages would overtake earlier ones.
    pub(super) fn take(
        &self,
        stream: Option<u64>,
        allowance: Allowance,
    ) -> (Vec<Received>, Vec<Pending>) {
        let mut state = self.lock();
        let puller = stream.unwrap_or_else(|| state.number());
        let dead = state.scan();
        let mut taken = Vec::new();
        let mut bytes = 0;
        let most = allowance.messages.min(RESPONSE_MESSAGES);
        while taken.len() < most && state.has_allowance(stream, allowance) {
            let Some(pending) = state.queue.pop(puller) else { break };
            let size = pending.message.encoded.len();
            if !taken.is_empty() && bytes + size > RESPONSE_BYTES {
                let is_ordered = state.config.enable_message_ordering;
                state.queue.unpop(pending, is_ordered);
                break;
            }
            bytes += size;
            taken.push(state.lease(pending, puller, allowance.ack_deadline));
        }
        drop(state);
        if !dead.is_empty() {
            self.changed.notify_waiters();
        }
        (taken, dead)
    }

    /// Returns true if a message can become deliverable just because time passes.
    pub(super) fn is_waiting_for_time(&self) -> bool {
        let state = self.lock();
        !state.leases.is_empty() || !state.delayed.is_empty() || state.queue.is_holding()
    }

    /// Acknowledges messages. Returns the ids without a valid lease.
    pub(super) fn acknowledge(&self, ack_ids: &[String]) -> Vec<String> {
        let mut state = self.lock();
        let now = Instant::now();
        let unknown = ack_ids.iter().filter(|id| {
            let number = number(id).filter(|number| state.has_lease(*number, now));
            number.and_then(|number| state.end_lease(number)).is_none()
        });
        let unknown = unknown.cloned().collect();
        drop(state);
        self.changed.notify_waiters();
        unknown
    }

    /// Sets new deadlines that start now; zero nacks. Returns the ids without a valid lease, and
    /// messages without attempts left.
    pub(super) fn modify(&self, changes: &[(String, i32)]) -> (Vec<String>, Vec<Pending>) {
        let mut state = self.lock();
        let now = Instant::now();
        let mut unknown = Vec::new();
        let mut dead = Vec::new();
        for (id, seconds) in changes {
            let Some(number) = number(id).filter(|number| state.has_lease(*number, now)) else {
                unknown.push(id.clone());
                continue;
            };
            if *seconds == 0 {
                dead.extend(state.give_back(number));
            } else if let Some(lease) = state.leases.get_mut(&number) {
                lease.end = now + seconds_of(*seconds);
            }
        }
        drop(state);
        self.changed.notify_waiters();
        (unknown, dead)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn has_endpoint(&self) -> bool {
        let push = self.config.push_config.as_ref();
        push.is_some_and(|push| !push.push_endpoint.is_empty())
    }

    fn has_allowance(&self, stream: Option<u64>, allowance: Allowance) -> bool {
        let Some(stream) = stream else { return true };
        let Some(outstanding) = self.streams.get(&stream) else { return false };
        outstanding.messages < allowance.messages && outstanding.bytes < allowance.bytes
    }

    fn lease(&mut self, mut pending: Pending, stream: u64, deadline: Duration) -> Received {
        let number = self.number();
        pending.attempts += 1;
        if let Some(outstanding) = self.streams.get_mut(&stream) {
            outstanding.messages += 1;
            outstanding.bytes += pending.message.encoded.len();
        }
        if self.config.enable_message_ordering {
            let message = &pending.message;
            self.queue.sent(&message.ordering_key, message.sequence, number);
        }
        // Google reports delivery attempts only if there is a dead-letter policy.
        let has_policy = self.config.dead_letter_policy.is_some();
        let attempts = i32::try_from(pending.attempts).unwrap_or(i32::MAX);
        let received = Received {
            ack_id: format!("{number:0>ACK_ID_BYTES$x}"),
            message: pending.message.encoded.clone(),
            delivery_attempt: if has_policy { attempts } else { 0 },
        };
        self.leases.insert(number, Lease { pending, end: Instant::now() + deadline, stream });
        received
    }

    /// Returns true if a message is still leased. With exactly-once delivery a lease ends at its
    /// deadline. Otherwise it ends when the next check finds it expired.
    fn has_lease(&self, number: u64, now: Instant) -> bool {
        let lease = self.leases.get(&number);
        lease.is_some_and(|lease| !self.config.enable_exactly_once_delivery || now < lease.end)
    }

    fn end_lease(&mut self, number: u64) -> Option<Pending> {
        let lease = self.leases.remove(&number)?;
        let message = &lease.pending.message;
        if let Some(outstanding) = self.streams.get_mut(&lease.stream) {
            outstanding.messages = outstanding.messages.saturating_sub(1);
            outstanding.bytes = outstanding.bytes.saturating_sub(message.encoded.len());
        }
        if self.config.enable_message_ordering && !message.ordering_key.is_empty() {
            self.queue.settled(&message.ordering_key, message.sequence);
        }
        Some(lease.pending)
    }

    /// Ends a lease without acknowledgement. The message waits again, or is returned if it has no
    /// attempts left.
    fn give_back(&mut self, number: u64) -> Option<Pending> {
        let lease = self.leases.get(&number)?;
        let (key, sequence) =
            (lease.pending.message.ordering_key.clone(), lease.pending.message.sequence);
        let is_ordered = self.config.enable_message_ordering && !key.is_empty();
        let later = if is_ordered { self.queue.later(&key, sequence) } else { Vec::new() };
        let pending = self.end_lease(number)?;
        let policy = self.config.dead_letter_policy.as_ref();
        let most = policy.and_then(|policy| u32::try_from(policy.max_delivery_attempts).ok());
        if most.is_some_and(|most| pending.attempts >= most) {
            return Some(pending);
        }
        if is_ordered {
            let mut restored: Vec<_> =
                later.into_iter().filter_map(|ack| self.end_lease(ack)).collect();
            let backoff = self.backoff_end(pending.attempts);
            restored.push(pending);
            self.queue.restore(restored, backoff);
            return None;
        }
        self.wait_again(pending);
        None
    }

    /// Queues a message for redelivery, after the back-off of a retry policy.
    fn wait_again(&mut self, pending: Pending) {
        match self.backoff_end(pending.attempts) {
            None => self.queue.push(pending, false),
            Some(end) => {
                let order = self.number();
                self.delayed.insert((end, order), pending);
            }
        }
    }

    /// Returns the earliest time of a redelivery, for a subscription with a retry policy.
    fn backoff_end(&self, attempts: u32) -> Option<Instant> {
        let policy = self.config.retry_policy.as_ref()?;
        let least = duration_of(policy.minimum_backoff.as_ref(), Duration::from_secs(10));
        let most = duration_of(policy.maximum_backoff.as_ref(), Duration::from_secs(600));
        let factor = 2_u32.saturating_pow(attempts.saturating_sub(1).min(16));
        Some(Instant::now() + least.saturating_mul(factor).min(most))
    }

    /// Ends expired leases, and queues messages whose back-off is over. Returns messages without
    /// attempts left.
    fn scan(&mut self) -> Vec<Pending> {
        let now = Instant::now();
        if now < self.last_scan + SCAN_INTERVAL {
            return Vec::new();
        }
        self.last_scan = now;
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            let pending = first.remove();
            self.queue.push(pending, false);
        }
        self.queue.release(now);
        let ended = self.leases.iter().filter(|(_, lease)| lease.end <= now);
        let mut ended: Vec<_> = ended.map(|(number, _)| *number).collect();
        ended.sort_unstable();
        ended.into_iter().filter_map(|number| self.give_back(number)).collect()
    }
}

fn number(ack_id: &str) -> Option<u64> {
    u64::from_str_radix(ack_id, 16).ok()
}

pub(super) fn seconds_of(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

pub(super) fn duration_of(duration: Option<&prost_types::Duration>, default: Duration) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or(default)
}
