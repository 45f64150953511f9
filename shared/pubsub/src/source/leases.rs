//! Leases of messages that were delivered but not yet settled, and the sending of acks and nacks.
//!
//! Google's client extends leases every three seconds, and starts new requests while earlier ones
//! are still under way. If Pub/Sub answers slowly, these requests accumulate in memory without a
//! limit. That client also never repeats a nack that was refused. So this module sends the requests
//! itself: a limited number at a time, each with a time-out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use pipeline::{Renewable, Verdict};
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;
use tracing::debug;

use super::SourceMetrics;
use super::subscriber::{Request, Subscriber, is_transient};
use crate::settings::Subscription;

/// Maximum number of acknowledgement ids in one request, as in Google's client. A request has at
/// most 512 KiB.
const MAX_IDS: usize = 1000;
/// Longest wait of an ack or nack for others that are sent with it.
const FLUSH_DELAY: Duration = Duration::from_millis(100);
/// Maximum number of concurrent requests with acks and nacks.
const MAX_ANSWERS: usize = 16;
/// Maximum number of concurrent requests that extend leases.
const MAX_EXTENSIONS: usize = 4;
/// Interval at which the leases are checked.
const SCAN_INTERVAL: Duration = Duration::from_secs(3);
/// Time that an extension may take on its way to Pub/Sub.
const EXTENSION_BUFFER: Duration = Duration::from_secs(2);
/// Wait before an ack or nack that failed is sent again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest duration of one request.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Upper estimate of the memory that a message holds until it is settled, beyond its place in the
/// pipeline.
///
/// Its acknowledgement id has about 180 bytes, and its entry in the table of leases about 120. The
/// settlement itself is added, and a copy of the id while a request is under way. With the overhead
/// of the allocator the sum is 600 bytes.
pub(super) const HELD_BYTES: u32 = 600;

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
    /// Leases by their number. Numbers rise with the time of arrival.
    held: BTreeMap<u64, Lease>,
    next_number: u64,
    acks: Queue,
    nacks: Queue,
    is_closing: bool,
}

/// Lease of one message.
#[derive(Debug)]
struct Lease {
    ack_id: String,
    is_exactly_once: bool,
    /// Time after which it is no longer extended.
    end: Instant,
    extended_at: Option<Instant>,
}

/// Acks or nacks that are not sent yet.
#[derive(Debug, Default)]
struct Queue {
    answers: VecDeque<Answer>,
    /// Time when they are sent, even if they do not fill a request.
    send_at: Option<Instant>,
}

/// An ack or nack.
#[derive(Debug)]
struct Answer {
    ack_id: String,
    is_exactly_once: bool,
    /// Time when the lease has ended in any case, so that repeating is of no use.
    give_up_at: Instant,
}

/// A request that has ended.
struct Done {
    work: Work,
    outcome: Result<(), Status>,
}

/// Content of a request.
enum Work {
    Answers(Verdict, Vec<Answer>),
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the lease of a message that has just arrived. Returns its number, and the time
    /// after which it is no longer extended.
    pub(super) fn take(&self, ack_id: String, is_exactly_once: bool) -> (u64, Instant) {
        let end = Instant::now() + self.0.max_lease;
        self.0.metrics.unsettled.inc();
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        state.held.insert(number, Lease { ack_id, is_exactly_once, end, extended_at: None });
        (number, end)
    }

