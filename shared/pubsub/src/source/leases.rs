//! Leases of messages that were delivered but not yet settled, and the sending of acks and nacks.
//!
//! Google's client checks all leases every three seconds, and starts new requests while earlier
//! ones are still under way. If Pub/Sub answers slowly, these requests accumulate in memory without
//! a limit. So this module sends the requests itself: a limited number at a time, each with a
//! time-out, and no lease in two extensions.

mod failures;
mod lease;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use pipeline::Disposition;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::SourceMetrics;
use super::subscriber::{LeaseClient, Request};
use crate::settings::Subscription;
use failures::{TRANSIENT, failures};
use lease::{Answer, Lease, Reply};
use queue::Queue;

/// Maximum number of acknowledgement ids in one request, as in Google's client. A request has at
/// most 512 KiB.
const MAX_IDS: usize = 1000;
/// Number of ids that is never reduced further after time-outs.
const MIN_IDS: usize = 10;
/// Longest wait of an ack or nack for others that are sent with it.
const FLUSH_DELAY: Duration = Duration::from_millis(100);
/// Maximum number of concurrent requests with acks and nacks, and of those that extend leases.
const MAX_REQUESTS: usize = 16;
/// Interval at which the leases are checked.
const SCAN_INTERVAL: Duration = Duration::from_secs(3);
/// Number of leases that are checked without releasing the lock.
const SCAN_SLICE: usize = 10_000;
/// Wait before a request that failed is sent again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest duration of one request. With short leases it is a third of a lease.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest duration of one request at a close, so that there is time for another one.
const CLOSE_CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Upper estimate of the memory that a message holds until it is settled, beyond its place in the
/// pipeline.
///
/// Its acknowledgement id has about 180 bytes, its lease 80, the place of the lease in the table 30,
/// and the settlement itself 40. With the overhead of the allocator the sum is 380 bytes.
pub(super) const HELD_BYTES: u32 = 380;

/// Leases of all messages of one source. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when [`Leases::keep`] has something to do before it wakes by itself.
    changed: Notify,
    metrics: SourceMetrics,
    /// Duration of one lease.
    extension: Duration,
    /// Longest time for which a lease is extended.
    max_lease: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Leases by their number. Numbers rise with the time of arrival. An entry stays until Pub/Sub
    /// has confirmed its ack or nack.
    ///
    /// Leases are boxed, because the nodes of a map that grows at its end are half empty.
    leases: BTreeMap<u64, Box<Lease>>,
    next_number: u64,
    acks: Queue,
    nacks: Queue,
    is_closing: bool,
    is_failing: bool,
}

/// A request that has ended.
struct Done {
    work: Work,
    outcome: Result<(), Status>,
}

/// The leases in a request.
#[derive(Debug)]
enum Work {
    Answers(Reply, Vec<u64>),
    /// Numbers of the extended leases, and the time when the request began.
    Extension(Vec<u64>, Instant),
}

