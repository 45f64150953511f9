//! Writes one batch: attempts, splitting, refused records, and the settlement of every message in
//! it.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::bound::Reservation;
use crate::dead_letter::DeadLetters;
use crate::hops::{HopStep, Shown, Told};
use crate::intake::{AckHandle, Tracked};
use crate::keyed::Keyed;
use crate::lease_plan::{Deadline, LeasePlan};
use crate::metrics::Metrics;
use crate::panics;
use crate::shared::Shared;
use crate::suspects::Note;
use crate::{Event, Recovery, Refusal, Sink};

mod attempt;
mod dead_lettering;

use attempt::{Ending, Target};
pub(crate) use dead_lettering::GivenUp;

/// Time that a message is held before a nack.
///
/// Pub/Sub redelivers a nacked message at once if the subscription has no retry policy. Without
/// this pause, a failing message would be nacked and redelivered in a busy loop.
pub(crate) const HOLD: Duration = Duration::from_millis(500);

/// Smallest size in bytes at which a batch is split after a time-out. The size of a smaller batch
/// is not what makes its write slow.
const WORTH_SPLITTING: usize = 64 * 1024;

/// A closed batch. No record can join it any more.
pub(crate) struct Closed<S: Sink, E> {
    pub key: S::Key,
    pub encoded: S::EncodedBatch,
    pub entries: Vec<Entry<E>>,
    pub reservation: Reservation,
    pub bytes: usize,
    pub is_ordered: bool,
    pub note: Option<Note>,
}

/// A message whose record is in a batch.
#[derive(Debug)]
pub(crate) struct Entry<E> {
    handle: AckHandle,
    /// Boxed. A service that keeps no originals would otherwise reserve the space for one in every
    /// entry.
    original: Option<Box<E>>,
    /// Identity of an ordered message whose original is not kept.
    keyed: Option<Box<Keyed>>,
    publish_time: OffsetDateTime,
    /// Milliseconds from the ingest of the message to `publish_time`, if the ingest is known.
    upstream: Option<u32>,
    attempts: u32,
}

impl<E: Event> Entry<E> {
    pub(crate) fn new(tracked: Tracked<E>, keep_original: bool) -> Self {
        let Tracked { message, mut handle } = tracked;
        let (publish_time, attempts) = (message.publish_time(), message.attempts());
        let upstream = message.ingest_time().and_then(|ingest| {
            u32::try_from((publish_time - ingest).whole_milliseconds().max(0)).ok()
        });
        if keep_original {
            let original = Some(Box::new(message));
            return Self { handle, original, keyed: None, publish_time, upstream, attempts };
        }
        handle.permit.release_bytes();
        let keyed = Keyed::of(&message, handle.sequence).map(Box::new);
        Self { handle, original: None, keyed, publish_time, upstream, attempts }
    }

    /// Returns the identity of the message if it has an ordering key.
    pub(crate) fn keyed(&self) -> Option<Keyed> {
        match self.original.as_deref() {
            Some(original) => Keyed::of(original, self.handle.sequence),
            None => self.keyed.as_deref().cloned(),
        }
    }

    /// Bytes of memory that the message's settlement and its position in the order hold elsewhere.
    pub(crate) fn held_bytes(&self) -> usize {
        let keyed = self.keyed.as_deref().map_or(0, |keyed| {
            size_of::<Keyed>() + keyed.ordering_key.capacity() + keyed.id.capacity()
        });
        self.handle.settlement.held_bytes() + keyed
    }

    /// Returns the plan of the message's lease. Returns `None` if the message is settled.
    fn lease(&self) -> Option<LeasePlan> {
        let settlement = &self.handle.settlement;
        (!settlement.is_settled()).then(|| LeasePlan::of(settlement))
    }

    /// Returns true if the message was nacked while its batch went on.
    pub(crate) fn is_settled(&self) -> bool {
        self.handle.settlement.is_settled()
    }

