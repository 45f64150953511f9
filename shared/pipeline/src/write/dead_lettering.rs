//! Gives messages up: those that can never succeed go to the dead letters, others back to the
//! source.

use futures::future::{join, join_all};
use tracing::{debug, warn};

use super::attempt::{Attempted, Paced, before};
use super::{Entry, Writer};
use crate::dead_letter::{self, DeadLetter, DeadLetters, MAX_DETAIL_BYTES, Policy};
use crate::event::trace_of;
use crate::hops::{HopStep, Told};
use crate::intake::Tracked;
use crate::keyed::Keyed;
use crate::lease_plan::{Deadline, LeasePlan};
use crate::metrics::Metrics;
use crate::retry::{Attempt, Failure, Report};
use crate::spacing::Spacing;
use crate::{Disposition, Error, Event, Reason, Recovery, Sink};

/// A message that can never succeed.
pub(crate) struct GivenUp<E> {
    pub entry: Entry<E>,
    pub reason: Reason,
    /// Exact cause.
    pub detail: String,
}

/// A message that the dead letters did not take. It must be nacked.
struct Undelivered<E> {
    entry: Entry<E>,
    reason: &'static str,
}

impl<T, S: Sink, D: DeadLetters<E>, E: Event> Writer<'_, T, S, D, E> {
    /// Settles a message that has no record: a rejected one goes to the dead letters, any other back to
    /// the source. Returns its identity if it is ordered and was nacked.
    pub(crate) async fn give_up(&self, tracked: Tracked<E>, error: Error) -> Vec<Keyed> {
        let (trace, text) = (trace_of(&tracked.message), format!("{error:#}"));
        let reason = match error.recovery() {
            Recovery::Reject(reason) => {
                let entry = Entry::new(tracked, true);
                self.dead_letter_all([GivenUp { entry, reason, detail: error.detail() }]).await;
                return Vec::new();
            }
            Recovery::Retry => {
                warn!(trace, error = text, "not possible now, handing the message back");
                "transform"
            }
            Recovery::Nack => {
                debug!(trace, error = text, "handing the message back");
                "asked"
            }
            Recovery::Stop => {
                self.shared.fail(error);
                "stop"
            }
        };
        self.nack_later(vec![Entry::new(tracked, false)], reason).await
    }

    /// Writes messages to the dead letters, each with its reason and a detail.
    ///
    /// They are written one after another. Those with a short lease are written beside the others,
    /// because they cannot wait.
    pub(crate) async fn dead_letter_all(&self, given_up: impl IntoIterator<Item = GivenUp<E>>) {
        let (mut short, mut others) = (Vec::new(), Vec::new());
        for given_up in given_up {
            match given_up.entry.lease() {
                Some(LeasePlan::Short { .. }) => short.push(given_up),
                Some(LeasePlan::Long { .. } | LeasePlan::Endless) => others.push(given_up),
                // Its source was told before, and delivers it again.
                None => {}
            }
        }
        let short = short.into_iter().map(|given_up| self.dead_letter_in_turn(vec![given_up]));
        join(join_all(short), self.dead_letter_in_turn(others)).await;
    }

    /// Writes messages to the dead letters, one after another.
    ///
    /// Messages that cannot be written there are nacked together at the end. Other messages of their
    /// ordering keys do not wait for them, because their records will never be written.
    async fn dead_letter_in_turn(&self, given_up: Vec<GivenUp<E>>) {
        let mut left: Vec<(&'static str, Vec<Entry<E>>)> = Vec::new();
        for given_up in given_up {
            let Err(Undelivered { entry, reason }) = self.dead_letter(given_up).await else {
                continue;
            };
            match left.last_mut() {
                Some((last, entries)) if *last == reason => entries.push(entry),
                _ => left.push((reason, vec![entry])),
            }
        }
        for (reason, entries) in left {
            self.nack_later(entries, reason).await;
        }
    }

    /// Writes a message to the dead letters, and settles it once it is durable there.
    ///
    /// # Errors
    /// Returns the message if it must be nacked, and the reason.
    async fn dead_letter(&self, given_up: GivenUp<E>) -> Result<(), Undelivered<E>> {
        let GivenUp { entry, reason, detail } = given_up;
        let shared = self.shared;
        let metrics = &shared.metrics;
        let (Policy::Write(dead_letters), Some(original)) =
            (&shared.dead_letters, entry.original.as_deref())
        else {
            let trace = entry.original.as_deref().and_then(trace_of);
            warn!(reason = reason.as_str(), detail, trace, "a message can never succeed");
            if matches!(shared.dead_letters, Policy::Drop) {
                Metrics::count_reason(&metrics.dropped, reason, 1);
                if let Some(owner) = entry.handle.owner.as_deref() {
                    let (reason, detail) = (Some(reason.as_str()), Some(&*detail));
                    let told = || Told { reason, detail, ..Told::default() };
                    shared.shown.tell(owner, HopStep::Dropped, told);
                }
                entry.handle.settlement.settle(Disposition::Dropped(reason));
                return Ok(());
            }
            return Err(Undelivered { entry, reason: reason.as_str() });
        };
        let dead_letter = DeadLetter {
            service: shared.service,
            reason,
            detail: dead_letter::cut(detail, MAX_DETAIL_BYTES),
            attempts: entry.attempts,
            first_seen: entry.handle.first_seen,
            message: original,
        };
        let attempt_timeout = shared.limits.attempt_timeout;
        let lease = LeasePlan::of(&entry.handle.settlement);
        match self.write(dead_letters, &dead_letter, lease.deadline(attempt_timeout)).await {
            Ok(()) => {
                shared.dead_letter_outage.over();
                let trace = trace_of(original);
                debug!(reason = reason.as_str(), trace, "a message is in the dead letters");
                Metrics::count_reason(&metrics.dead_lettered, reason, 1);
                shared.shown.dead_lettered(&dead_letter, || dead_letters.ids(&dead_letter));
                entry.handle.settlement.settle(Disposition::DeadLettered(reason));
                Ok(())
            }
            Err(error) => {
                log_failure(original, reason, &error);
                let is_stop = error.recovery() == Recovery::Stop;
                if is_stop {
                    shared.fail(error);
                }
                let reason = if is_stop { "stop" } else { "dead_letter_failed" };
                Err(Undelivered { entry, reason })
            }
        }
    }

    /// Writes a dead letter until it is durable or the lease of its message ends.
    ///
    /// A dead letter that is refused is retried too. There is no other destination for it, and an
    /// operator can repair the topic meanwhile.
    async fn write(
        &self,
        dead_letters: &D,
        dead_letter: &DeadLetter<'_, E>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let shared = self.shared;
        let paced = Paced {
            action: "write dead letter",
            // Their own turns, so that they do not wait behind writes that time out.
            pace: &shared.dead_letter_pace,
            bytes: dead_letter.message.size(),
            deadline,
        };
        let report = Report::Outage {
            what: &dead_letter.reason.as_str(),
            outage: &shared.dead_letter_outage,
        };
        let spacing = &shared.dead_letter_spacing;
        let write = WriteDeadLetter { dead_letters, dead_letter, spacing, paced };
        self.series("dead_letter", deadline, report).run(write).await
    }
}

