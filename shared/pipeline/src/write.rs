//! Writes one batch: attempts, splitting, refusals, and the settlement of every message in it.

use std::fmt::Debug;

use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::backoff::Waits;
use crate::bound::Share;
use crate::dead_letter::{self, DeadLetters, Letter, MAX_DETAIL_BYTES, Policy};
use crate::intake::{Duty, Parcel};
use crate::metrics::Metrics;
use crate::runner::Shared;
use crate::{Error, Message, Recovery, Refusal, Sink, Transform, trace};

/// A batch that no record can join any more.
pub(crate) struct Closed<S: Sink> {
    pub key: S::Key,
    pub sealed: S::Sealed,
    pub entries: Vec<Entry>,
    pub share: Share,
    pub bytes: usize,
    pub is_ordered: bool,
}

/// A message whose record is in a batch.
#[derive(Debug)]
pub(crate) struct Entry {
    duty: Duty,
    original: Option<Message>,
    publish_time: OffsetDateTime,
    attempts: u32,
}

impl Entry {
    pub(crate) fn new(parcel: Parcel, keep_original: bool) -> Self {
        let Parcel { message, mut duty } = parcel;
        let (publish_time, attempts) = (message.publish_time, message.attempts);
        if !keep_original {
            duty.permit.release_bytes();
        }
        Self { duty, original: keep_original.then_some(message), publish_time, attempts }
    }
}

/// How a series of attempts ended.
enum Ending {
    Durable(Vec<Refusal>),
    Failed(Error),
}

/// Writes a batch until each of its messages is acked, nacked or durable in the dead letters.
pub(crate) async fn settle_batch<T, S, D>(shared: &Shared<T, S, D>, closed: Closed<S>)
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    let Closed { key, sealed, entries, share, bytes, .. } = closed;
    let mut parts = vec![(sealed, entries)];
    while let Some((sealed, entries)) = parts.pop() {
        let lease_end = entries.iter().filter_map(|entry| entry.duty.settlement.lease_end()).min();
        match attempt(shared, &key, &sealed, lease_end).await {
            Ending::Durable(refusals) => settle_written(shared, entries, refusals).await,
            Ending::Failed(error) => match error.recovery() {
                Recovery::Reject(reason) => {
                    let at = entries.len() / 2;
                    let halves = (at > 0).then(|| shared.sink.split(&sealed, at)).flatten();
                    if let Some((first, second)) = halves {
                        debug!(?key, records = entries.len(), "splitting a refused batch");
                        let mut entries = entries;
                        let rest = entries.split_off(at);
                        parts.push((second, rest));
                        parts.push((first, entries));
                    } else {
                        bury_all(shared, entries, reason, &error.detail()).await;
                    }
                }
                Recovery::Retry => hand_back(shared, entries, "lease"),
                Recovery::HandBack => hand_back(shared, entries, "asked"),
                Recovery::Stop => {
                    shared.fail(error);
                    hand_back(shared, entries, "stop");
                }
            },
        }
    }
    shared.metrics.sent_bytes.inc_by(bytes as u64);
    drop(share);
}

/// Attempts a write until it succeeds, fails for good, or the lease of a message in it ends.
async fn attempt<T, S, D>(
    shared: &Shared<T, S, D>,
    key: &S::Key,
    sealed: &S::Sealed,
    lease_end: Option<Instant>,
) -> Ending
where
    T: Transform,
    S: Sink<Record = T::Record>,
{
    let mut waits = shared.limits.retry.waits();
    loop {
        let started = Instant::now();
        let written = timeout(
            shared.limits.attempt_timeout,
            shared.sink.write(sealed, shared.limits.attempt_timeout),
        )
        .await;
        let error = match written {
            Ok(Ok(refusals)) => {
                shared.outage.over();
                shared.metrics.write_duration.observe(started.elapsed().as_secs_f64());
                return Ending::Durable(refusals);
            }
            Ok(Err(error)) => error,
            Err(late) => Recovery::Retry.because("write batch", late),
        };
        if error.recovery() != Recovery::Retry
            || !wait_for_retry(shared, key, &error, (&mut waits, lease_end)).await
        {
            return Ending::Failed(error);
        }
    }
}