    /// Returns true if each delivery of the message uses up an attempt.
    pub(crate) fn counts_attempts(&self) -> bool {
        self.handle.counts_attempts
    }

    /// Returns the number that identifies the message in the crash file.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.handle.fingerprint
    }

    /// Gives the message its own batch when it is put into a batch again.
    pub(crate) fn isolate(&mut self) {
        self.handle.max_batch = 1;
    }

    /// Returns the message as it was received, if it was kept.
    pub(crate) fn into_tracked(self) -> Result<Tracked<E>, Box<Self>> {
        match self.original {
            Some(message) => Ok(Tracked { message: *message, handle: self.handle }),
            None => Err(Box::new(self)),
        }
    }

    /// Tells the viewers that the message will be delivered again.
    pub(crate) fn show_nack(&self, shown: &Shown, reason: &'static str) {
        if let Some(owner) = self.handle.owner.as_deref().filter(|_| shown.is_watched()) {
            let reason = Some(reason);
            shown.tell(owner, HopStep::Nacked, || Told { reason, ..Told::default() });
        }
    }

    /// Asks the source to deliver the message again.
    pub(crate) fn nack(self) {
        self.handle.settlement.nack();
    }
}

/// A batch, or a part of one that was split.
struct Part<S: Sink, E> {
    encoded: S::EncodedBatch,
    entries: Vec<Entry<E>>,
    bytes: usize,
    /// True if the part may be split. False once the sink could not split it.
    can_split: bool,
}

impl<S: Sink, E: Event> Part<S, E> {
    /// Returns true if nobody waits for the part any more.
    fn is_settled(&self) -> bool {
        self.entries.iter().all(Entry::is_settled)
    }

    /// Splits the part into two halves. Returns the whole part as the error if that is impossible.
    fn split(mut self, sink: &S) -> Result<[Self; 2], Self> {
        let at = self.entries.len() / 2;
        let halves =
            (at > 0).then(|| panics::catch("split batch", || sink.split(&self.encoded, at)));
        let Some((first, second)) = halves.and_then(Result::ok).flatten() else {
            self.can_split = false;
            return Err(self);
        };
        let bytes = self.bytes / 2;
        let rest = self.entries.split_off(at);
        Ok([
            Self { encoded: first, entries: self.entries, bytes, can_split: true },
            Self { encoded: second, entries: rest, bytes: self.bytes - bytes, can_split: true },
        ])
    }
}

/// Writes batches and dead letters, and settles their messages.
pub(crate) struct Writer<'a, T, S, D, E> {
    shared: &'a Shared<T, S, D>,
    event: PhantomData<fn() -> E>,
}

/// Messages of a batch that must be nacked, in order.
pub(crate) struct Unwritten<E> {
    pub entries: Vec<Entry<E>>,
    pub reason: &'static str,
    pub reservation: Reservation,
}

impl<'a, T, S: Sink, D: DeadLetters<E>, E: Event> Writer<'a, T, S, D, E> {
    pub(crate) fn new(shared: &'a Shared<T, S, D>) -> Self {
        Self { shared, event: PhantomData }
    }

