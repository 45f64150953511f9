//! Writes messages that can never succeed to the dead letters.

use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::attempt::{Series, before, within};
use super::{Entry, hand_back};
use crate::dead_letter::{self, DeadLetter, DeadLetters, MAX_DETAIL_BYTES, Policy};
use crate::metrics::Metrics;
use crate::panics;
use crate::shared::Shared;
use crate::{Error, Recovery, Sink, Transform};
use message::{Message, trace};

/// Writes messages to the dead letters, one after another, each with its reason and a detail.
///
/// Messages that cannot be written there are nacked together at the end. Other messages of their
/// ordering keys do not wait for them, because their records will never be written.
pub(crate) async fn dead_letter_all<T, S, D>(
    shared: &Shared<T, S, D>,
    refused: impl IntoIterator<Item = (Entry, &'static str, String)>,
) where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    let mut left: Vec<(&'static str, Vec<Entry>)> = Vec::new();
    for (entry, reason, detail) in refused {
        let Err((entry, reason)) = dead_letter(shared, entry, reason, detail).await else {
            continue;
        };
        match left.last_mut() {
            Some((last, entries)) if *last == reason => entries.push(entry),
            _ => left.push((reason, vec![entry])),
        }
    }
    for (reason, entries) in left {
        hand_back(shared, entries, reason).await;
    }
}

/// Writes a message to the dead letters, and acknowledges it once it is durable there.
///
/// # Errors
/// Returns the message if it must be nacked, and the reason.
async fn dead_letter<T, S, D>(
    shared: &Shared<T, S, D>,
    entry: Entry,
    reason: &'static str,
    detail: String,
) -> Result<(), (Entry, &'static str)>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    let metrics = &shared.metrics;
    let (Policy::Write(dead_letters), Some(original)) = (&shared.dead_letters, &entry.original)
    else {
        let trace = entry.original.as_deref().and_then(trace::id);
        warn!(reason, detail, trace, "a message can never succeed");
        if matches!(shared.dead_letters, Policy::Drop) {
            Metrics::count(&metrics.dropped, reason, 1);
            entry.handle.settlement.ack();
            return Ok(());
        }
        return Err((entry, reason));
    };
    let letter = DeadLetter {
        service: shared.service,
        reason,
        detail: dead_letter::cut(detail, MAX_DETAIL_BYTES),
        attempts: entry.attempts,
        first_seen: entry.handle.first_seen,
        message: original,
    };
    let lease_end = entry.handle.settlement.lease_end();
    match write(shared, dead_letters, &letter, lease_end).await {
        Ok(()) => {
            shared.letter_outage.over();
            debug!(reason, trace = trace::id(original), "a message is in the dead letters");
            Metrics::count(&metrics.dead_lettered, reason, 1);
            entry.handle.settlement.ack();
            shared.gauge();
            Ok(())
        }
        Err(error) => {
            log_failure(original, reason, &error);
            let is_stop = error.recovery() == Recovery::Stop;
            if is_stop {
                shared.fail(error);
            }
            Err((entry, if is_stop { "stop" } else { "dead_letter_failed" }))
        }
    }
}

/// Writes a dead letter until it is durable or the lease of its message ends.
///
/// A dead letter that is refused is retried too. There is no other destination for it, and an
/// operator can repair the topic meanwhile.
async fn write<T, S, D>(
    shared: &Shared<T, S, D>,
    dead_letters: &D,
    letter: &DeadLetter<'_>,
    lease_end: Option<Instant>,
) -> Result<(), Error>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    let waits = shared.limits.retry.waits();
    let outage = shared.letter_outage.clone();
    let (what, action) = (letter.reason, "dead_letter");
    let mut series = Series { what, action, lease_end, waits, outage };
    let bytes = letter.message.size();
    loop {
        // Dead letters have their own turns, so that they do not wait behind writes that time out.
        let Some(turn) = before(lease_end, shared.letter_pace.turn()).await else {
            let late = "its lease has ended: it may have been delivered again";
            return Err(Recovery::Retry.because("write dead letter", late));
        };
        let limit = within(lease_end, turn.time_limit(bytes), shared);
        let started = Instant::now();
        let write = panics::catch_async("write dead letter", dead_letters.write(letter, limit));
        let error = match timeout(limit, write).await {
            Ok(Ok(())) => {
                turn.succeeded(bytes, started.elapsed());
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(late) => {
                turn.timed_out();
                Recovery::Retry.because("write dead letter", late)
            }
        };
        drop(turn);
        if error.recovery() == Recovery::Stop || !series.wait(shared, &error).await {
            return Err(error);
        }
    }
}

fn log_failure(original: &Message, reason: &'static str, error: &Error) {
    let (trace, error) = (trace::id(original), format!("{error:#}"));
    warn!(reason, trace, error, "a dead letter could not be written");
}