impl Leases {
    pub(super) fn new(settings: &Subscription, metrics: SourceMetrics) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            metrics,
            extension: settings.lease_extension,
            max_lease: settings.max_lease,
        }))
    }

    pub(super) fn metrics(&self) -> &SourceMetrics {
        &self.0.metrics
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the lease of a message that has just arrived. Returns its number, and the time
    /// after which it is no longer extended.
    pub(super) fn take(&self, ack_id: String) -> (u64, Instant) {
        self.0.metrics.unsettled.inc();
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        let lease = Lease {
            ack_id: ack_id.into(),
            arrived_at: Instant::now(),
            extended_at: None,
            is_extending: false,
            is_lost: false,
            was_over: false,
            answer: None,
        };
        let end = lease.end(self.0.max_lease);
        state.leases.insert(number, Box::new(lease));
        (number, end)
    }

    /// Settles a message. A nack after the end of its lease is not sent, because the message is
    /// redelivered anyway. If an extension is under way, the lease may not have ended.
    pub(super) fn settle(&self, number: u64, disposition: Disposition) {
        let (now, reply) = (Instant::now(), Reply::from(disposition));
        let mut state = self.state();
        let Some(lease) = state.leases.get_mut(&number) else { return };
        self.0.metrics.unsettled.dec();
        let is_over = lease.is_over(now, self.0.extension);
        if is_over || lease.was_over || now > lease.end(self.0.max_lease) {
            self.0.metrics.expired_leases.inc();
        }
        if is_over && !lease.is_extending && reply == Reply::Nack {
            state.leases.remove(&number);
            return;
        }
        lease.answer = Some(Answer { reply, settled_at: now, is_under_way: false });
        let queue = state.queue(reply);
        queue.ready.push_back(number);
        if queue.send_at.is_none() || queue.ready.len() == MAX_IDS {
            queue.send_at.get_or_insert(now + FLUSH_DELAY);
            self.0.changed.notify_one();
        }
    }

    /// Ends [`Leases::keep`] once every ack and nack is sent. Call it after the last message is
    /// settled.
    pub(super) fn close(&self) {
        self.state().is_closing = true;
        self.0.changed.notify_one();
    }

    /// Extends leases, and sends acks and nacks, until [`Leases::close`].
    ///
    /// After a time-out the following requests are smaller, so that a thin link carries them. After an
    /// extension that failed, the leases are checked again soon.
    pub(super) async fn keep(self, client: impl LeaseClient) {
        let mut requests: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let (mut answers, mut extensions) = (0, 0);
        let mut due = VecDeque::new();
        let mut scan_at = Instant::now() + SCAN_INTERVAL;
        let mut max_ids = MAX_IDS;
        loop {
            let now = Instant::now();
            while answers < MAX_REQUESTS
                && let Some((work, request)) = self.next_answers(now, max_ids)
            {
                answers += 1;
                requests.push(self.send(&client, work, request));
            }
            if now >= scan_at {
                due = self.scan(now);
                scan_at = now + SCAN_INTERVAL;
            }
            while extensions < MAX_REQUESTS
                && let Some((work, request)) = self.next_extension(&mut due, max_ids)
            {
                extensions += 1;
                requests.push(self.send(&client, work, request));
            }
            let mut wake_at = scan_at;
            if answers < MAX_REQUESTS {
                let state = self.state();
                if answers == 0 && state.is_closed() {
                    return;
                }
                let times = [state.acks.next_time(), state.nacks.next_time()];
                wake_at = times.into_iter().flatten().fold(wake_at, Instant::min);
            }
            tokio::select! {
                Some(done) = requests.next(), if !requests.is_empty() => {
                    let count = match &done.work {
                        Work::Answers(_, numbers) => {
                            answers -= 1;
                            numbers.len()
                        }
                        Work::Extension(numbers, _) => {
                            extensions -= 1;
                            if done.outcome.is_err() {
                                scan_at = scan_at.min(Instant::now() + RETRY_DELAY);
                            }
                            numbers.len()
                        }
                    };
                    max_ids = adapted(max_ids, count, &done.outcome);
                    self.finish(done);
                }
                () = self.0.changed.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Returns the next request with acks or nacks, if one is due. Those that wait longer come
    /// first.
    fn next_answers(&self, now: Instant, max_ids: usize) -> Option<(Work, Request)> {
        let mut state = self.state();
        let is_closing = state.is_closing;
        let mut order = [Reply::Ack, Reply::Nack];
        if state
            .nacks
            .next_time()
            .is_some_and(|nacks| state.acks.next_time().is_none_or(|acks| nacks <= acks))
        {
            order.reverse();
        }
        for reply in order {
            while let Some(mut numbers) = state.queue(reply).take(now, max_ids, is_closing) {
                let mut ack_ids = Vec::with_capacity(numbers.len());
                // Some may have been forgotten.
                numbers.retain(|number| {
                    let Some(lease) = state.leases.get_mut(number) else { return false };
                    lease.answer.iter_mut().for_each(|answer| answer.is_under_way = true);
                    ack_ids.push(lease.ack_id.to_string());
                    true
                });
                if numbers.is_empty() {
                    continue;
                }
                let request = match reply {
                    Reply::Ack => Request::Acknowledge(ack_ids),
                    Reply::Nack => Request::Lease(ack_ids, Duration::ZERO),
                };
                return Some((Work::Answers(reply, numbers), request));
            }
        }
        None
    }

    /// Returns the numbers of the leases that must be extended, those that end first at the front.
    /// Forgets answers that could not be sent until long after the end of their leases.
    fn scan(&self, now: Instant) -> VecDeque<u64> {
        let (extension, max_lease) = (self.0.extension, self.0.max_lease);
        let (mut due, mut from) = (Vec::new(), 0);
        loop {
            let mut state = self.state();
            let (mut last, mut hopeless) = (None, Vec::new());
            for (number, lease) in state.leases.range(from..).take(SCAN_SLICE) {
                last = Some(*number);
                if lease.is_hopeless(now, extension) {
                    hopeless.push(*number);
                } else if lease.needs_extension(now, extension, max_lease) {
                    due.push((lease.until(extension), *number));
                }
            }
            let Some(last) = last else { break };
            from = last + 1;
            let lost_acks = state.forget(&hopeless);
            self.0.metrics.lost_acks.inc_by(lost_acks);
        }
        due.sort_unstable();
        due.into_iter().map(|(_, number)| number).collect()
    }

    /// Returns the next request for leases that are due. Messages may have been settled meanwhile.
    fn next_extension(&self, due: &mut VecDeque<u64>, max_ids: usize) -> Option<(Work, Request)> {
        let (extension, max_lease) = (self.0.extension, self.0.max_lease);
        let now = Instant::now();
        let mut state = self.state();
        let (mut numbers, mut ack_ids) = (Vec::new(), Vec::new());
        while numbers.len() < max_ids
            && let Some(number) = due.pop_front()
        {
            if let Some(lease) = state.leases.get_mut(&number)
                && lease.needs_extension(now, extension, max_lease)
            {
                lease.is_extending = true;
                numbers.push(number);
                ack_ids.push(lease.ack_id.to_string());
            }
        }
        let request = Request::Lease(ack_ids, extension);
        (!numbers.is_empty()).then_some((Work::Extension(numbers, now), request))
    }

    fn send(
        &self,
        client: &impl LeaseClient,
        work: Work,
        request: Request,
    ) -> BoxFuture<'static, Done> {
        let most = match self.state().is_closing {
            true => CLOSE_CALL_TIMEOUT,
            false => CALL_TIMEOUT,
        };
        let call = timeout(most.min(self.0.extension / 3), client.call(request));
        let late = |_| Status::deadline_exceeded("no answer in time");
        Box::pin(async move { Done { work, outcome: call.await.map_err(late).flatten() } })
    }

    fn finish(&self, Done { work, outcome }: Done) {
        let failures = outcome.as_ref().err().map(|status| failures(status.details()));
        let failures = failures.unwrap_or_default();
        let mut state = self.state();
        if failures.is_empty() {
            state.note(&outcome);
        }
        match work {
            Work::Answers(reply, numbers) => match outcome {
                Ok(()) => numbers.iter().for_each(|number| drop(state.leases.remove(number))),
                Err(status) => {
                    self.answers_failed(&mut state, reply, numbers, &failures, status.code());
                }
            },
            Work::Extension(numbers, began) => {
                let all_failed = outcome.is_err() && failures.is_empty();
                for number in numbers {
                    let Some(lease) = state.leases.get_mut(&number) else { continue };
                    lease.is_extending = false;
                    match failures.get(&*lease.ack_id) {
                        // The next check finds the lease again.
                        _ if all_failed => {}
                        None => {
                            lease.was_over |= began > lease.until(self.0.extension);
                            lease.extended_at = Some(began);
                        }
                        Some(failure) => lease.is_lost = !failure.starts_with(TRANSIENT),
                    }
                }
            }
        }
    }

    /// Queues answers again if that can help. The others are lost: their messages are redelivered.
    fn answers_failed(
        &self,
        state: &mut State,
        reply: Reply,
        numbers: Vec<u64>,
        failures: &HashMap<String, String>,
        code: Code,
    ) {
        let now = Instant::now();
        for number in numbers {
            let Some(lease) = state.leases.get_mut(&number) else { continue };
            lease.answer.iter_mut().for_each(|answer| answer.is_under_way = false);
            let (is_refused, is_done) = match failures.get(&*lease.ack_id) {
                Some(failure) => (!failure.starts_with(TRANSIENT), false),
                // Ids that are not named were accepted.
                None => (failures.is_empty() && is_permanent(code), !failures.is_empty()),
            };
            if !is_done && !is_refused && !lease.is_over(now, self.0.extension) {
                state.queue(reply).again.push_back((now + RETRY_DELAY, number));
                continue;
            }
            state.leases.remove(&number);
            if !is_done && reply == Reply::Ack {
                self.0.metrics.lost_acks.inc();
            }
        }
    }
}

/// Returns the number of ids for further requests, after one with `count` ids.
///
/// A time-out of a much smaller request says nothing about the size. Any answer shows that the link
/// carries that many.
fn adapted(max_ids: usize, count: usize, outcome: &Result<(), Status>) -> usize {
    let is_late = outcome.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded);
    match is_late {
        true if count * 2 > max_ids => (count / 2).max(MIN_IDS).min(max_ids),
        true => max_ids,
        false => max_ids.max((count + count.div_ceil(4)).min(max_ids * 2)).min(MAX_IDS),
    }
}

/// Returns true if the same request fails again, whatever happens meanwhile.
fn is_permanent(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented)
}