    /// Settles a message. A nack after the end of its lease is not sent, because the message is
    /// redelivered anyway.
    pub(super) fn settle(&self, number: u64, verdict: Verdict) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(lease) = state.held.remove(&number) else { return };
        self.0.metrics.unsettled.dec();
        let has_ended = now > lease.end;
        if has_ended {
            self.0.metrics.expired_leases.inc();
        }
        let queue = match verdict {
            Verdict::Ack => &mut state.acks,
            Verdict::Nack if has_ended => return,
            Verdict::Nack => &mut state.nacks,
        };
        let Lease { ack_id, is_exactly_once, .. } = lease;
        let give_up_at = now + self.0.extension;
        queue.answers.push_back(Answer { ack_id, is_exactly_once, give_up_at });
        if queue.answers.len() == MAX_IDS || queue.send_at.is_none() {
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
    pub(super) async fn keep(self, subscriber: Renewable<Subscriber>) {
        let mut requests: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let (mut answers, mut extensions) = (0, 0);
        let mut due = VecDeque::new();
        let mut scan_at = Instant::now() + SCAN_INTERVAL;
        loop {
            let now = Instant::now();
            while answers < MAX_ANSWERS
                && let Some((work, request)) = self.state().next_answers(now)
            {
                answers += 1;
                requests.push(send(&subscriber, work, request));
            }
            if due.is_empty() && now >= scan_at {
                due = self.due(now);
                scan_at = now + SCAN_INTERVAL;
            }
            while extensions < MAX_EXTENSIONS
                && let Some((work, request)) = self.next_extension(&mut due)
            {
                extensions += 1;
                requests.push(send(&subscriber, work, request));
            }
            let mut wake_at = if due.is_empty() { scan_at } else { now + SCAN_INTERVAL };
            {
                let state = self.state();
                if answers == 0 && state.is_closed() {
                    return;
                }
                if answers < MAX_ANSWERS {
                    let send_at = [state.acks.send_at, state.nacks.send_at];
                    wake_at = send_at.into_iter().flatten().fold(wake_at, Instant::min);
                }
            }
            tokio::select! {
                Some(done) = requests.next(), if !requests.is_empty() => {
                    match &done.work {
                        Work::Answers(..) => answers -= 1,
                        Work::Extension(..) => extensions -= 1,
                    }
                    self.finish(done);
                }
                () = self.0.changed.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Returns the numbers of the leases that end before the next check but one.
    fn due(&self, now: Instant) -> VecDeque<u64> {
        let soon = now + SCAN_INTERVAL + EXTENSION_BUFFER;
        let lasts = |at: Instant| at + self.0.extension > soon;
        let state = self.state();
        let leases = state.held.iter();
        let due =
            leases.filter(|(_, lease)| lease.end >= now && !lease.extended_at.is_some_and(lasts));
        due.map(|(number, _)| *number).collect()
    }

    /// Returns the next request for leases that are due. Messages may have been settled meanwhile.
    fn next_extension(&self, due: &mut VecDeque<u64>) -> Option<(Work, Request)> {
        let state = self.state();
        let (mut numbers, mut ack_ids) = (Vec::new(), Vec::new());
        while numbers.len() < MAX_IDS
            && let Some(number) = due.pop_front()
        {
            if let Some(lease) = state.held.get(&number) {
                numbers.push(number);
                ack_ids.push(lease.ack_id.clone());
            }
        }
        let request = Request::Lease(ack_ids, self.0.extension);
        (!numbers.is_empty()).then(|| (Work::Extension(numbers, Instant::now()), request))
    }

    fn finish(&self, Done { work, outcome }: Done) {
        if let Err(status) = &outcome {
            debug!(code = ?status.code(), error = status.message(), "a request about leases failed");
        }
        match work {
            Work::Answers(verdict, answers) => {
                if let Err(status) = outcome {
                    self.answers_failed(verdict, answers, &status);
                }
            }
            Work::Extension(numbers, began) => self.extended(&numbers, began, outcome),
        }
    }

    /// Sends answers again if that can help. The others are lost: their messages are redelivered.
    fn answers_failed(&self, verdict: Verdict, answers: Vec<Answer>, status: &Status) {
        let now = Instant::now();
        let failures = failures(status.details());
        let mut again = Vec::new();
        for answer in answers {
            let is_transient = match failures.get(&answer.ack_id) {
                Some(failure) => failure.starts_with(TRANSIENT),
                // Ids that are not named were accepted.
                None if !failures.is_empty() => continue,
                None => is_transient(status.code()),
            };
            if is_transient && answer.give_up_at > now {
                again.push(answer);
            } else if answer.is_exactly_once && verdict == Verdict::Ack {
                self.0.metrics.lost_acks.inc();
            }
        }
        if again.is_empty() {
            return;
        }
        let mut state = self.state();
        let queue = match verdict {
            Verdict::Ack => &mut state.acks,
            Verdict::Nack => &mut state.nacks,
        };
        again.into_iter().rev().for_each(|answer| queue.answers.push_front(answer));
        queue.send_at = Some(now + RETRY_DELAY);
    }

    fn extended(&self, numbers: &[u64], began: Instant, outcome: Result<(), Status>) {
        let mut state = self.state();
        let leases = |state: &mut State, change: &mut dyn FnMut(&mut Lease)| {
            for number in numbers {
                if let Some(lease) = state.held.get_mut(number) {
                    change(lease);
                }
            }
        };
        let Err(status) = outcome else {
            leases(&mut state, &mut |lease| lease.extended_at = Some(began));
            return;
        };
        let failures = failures(status.details());
        if failures.is_empty() {
            // The next check finds the leases again.
            return;
        }
        leases(&mut state, &mut |lease| match failures.get(&lease.ack_id) {
            None => lease.extended_at = Some(began),
            Some(failure) if failure.starts_with(TRANSIENT) => {}
            // The lease has ended. The message is redelivered.
            Some(_) => lease.end = began,
        });
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.is_closing && self.acks.answers.is_empty() && self.nacks.answers.is_empty()
    }

    /// Returns the next request with acks or nacks, if one is due.
    fn next_answers(&mut self, now: Instant) -> Option<(Work, Request)> {
        let is_closing = self.is_closing;
        let ids = |answers: &[Answer]| answers.iter().map(|answer| answer.ack_id.clone()).collect();
        if let Some(acks) = self.acks.take(now, is_closing) {
            let request = Request::Acknowledge(ids(&acks));
            return Some((Work::Answers(Verdict::Ack, acks), request));
        }
        let nacks = self.nacks.take(now, is_closing)?;
        let request = Request::Lease(ids(&nacks), Duration::ZERO);
        Some((Work::Answers(Verdict::Nack, nacks), request))
    }
}

impl Queue {
    fn take(&mut self, now: Instant, is_closing: bool) -> Option<Vec<Answer>> {
        let send_at = self.send_at?;
        // Answers that failed wait for the time of their next attempt.
        let is_full = self.answers.len() >= MAX_IDS && send_at <= now + FLUSH_DELAY;
        if !is_full && now < send_at && !(is_closing && send_at <= now + FLUSH_DELAY) {
            return None;
        }
        let rest = self.answers.split_off(self.answers.len().min(MAX_IDS));
        let taken = mem::replace(&mut self.answers, rest);
        if self.answers.is_empty() {
            self.send_at = None;
        }
        Some(taken.into()).filter(|taken: &Vec<_>| !taken.is_empty())
    }
}

/// Sends a request. A call that is cut off replaces the client.
fn send(
    subscriber: &Renewable<Subscriber>,
    work: Work,
    request: Request,
) -> BoxFuture<'static, Done> {
    let subscriber = subscriber.clone();
    Box::pin(async move {
        let called = timeout(CALL_TIMEOUT, async {
            let client = subscriber.lease().await;
            let client = client.map_err(|error| Status::unavailable(format!("{error:#}")))?;
            let outcome = client.call(request).await;
            client.done();
            outcome
        });
        let late = |_| Status::deadline_exceeded("no answer in time");
        let outcome = called.await.map_err(late).flatten();
        Done { work, outcome }
    })
}

/// Begin of a failure after which the same request can succeed.
const TRANSIENT: &str = "TRANSIENT_FAILURE_";

/// The parts of a `google.rpc.Status` that are read.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// A `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The parts of a `google.rpc.ErrorInfo` that are read.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

/// Returns the failures that Pub/Sub names by their ids in the details of a status, as it does for
/// exactly-once delivery. Details of another form name none.
fn failures(details: &[u8]) -> HashMap<String, String> {
    let status = RpcStatus::decode(details).unwrap_or_default();
    let infos = status.details.iter();
    let infos = infos.filter(|detail| detail.type_url.ends_with("/google.rpc.ErrorInfo"));
    let named = infos.filter_map(|detail| ErrorInfo::decode(detail.value.as_slice()).ok());
    let named = named.flat_map(|info| info.metadata);
    named
        .filter(|(_, failure)| {
            failure.starts_with(TRANSIENT) || failure.starts_with("PERMANENT_FAILURE_")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use tonic::Code;

    use super::*;

    const EXTENSION: Duration = Duration::from_secs(60);

    fn leases() -> (Leases, SourceMetrics) {
        let metrics = SourceMetrics::default();
        let max_lease = Duration::from_secs(300);
        let settings =
            Subscription { lease_extension: EXTENSION, max_lease, ..Subscription::default() };
        (Leases::new(&settings, metrics.clone()), metrics)
    }

    impl Leases {
        /// Takes leases with the ids `0`, `1` and so on.
        fn hold(&self, count: usize, is_exactly_once: bool) -> Vec<u64> {
            (0..count).map(|id| self.take(id.to_string(), is_exactly_once).0).collect()
        }

        /// Returns the ids that are acked and nacked next.
        fn sent(&self) -> Option<(Work, Vec<String>)> {
            let (work, request) = self.state().next_answers(Instant::now())?;
            let (Request::Acknowledge(ids) | Request::Lease(ids, _)) = request;
            Some((work, ids))
        }

        fn fail(&self, work: Work, status: Status) {
            self.finish(Done { work, outcome: Err(status) });
        }

        /// Extends what is due, and returns the ids.
        fn extend(&self) -> Vec<String> {
            let mut due = self.due(Instant::now());
            let mut extended = Vec::new();
            while let Some((work, request)) = self.next_extension(&mut due) {
                let Request::Lease(ids, EXTENSION) = request else { panic!("{request:?}") };
                assert!(ids.len() <= MAX_IDS);
                extended.extend(ids);
                self.finish(Done { work, outcome: Ok(()) });
            }
            extended
        }
    }

    /// A status that names failures by id, as Pub/Sub does for exactly-once delivery.
    fn by_id(failures: &[(&str, &str)]) -> Status {
        let text = |(id, failure): &(&str, &str)| ((*id).to_owned(), (*failure).to_owned());
        let info = ErrorInfo { metadata: failures.iter().map(text).collect() };
        let type_url = "type.googleapis.com/google.rpc.ErrorInfo".into();
        let detail = Detail { type_url, value: info.encode_to_vec() };
        let details = RpcStatus { details: vec![detail] }.encode_to_vec();
        Status::with_details(Code::FailedPrecondition, "some failed", details.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_extended_before_it_ends_and_not_beyond_its_longest_time() {
        let (leases, _) = leases();
        leases.hold(2_500, false);

        assert_eq!(leases.extend().len(), 2_500, "the first lease may be shorter than ours");
        advance(EXTENSION - SCAN_INTERVAL * 2 - EXTENSION_BUFFER).await;
        assert_eq!(leases.extend(), [""; 0]);
        advance(SCAN_INTERVAL).await;
        assert_eq!(leases.extend().len(), 2_500);

        advance(Duration::from_secs(250)).await;
        assert_eq!(leases.extend(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_counts_from_its_begin_and_a_failed_one_not_at_all() {
        let (leases, _) = leases();
        leases.hold(1, false);
        let next = || leases.next_extension(&mut leases.due(Instant::now()));

        let (work, _) = next().unwrap();
        leases.fail(work, Status::unavailable("again"));
        let (work, _) = next().unwrap();
        advance(EXTENSION - SCAN_INTERVAL - EXTENSION_BUFFER).await;
        leases.finish(Done { work, outcome: Ok(()) });

        assert!(next().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_not_settled_is_extended() {
        let (leases, metrics) = leases();
        let numbers = leases.hold(3, false);
        assert_eq!(metrics.unsettled.get(), 3);
        let mut due = leases.due(Instant::now());

        leases.settle(numbers[0], Verdict::Ack);
        leases.settle(numbers[1], Verdict::Nack);
        let (_, request) = leases.next_extension(&mut due).unwrap();

        assert!(matches!(request, Request::Lease(ids, EXTENSION) if ids == ["2"]));
        assert_eq!(metrics.unsettled.get(), 1);
        leases.settle(numbers[2], Verdict::Ack);
        assert!(leases.next_extension(&mut [numbers[2]].into()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_wait_for_each_other_up_to_a_full_request() {
        let (leases, _) = leases();
        let numbers = leases.hold(1_500, false);

        numbers.iter().for_each(|number| leases.settle(*number, Verdict::Ack));

        assert_eq!(leases.sent().unwrap().1.len(), MAX_IDS);
        assert!(leases.sent().is_none());
        advance(FLUSH_DELAY).await;
        assert_eq!(leases.sent().unwrap().1.len(), 500);
        assert!(leases.sent().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_failed_is_sent_again_until_its_lease_has_ended() {
        for verdict in [Verdict::Ack, Verdict::Nack] {
            let (leases, _) = leases();
            let numbers = leases.hold(2, false);
            numbers.iter().for_each(|number| leases.settle(*number, verdict));
            leases.close();
            let (work, _) = leases.sent().unwrap();

            leases.fail(work, Status::unavailable("again"));
            assert!(leases.sent().is_none(), "not at once");
            assert!(!leases.state().is_closed());
            advance(RETRY_DELAY).await;
            let (work, ids) = leases.sent().unwrap();
            assert_eq!(ids, ["0", "1"]);

            advance(EXTENSION).await;
            leases.fail(work, Status::unavailable("again"));
            assert!(leases.sent().is_none() && leases.state().is_closed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_refused_for_good_is_not_sent_again() {
        for (is_exactly_once, verdict, lost) in
            [(false, Verdict::Ack, 0), (true, Verdict::Ack, 1), (true, Verdict::Nack, 0)]
        {
            let (leases, metrics) = leases();
            leases.settle(leases.hold(1, is_exactly_once)[0], verdict);
            leases.close();
            let (work, _) = leases.sent().unwrap();

            leases.fail(work, Status::not_found("no such subscription"));

            assert!(leases.state().is_closed());
            assert_eq!(metrics.lost_acks.get(), lost);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn acks_whose_failure_is_named_are_told_apart() {
        let (leases, metrics) = leases();
        let numbers = leases.hold(3, true);
        numbers.iter().for_each(|number| leases.settle(*number, Verdict::Ack));
        leases.close();
        let (work, _) = leases.sent().unwrap();

        let transient = ("1", "TRANSIENT_FAILURE_INVALID_ACK_ID");
        leases.fail(work, by_id(&[transient, ("2", "PERMANENT_FAILURE_INVALID_ACK_ID")]));

        assert_eq!(metrics.lost_acks.get(), 1);
        advance(RETRY_DELAY).await;
        assert_eq!(leases.sent().unwrap().1, ["1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_cannot_be_extended_is_left() {
        let (leases, _) = leases();
        leases.hold(3, true);
        let (work, _) = leases.next_extension(&mut leases.due(Instant::now())).unwrap();

        let transient = ("1", "TRANSIENT_FAILURE_OTHER");
        leases.fail(work, by_id(&[transient, ("2", "PERMANENT_FAILURE_INVALID_ACK_ID")]));
        advance(Duration::from_millis(1)).await;

        assert_eq!(leases.extend(), ["1"], "0 is extended, and 2 has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_settled_too_late_is_acked_and_not_nacked() {
        let (leases, metrics) = leases();
        let numbers = leases.hold(2, false);
        advance(Duration::from_secs(301)).await;

        leases.settle(numbers[0], Verdict::Nack);
        leases.settle(numbers[1], Verdict::Ack);
        advance(FLUSH_DELAY).await;

        let (work, ids) = leases.sent().unwrap();
        assert!(matches!(work, Work::Answers(Verdict::Ack, _)) && ids == ["1"]);
        assert!(leases.sent().is_none());
        assert_eq!(metrics.expired_leases.get(), 2);
    }
}