    /// Writes a batch until each of its messages is acked or durable in the dead letters, or must be
    /// nacked.
    ///
    /// Returns the messages that must be nacked, if there are any. The caller does it, so that the
    /// delay before a nack does not take the place of a write. Two kinds are nacked here: messages that
    /// the dead letters did not take, and a part of an unordered batch whose other parts must still be
    /// written.
    pub(crate) async fn settle_batch(&self, closed: Closed<S, E>) -> Option<Unwritten<E>> {
        let Closed { key, encoded, entries, reservation, bytes, is_ordered, note: _ } = closed;
        let mut parts: Vec<Part<S, E>> = vec![Part { encoded, entries, bytes, can_split: true }];
        while let Some(mut part) = parts.pop() {
            nack_early(part.entries.iter_mut(), self.shared);
            if part.is_settled() {
                continue;
            }
            match self.attempt_part(&key, &mut part, &mut parts).await {
                Ending::Durable(refusals) => {
                    self.shared.metrics.sent_bytes.inc_by(part.bytes as u64);
                    let destination = self.destination(&part.encoded);
                    self.settle_written(part.entries, refusals, destination.as_deref()).await;
                }
                Ending::TooSlow => {
                    let records = part.entries.len();
                    debug!(?key, records, "splitting a batch that took too long");
                    match part.split(&self.shared.sink) {
                        Ok([first, second]) => parts.extend([second, first]),
                        Err(whole) => parts.push(whole),
                    }
                }
                Ending::Failed(error) => match error.recovery() {
                    Recovery::Reject(reason) => match part.split(&self.shared.sink) {
                        Ok([first, second]) => {
                            debug!(?key, reason = reason.as_str(), "splitting a refused batch");
                            parts.extend([second, first]);
                        }
                        Err(culprit) => {
                            let detail = || error.detail();
                            let entries = culprit.entries.into_iter();
                            self.dead_letter_all(entries.map(|entry| GivenUp {
                                entry,
                                reason,
                                detail: detail(),
                            }))
                            .await;
                        }
                    },
                    Recovery::Stop => {
                        self.shared.fail(error);
                        let entries = self.unwritten(part, std::mem::take(&mut parts));
                        return Some(Unwritten { entries, reason: "stop", reservation });
                    }
                    retry @ (Recovery::Retry | Recovery::Nack) => {
                        let reason = if retry == Recovery::Retry { "lease" } else { "asked" };
                        // In an ordered batch, the parts behind this one would overtake it.
                        let behind = parts.extract_if(.., |_| is_ordered).collect();
                        let entries = self.unwritten(part, behind);
                        if parts.is_empty() {
                            return Some(Unwritten { entries, reason, reservation });
                        }
                        // None of them is ordered, so the lane need not know of them.
                        let _keyed = self.nack_later(entries, reason).await;
                    }
                },
            }
        }
        None
    }

    /// Attempts to write a part of a batch. Meanwhile it nacks messages whose short leases end, also
    /// those of the parts that wait.
    async fn attempt_part(
        &self,
        key: &S::Key,
        part: &mut Part<S, E>,
        waiting: &mut [Part<S, E>],
    ) -> Ending {
        let attempt_timeout = self.shared.limits.attempt_timeout;
        let Part { encoded, entries, bytes, can_split } = part;
        let leases = entries.iter().filter_map(Entry::lease);
        let (deadline, first_short) = Deadline::of_batch(leases, attempt_timeout);
        // If all leases are short and end together, the deadline is theirs.
        let own: &mut [Entry<E>] = if first_short.is_some() { entries } else { &mut [] };
        let mut nack_early = || {
            let waiting = waiting.iter_mut().flat_map(|part| &mut part.entries);
            nack_early(own.iter_mut().chain(waiting), self.shared)
        };
        let mut nack_at = nack_early();
        let can_split = *can_split && *bytes > WORTH_SPLITTING;
        let mut attempt =
            pin!(self.attempt(Target { key, encoded, bytes: *bytes, deadline, can_split }));
        while let Some(at) = nack_at {
            match timeout_at(at, &mut attempt).await {
                Ok(ending) => return ending,
                Err(_) => nack_at = nack_early(),
            }
        }
        attempt.await
    }

    /// Returns the destination of a batch for people, while somebody watches.
    fn destination(&self, batch: &S::EncodedBatch) -> Option<String> {
        let describe = || self.shared.sink.destination(batch);
        let is_watched = self.shared.shown.is_watched();
        is_watched.then(|| panics::catch("describe batch", describe).ok()).flatten().flatten()
    }