/// The write of a dead letter.
struct WriteDeadLetter<'a, D, E> {
    dead_letters: &'a D,
    dead_letter: &'a DeadLetter<'a, E>,
    spacing: &'a Spacing,
    paced: Paced<'a>,
}

impl<D: DeadLetters<E>, E: Event> Attempt for WriteDeadLetter<'_, D, E> {
    type Done = ();

    async fn attempt(&mut self) -> Result<(), Failure> {
        // A turn that the lease cuts short is followed by an attempt that sees the end of the lease.
        let _cut = before(self.paced.deadline.end, self.spacing.turn()).await;
        match self.paced.attempt(|limit| self.dead_letters.write(self.dead_letter, limit)).await {
            Attempted::Done { reply: (), .. } => {
                self.spacing.succeeded();
                Ok(())
            }
            Attempted::Failed(error) if error.recovery() == Recovery::Stop => {
                Err(Failure::Final(error))
            }
            Attempted::Failed(error) | Attempted::TimedOut(error) => {
                self.spacing.failed();
                Err(Failure::Again(error))
            }
            Attempted::LeaseOver(error) => Err(Failure::Final(error)),
        }
    }
}

fn log_failure(original: &impl Event, reason: Reason, error: &Error) {
    let (trace, error) = (trace_of(original), format!("{error:#}"));
    warn!(reason = reason.as_str(), trace, error, "a dead letter could not be written");
}