/// Waits before the next attempt; false when the lease would not last until then.
async fn wait_for_retry<T, S, D>(
    shared: &Shared<T, S, D>,
    what: &impl Debug,
    error: &Error,
    (waits, lease_end): (&mut Waits, Option<Instant>),
) -> bool
where
    T: Transform,
    S: Sink<Record = T::Record>,
{
    let wait = waits.next_wait();
    let is_new = shared.outage.began(format!("{error:#}"));
    if is_new {
        warn!(?what, error = format!("{error:#}"), ?wait, "write failed, trying again");
    } else {
        debug!(?what, error = format!("{error:#}"), ?wait, "write failed again");
    }
    Metrics::count(&shared.metrics.retried, "write", 1);
    let next_end = Instant::now() + wait + shared.limits.attempt_timeout;
    if lease_end.is_some_and(|end| next_end > end) {
        return false;
    }
    tokio::time::sleep(wait).await;
    true
}

async fn settle_written<T, S, D>(
    shared: &Shared<T, S, D>,
    entries: Vec<Entry>,
    mut refusals: Vec<Refusal>,
) where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    refusals.sort_unstable_by_key(|refusal| refusal.index);
    refusals.dedup_by_key(|refusal| refusal.index);
    let mut refusals = refusals.into_iter().peekable();
    let mut refused = Vec::new();
    let mut sent = 0;
    let now = OffsetDateTime::now_utc();
    for (index, entry) in entries.into_iter().enumerate() {
        if let Some(refusal) = refusals.next_if(|refusal| refusal.index == index) {
            refused.push((entry, refusal));
            continue;
        }
        shared.metrics.age.observe((now - entry.publish_time).as_seconds_f64().max(0.0));
        entry.duty.settlement.ack();
        sent += 1;
    }
    shared.metrics.sent.inc_by(sent);
    shared.gauge();
    for (entry, refusal) in refused {
        bury(shared, entry, refusal.reason, refusal.detail).await;
    }
}

async fn bury_all<T, S, D>(
    shared: &Shared<T, S, D>,
    entries: Vec<Entry>,
    reason: &'static str,
    detail: &str,
) where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    for entry in entries {
        bury(shared, entry, reason, detail.to_owned()).await;
    }
}

/// Brings a message to the dead letters, and acknowledges it when it is durable there.
pub(crate) async fn bury<T, S, D>(
    shared: &Shared<T, S, D>,
    entry: Entry,
    reason: &'static str,
    detail: String,
) where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    let metrics = &shared.metrics;
    let (Policy::Bury(dead_letters), Some(original)) = (&shared.dead_letters, &entry.original)
    else {
        let trace = entry.original.as_ref().and_then(trace::id);
        warn!(reason, detail, trace, "a message can never succeed");
        if matches!(shared.dead_letters, Policy::Drop) {
            Metrics::count(&metrics.dropped, reason, 1);
            entry.duty.settlement.ack();
        } else {
            hand_back(shared, vec![entry], reason);
        }
        return;
    };
    let letter = Letter {
        service: shared.service,
        reason,
        detail: dead_letter::cut(detail, MAX_DETAIL_BYTES),
        attempts: entry.attempts,
        first_seen: entry.duty.first_seen,
        message: original,
    };
    let lease_end = entry.duty.settlement.lease_end();
    let mut waits = shared.limits.retry.waits();
    loop {
        let buried = timeout(
            shared.limits.attempt_timeout,
            dead_letters.bury(&letter, shared.limits.attempt_timeout),
        )
        .await;
        let error = match buried {
            Ok(Ok(())) => break,
            Ok(Err(error)) => error,
            Err(late) => Recovery::Retry.because("write dead letter", late),
        };
        let may_retry = error.recovery() == Recovery::Retry;
        if !may_retry || !wait_for_retry(shared, &reason, &error, (&mut waits, lease_end)).await {
            let (trace, error) = (trace::id(original), format!("{error:#}"));
            warn!(reason, trace, error, "a dead letter could not be written");
            hand_back(shared, vec![entry], "dead_letter_failed");
            return;
        }
    }
    shared.outage.over();
    debug!(reason, trace = trace::id(original), "a message is in the dead letters");
    Metrics::count(&metrics.dead_lettered, reason, 1);
    entry.duty.settlement.ack();
    shared.gauge();
}

/// Asks the source to deliver these messages again.
fn hand_back<T, S, D>(shared: &Shared<T, S, D>, entries: Vec<Entry>, reason: &'static str)
where
    T: Transform,
    S: Sink<Record = T::Record>,
{
    Metrics::count(&shared.metrics.nacked, reason, entries.len());
    entries.into_iter().for_each(|entry| entry.duty.settlement.nack());
    shared.gauge();
}