impl State {
    fn queue(&mut self, reply: Reply) -> &mut Queue {
        match reply {
            Reply::Ack => &mut self.acks,
            Reply::Nack => &mut self.nacks,
        }
    }

    /// Removes leases whose answers could not be sent. Returns the number of acks among them.
    fn forget(&mut self, numbers: &[u64]) -> u64 {
        if numbers.is_empty() {
            return 0;
        }
        let removed = numbers.iter().filter_map(|number| self.leases.remove(number));
        let removed = removed.filter_map(|lease| lease.answer);
        let acks = removed.filter(|answer| answer.reply == Reply::Ack).count();
        let Self { leases, acks: of_acks, nacks, .. } = self;
        for queue in [of_acks, nacks] {
            queue.ready.retain(|number| leases.contains_key(number));
            queue.again.retain(|(_, number)| leases.contains_key(number));
        }
        acks as u64
    }

    fn is_closed(&self) -> bool {
        self.is_closing && self.acks.is_empty() && self.nacks.is_empty()
    }

    /// Logs the begin and the end of a series of failures.
    fn note(&mut self, outcome: &Result<(), Status>) {
        let was_failing = mem::replace(&mut self.is_failing, outcome.is_err());
        match outcome {
            Ok(()) if was_failing => info!("leases are extended and acks are sent again"),
            Ok(()) => {}
            Err(status) => {
                let (code, error) = (status.code(), status.message());
                match was_failing {
                    true => debug!(?code, error, "a request about leases failed"),
                    false => warn!(?code, error, "a request about leases failed, trying again"),
                }
            }
        }
    }
}