    async fn settle_written(
        &self,
        entries: Vec<Entry<E>>,
        mut refusals: Vec<Refusal>,
        destination: Option<&str>,
    ) {
        refusals.sort_unstable_by_key(|refusal| refusal.index);
        refusals.dedup_by_key(|refusal| refusal.index);
        let mut refusals = refusals.into_iter().peekable();
        let mut refused = Vec::new();
        let mut sent = 0;
        let now = OffsetDateTime::now_utc();
        for (index, entry) in entries.into_iter().enumerate() {
            if let Some(refusal) = refusals.next_if(|refusal| refusal.index == index) {
                let Refusal { reason, detail, .. } = refusal;
                refused.push(GivenUp { entry, reason, detail });
                continue;
            }
            self.ack_written(entry, now, destination);
            sent += 1;
        }
        self.shared.metrics.sent.inc_by(sent);
        self.dead_letter_all(refused).await;
    }

    fn ack_written(&self, entry: Entry<E>, now: OffsetDateTime, destination: Option<&str>) {
        let Shared { metrics, shown, .. } = self.shared;
        let age = (now - entry.publish_time).as_seconds_f64().max(0.0);
        metrics.age.observe(age);
        if let Some(upstream) = entry.upstream {
            metrics.end_to_end_age.observe(age + f64::from(upstream) / 1000.0);
        }
        if let Some(owner) = entry.handle.owner.as_deref().filter(|_| shown.is_watched()) {
            shown.tell(owner, HopStep::Durable, || Told { destination, ..Told::default() });
        }
        entry.handle.settlement.ack();
    }

    /// Acks the messages of failed parts whose records are durable. Returns the others, in order.
    ///
    /// `behind` is a stack: its last part comes first after `first`.
    fn unwritten(&self, first: Part<S, E>, behind: Vec<Part<S, E>>) -> Vec<Entry<E>> {
        let now = OffsetDateTime::now_utc();
        let mut left = Vec::new();
        for part in std::iter::once(first).chain(behind.into_iter().rev()) {
            let written =
                panics::catch("list written records", || self.shared.sink.written(&part.encoded));
            let destination = self.destination(&part.encoded);
            let written: BTreeSet<usize> = written.unwrap_or_default().into_iter().collect();
            for (index, entry) in part.entries.into_iter().enumerate() {
                if written.contains(&index) {
                    self.ack_written(entry, now, destination.as_deref());
                    self.shared.metrics.sent.inc();
                } else if !entry.is_settled() {
                    left.push(entry);
                }
            }
        }
        left
    }

    /// Nacks these messages after a pause of [`HOLD`]. Returns the ordered ones among them.
    pub(crate) async fn nack_later(
        &self,
        entries: Vec<Entry<E>>,
        reason: &'static str,
    ) -> Vec<Keyed> {
        tokio::time::sleep(HOLD).await;
        Metrics::count(&self.shared.metrics.nacked, reason, entries.len());
        let shown = &self.shared.shown;
        entries.iter().for_each(|entry| entry.show_nack(shown, reason));
        let keyed = entries.iter().filter_map(Entry::keyed).collect();
        entries.into_iter().for_each(Entry::nack);
        keyed
    }
}

/// Nacks the messages whose short leases end now. Their records stay in their batches. Returns the
/// time of the next such nack.
pub(crate) fn nack_early<'e, T, S, D, E: Event>(
    entries: impl Iterator<Item = &'e mut Entry<E>>,
    shared: &Shared<T, S, D>,
) -> Option<Instant> {
    let (now, mut next, mut count) = (Instant::now(), None, 0);
    for entry in entries {
        match entry.lease() {
            Some(LeasePlan::Short { give_up_at, .. }) if give_up_at <= now => {
                entry.show_nack(&shared.shown, "lease");
                entry.handle.settlement.nack_early();
                count += 1;
            }
            Some(LeasePlan::Short { give_up_at: at, .. }) => {
                next = Some(next.map_or(at, |earlier: Instant| earlier.min(at)));
            }
            Some(LeasePlan::Endless | LeasePlan::Long { .. }) | None => {}
        }
    }
    if count > 0 {
        Metrics::count(&shared.metrics.nacked, "lease", count);
    }
    next
}
